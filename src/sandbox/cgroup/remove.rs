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

/// The groups that could not be removed at once. Time comes from the caller, whose loop must not wait.
#[derive(Debug, Default)]
pub struct Removals {
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: GroupId,
    due: Instant,
    pause: Duration,
}

impl Removals {
    const FIRST_PAUSE: Duration = Duration::from_millis(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    /// Removes a group whose keeper was reaped, now or in a later [`Removals::retry`].
    pub fn push(&mut self, hierarchies: &Hierarchies, id: GroupId, now: Instant) -> io::Result<Removal> {
        let removal = hierarchies.remove(id)?;
        if removal == Removal::Busy {
            self.waiting.push(Waiting {
                id,
                due: now + Self::FIRST_PAUSE,
                pause: Self::FIRST_PAUSE,
            });
        }
        Ok(removal)
    }

    /// Tries again what is due. What fails with an error is given up and returned.
    pub fn retry(&mut self, hierarchies: &Hierarchies, now: Instant) -> Vec<(GroupId, io::Error)> {
        let mut failed = Vec::new();
        self.waiting.retain_mut(|waiting| {
            if waiting.due > now {
                return true;
            }
            // Nothing may live in it: who owned it is gone.
            let result = hierarchies
                .find(waiting.id)
                .kill()
                .and_then(|()| hierarchies.remove(waiting.id));
            match result {
                Ok(Removal::Gone) => false,
                Ok(Removal::Busy) => {
                    waiting.pause = (waiting.pause * 2).min(Self::LONGEST_PAUSE);
                    waiting.due = now + waiting.pause;
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
