//! The list of sessions whose last holder left. Bounded by the number of sessions: each is listed once.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::core::SessionRef;

#[derive(Debug, Default)]
pub(super) struct Attention {
    list: Mutex<Vec<SessionRef>>,
    wake: Notify,
}

impl Attention {
    pub(super) fn push(&self, session: SessionRef) {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(session);
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> Vec<SessionRef> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn listed(&self) {
        self.wake.notified().await;
    }
}
