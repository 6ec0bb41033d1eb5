//! Sandboxes that wait for a worker: made ahead, so that a session that needs one does not wait for it.
//!
//! A *created* sandbox has its namespaces, files and limits, and a first process that waits to be told what to
//! run. It belongs to no session and counts as no worker: there is no program in it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::launcher::sandbox::{Ids, Slot};
use crate::launcher::{Keeper, NewSandbox};
use crate::sandbox::cgroup::GroupId;

use super::report::ReportReader;
use super::workers::Shared;

/// A sandbox and what is read from it.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) keeper: Arc<Keeper>,
    pub(super) reaped: oneshot::Receiver<()>,
    pub(super) report: ReportReader,
    pub(super) outputs: [OwnedFd; 2],
    /// Given back when the tree is reaped.
    pub(super) place: Place,
}

/// A sandbox's ids, as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    slot: Slot,
    slots: Weak<RefCell<Slots>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.upgrade() {
            slots.borrow_mut().taken.remove(&self.slot.0);
        }
    }
}

#[derive(Debug, Default)]
struct Slots {
    taken: BTreeSet<u32>,
}

impl Slots {
    /// The lowest that is free.
    fn take(&mut self, of: u32) -> Option<Slot> {
        let mut free = 0;
        for taken in &self.taken {
            if *taken != free {
                break;
            }
            free += 1;
        }
        (free < of).then(|| {
            self.taken.insert(free);
            Slot(free)
        })
    }
}

#[derive(Debug)]
pub(super) struct Stock {
    ids: Option<Ids>,
    slots: Rc<RefCell<Slots>>,
    next: Cell<u64>,
    /// One per kind; absent while it is being made, or if it could not be.
    created: RefCell<HashMap<usize, Created>>,
    /// Kinds for which one is being made.
    making: RefCell<HashSet<usize>>,
}

impl Stock {
    pub(super) fn new(ids: Option<Ids>) -> Self {
        Self {
            ids,
            slots: Rc::default(),
            next: Cell::new(0),
            created: RefCell::default(),
            making: RefCell::default(),
        }
    }

    /// One that was made ahead, if it is still alive.
    pub(super) fn take(&self, kind: usize) -> Option<Created> {
        let created = self.created.borrow_mut().remove(&kind)?;
        (!created.keeper.has_exited()).then_some(created)
    }

    fn place(&self) -> Result<Place, String> {
        let ids = self.ids.ok_or("sandboxes need namespaces, and there are none")?;
        let of = ids.slots();
        let slot = self.slots.borrow_mut().take(of);
        let slot = slot.ok_or_else(|| {
            format!("all {of} user ids for sandboxes are in use; enlarge this user's ranges in /etc/subuid and /etc/subgid")
        })?;
        Ok(Place {
            slot,
            slots: Rc::downgrade(&self.slots),
        })
    }
}

impl Shared {
    /// Has one made. It is not created yet when this returns: its report tells.
    pub(super) async fn create_sandbox(&self, kind: usize) -> Result<Created, String> {
        let place = self.stock.place()?;
        let number = self.stock.next.replace(self.stock.next.get() + 1);
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let (status, status_end) = pipe()?;
        let report = ReportReader::new(status).map_err(|e| e.to_string())?;
        let sandbox = NewSandbox {
            kind,
            slot: place.slot,
            dir: self.sandbox_dir.clone(),
            group: GroupId(number),
        };
        let (keeper, reaped) = self
            .client
            .create(sandbox, [out_end, err_end, status_end])
            .await
            .map_err(|e| e.to_string())?;
        Ok(Created {
            keeper: Arc::new(keeper),
            reaped,
            report,
            outputs: [out, err],
            place,
        })
    }

    /// Makes one ahead for the kind, unless there is one. A failure is told by the next start, which meets it, too.
    pub(super) async fn stock_up(&self, kind: usize) {
        // Sessions that start together each ask for one.
        if self.stock.created.borrow().contains_key(&kind) || !self.stock.making.borrow_mut().insert(kind) {
            return;
        }
        match self.create_sandbox(kind).await {
            Ok(mut created) => match created.report.created().await {
                Ok(()) => {
                    self.stock.created.borrow_mut().entry(kind).or_insert(created);
                }
                Err(e) => {
                    tracing::debug!("cannot make a sandbox ahead: {e}");
                    // Its ids are free when it is gone.
                    let _ = created.reaped.await;
                }
            },
            Err(e) => tracing::debug!("cannot make a sandbox ahead: {e}"),
        }
        self.stock.making.borrow_mut().remove(&kind);
    }
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), String> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|e| format!("cannot make a pipe for the worker: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_place_is_the_next_to_be_taken_and_all_are_used() {
        let mut slots = Slots::default();
        assert_eq!(slots.take(3), Some(Slot(0)));
        assert_eq!(slots.take(3), Some(Slot(1)));
        assert_eq!(slots.take(3), Some(Slot(2)));
        assert_eq!(slots.take(3), None);
        slots.taken.remove(&1);
        assert_eq!(slots.take(3), Some(Slot(1)));
    }
}
