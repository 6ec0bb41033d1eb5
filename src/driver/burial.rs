//! Sessions on their way into a history that survives herd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::handle::SessionView;

/// Endings that may wait to be written.
const WAITING: usize = 4096;

/// A session that has ended, with all there is to tell.
#[derive(Debug)]
pub struct Burial {
    pub view: SessionView,
    /// The worker's last lines, escaped. Not its whole output: thousands may wait.
    pub log: Vec<String>,
}

/// How many endings are not kept: they found no room, or could not be written.
#[derive(Debug, Default)]
pub struct Lost(AtomicU64);

impl Lost {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the driver puts them. It never waits: a disk may be slow, or hang.
#[derive(Debug)]
pub struct Burials {
    sender: SyncSender<Burial>,
    lost: Arc<Lost>,
}

impl Burials {
    pub fn channel() -> (Self, Receiver<Burial>) {
        let (sender, receiver) = sync_channel(WAITING);
        let lost = Arc::default();
        (Self { sender, lost }, receiver)
    }

    pub fn lost(&self) -> Arc<Lost> {
        Arc::clone(&self.lost)
    }

    /// Never waits.
    pub(crate) fn push(&self, burial: Burial) {
        if self.sender.try_send(burial).is_err() {
            self.lost.add();
        }
    }
}
