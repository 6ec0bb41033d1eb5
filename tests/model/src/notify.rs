//! What the models need of `tokio::sync::Notify`: one permit, kept until somebody takes it.

use loom::sync::{Condvar, Mutex};

#[derive(Debug)]
pub(crate) struct Notify {
    permit: Mutex<bool>,
    given: Condvar,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self {
            permit: Mutex::new(false),
            given: Condvar::new(),
        }
    }

    pub(crate) fn notify_one(&self) {
        *self.permit.lock().unwrap() = true;
        self.given.notify_one();
    }

    /// Blocks instead of suspending: every task of a model is a thread of its own.
    pub(crate) async fn notified(&self) {
        let mut permit = self.permit.lock().unwrap();
        while !*permit {
            permit = self.given.wait(permit).unwrap();
        }
        *permit = false;
    }
}
