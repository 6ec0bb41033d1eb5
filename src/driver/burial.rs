//! Sessions on their way into a history that survives herd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::handle::SessionView;
use crate::core::Generation;

/// Milestones that may wait to be written.
const WAITING: usize = 4096;

/// What the history tells of a session.
#[derive(Debug)]
pub enum Milestone {
    /// It has its worker. The herd after this one learns from it what was alive when this one died.
    Began(SessionView),
    Ended(Burial),
}

/// A session that has ended, with all there is to tell.
#[derive(Debug)]
pub struct Burial {
    pub view: SessionView,
    /// The worker's last lines, escaped. Not its whole output: thousands may wait.
    pub log: Vec<String>,
}

/// Endings that are not kept: they found no room, or could not be written.
#[derive(Debug, Default)]
pub struct Lost {
    count: AtomicU64,
    latest: AtomicU64,
}

impl Lost {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// No session of a higher generation is among them. Whoever is told of something that was handed over later knows of
    /// it, too.
    pub(crate) fn latest(&self) -> Generation {
        Generation(self.latest.load(Ordering::Acquire))
    }

    pub(crate) fn add(&self, generation: Generation) {
        self.latest.fetch_max(generation.0, Ordering::Release);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the driver puts them. It never waits: a disk may be slow, or hang.
#[derive(Debug)]
pub struct Burials {
    sender: SyncSender<Milestone>,
    lost: Arc<Lost>,
}

impl Burials {
    pub fn channel() -> (Self, Receiver<Milestone>) {
        let (sender, receiver) = sync_channel(WAITING);
        let lost = Arc::default();
        (Self { sender, lost }, receiver)
    }

    pub fn lost(&self) -> Arc<Lost> {
        Arc::clone(&self.lost)
    }

    /// Never waits. Where there is no room, no more is lost than that a killed herd's successor does not know of it.
    pub(crate) fn began(&self, view: SessionView) {
        let _ = self.sender.try_send(Milestone::Began(view));
    }

    /// Never waits.
    pub(crate) fn ended(&self, burial: Burial) {
        let generation = burial.view.session.generation;
        if self.sender.try_send(Milestone::Ended(burial)).is_err() {
            self.lost.add(generation);
        }
    }
}
