//! The configuration in force, for threads that look at it with every request: one atomic load tells that it is still
//! the one they know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Config;

/// See the module's documentation.
#[derive(Debug)]
pub struct Current {
    generation: AtomicU64,
    config: Mutex<Arc<Config>>,
}

impl Current {
    /// The first is generation 1.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            generation: AtomicU64::new(1),
            config: Mutex::new(config),
        }
    }

    /// Another number means another configuration.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn get(&self) -> (u64, Arc<Config>) {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        // Changed under the lock only, so the two belong together.
        (self.generation(), Arc::clone(&config))
    }

    /// Whoever looks after this has the new one.
    pub fn replace(&self, config: Arc<Config>) {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        *current = config;
        self.generation.fetch_add(1, Ordering::Release);
    }
}
