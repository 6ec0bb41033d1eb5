//! The list of sessions whose last holder left. Bounded by the number of sessions: each is listed once.

use super::sync::{AtomicBool, Mutex, MutexGuard, Notify, Ordering, PoisonError};

/// Whether a session is on the list. Set by whoever lists it, cleared by the owner before it looks.
#[derive(Debug)]
pub(super) struct Listed(AtomicBool);

impl Listed {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

#[derive(Debug)]
pub(super) struct Attention<T> {
    list: Mutex<Vec<T>>,
    wake: Notify,
}

impl<T> Attention<T> {
    pub(super) fn new() -> Self {
        Self {
            list: Mutex::new(Vec::new()),
            wake: Notify::new(),
        }
    }

    /// Asks the owner to look at the session, after what it is to see.
    pub(super) fn list(&self, listed: &Listed, session: impl FnOnce() -> T) {
        if !listed.0.swap(true, Ordering::AcqRel) {
            self.locked().push(session());
            self.wake.notify_one();
        }
    }

    /// Takes everything off the list and has the owner look at it.
    pub(super) fn attend(&self, listed: impl Fn(&T) -> &Listed, mut look: impl FnMut(T)) {
        let sessions = std::mem::take(&mut *self.locked());
        for session in sessions {
            // Before the look, so that whoever leaves after it lists the session anew. And a swap, not a store:
            // whoever found the session listed is ordered before this, so the look sees that it left. A
            // store may still be on its way while the look already reads, and then neither side acts.
            listed(&session).0.swap(false, Ordering::AcqRel);
            look(session);
        }
    }

    /// Resolves when something was listed.
    pub(super) async fn listed(&self) {
        self.wake.notified().await;
    }

    fn locked(&self) -> MutexGuard<'_, Vec<T>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
