//! Removing the groups of sandboxes that have ended, without ever waiting for one.

use std::io;
use std::time::{Duration, Instant};

use super::open::{GroupId, Hierarchies};

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Gone,
    /// Something in it is still dying; try again. The kernel may take a moment even after the last process was
    /// reaped.
    Busy,
}

impl Hierarchies {
    /// Removes a group everywhere. Nothing is left of it, or `Busy`; one that never existed is gone.
    pub fn remove(&self, id: GroupId) -> io::Result<Removal> {
        let name = id.name();
        let mut result = Removal::Gone;
        for parent in &self.parents {
            if parent.dir.remove(&name)? == Removal::Busy {
                result = Removal::Busy;
            }
        }
        Ok(result)
    }
}

/// The groups that are to be removed. Time comes from the caller, whose loop must not wait.
#[derive(Debug, Default)]
pub struct Removals {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: GroupId,
    due: Instant,
    pause: Duration,
    tried: bool,
}

impl Removals {
    const FIRST_PAUSE: Duration = Duration::from_millis(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);
    /// More than this many are behind.
    const BACKLOG: usize = 64;

    /// Has a group removed whose keeper was reaped, in a later [`Removals::retry`].
    pub fn push(&mut self, id: GroupId, now: Instant) {
        self.waiting.push(Waiting {
            id,
            due: now,
            pause: Self::FIRST_PAUSE,
            tried: false,
        });
    }

    /// So many that they have to be seen to even if there is something better to do.
    pub fn is_behind(&self) -> bool {
        self.waiting.len() > Self::BACKLOG
    }

    /// Tries what is due. What fails with an error is given up and returned.
    pub fn retry(&mut self, hierarchies: &Hierarchies, now: Instant) -> Vec<(GroupId, io::Error)> {
        let mut failed = Vec::new();
        self.waiting.retain_mut(|waiting| {
            if waiting.due > now {
                return true;
            }
            // As a rule nothing lives in it; and nothing may: who owned it is gone.
            let killed = match std::mem::replace(&mut waiting.tried, true) {
                true => hierarchies.find(waiting.id).kill(),
                false => Ok(()),
            };
            let result = killed.and_then(|()| hierarchies.remove(waiting.id));
            match result {
                Ok(Removal::Gone) => false,
                Ok(Removal::Busy) => {
                    waiting.due = now + waiting.pause;
                    waiting.pause = (waiting.pause * 2).min(Self::LONGEST_PAUSE);
                    true
                }
                Err(error) => {
                    failed.push((waiting.id, error));
                    false
                }
            }
        });
        failed
    }

    /// How long the caller's loop may sleep; `None` without anything to do.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let due = self.waiting.iter().map(|waiting| waiting.due).min()?;
        Some(due.saturating_duration_since(now))
    }
}
