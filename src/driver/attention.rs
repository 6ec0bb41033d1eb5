//! The list of sessions whose last holder left. Bounded by the number of sessions: each is listed once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::session::Session;

#[derive(Debug, Default)]
pub(super) struct Attention {
    list: Mutex<Vec<Arc<Session>>>,
    wake: Notify,
}

impl Attention {
    pub(super) fn push(&self, session: Arc<Session>) {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(session);
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn listed(&self) {
        self.wake.notified().await;
    }
}
