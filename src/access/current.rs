//! The configuration in force and whom it lets in, for threads that look at it with every request: one atomic load tells
//! that it is still the one they know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Access;
use crate::config::Config;

/// A configuration and its principals, which belong together: principals name kinds by the numbers that they have in it.
#[derive(Debug, Clone)]
pub struct InForce {
    pub config: Arc<Config>,
    /// `None`: it has no `auth`, and everyone may.
    pub access: Option<Arc<Access>>,
}

/// Of a configuration without `auth`.
impl From<Arc<Config>> for InForce {
    fn from(config: Arc<Config>) -> Self {
        Self { config, access: None }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Current {
    generation: AtomicU64,
    in_force: Mutex<InForce>,
}

impl Current {
    /// The first is generation 1.
    pub fn new(in_force: InForce) -> Self {
        Self {
            generation: AtomicU64::new(1),
            in_force: Mutex::new(in_force),
        }
    }

    /// Another number means another configuration.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn get(&self) -> (u64, InForce) {
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        // Changed under the lock only, so the two belong together.
        (self.generation(), in_force.clone())
    }

    /// Whoever looks after this has the new one.
    pub fn replace(&self, in_force: InForce) {
        let mut current = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *current = in_force;
        self.generation.fetch_add(1, Ordering::Release);
    }
}
