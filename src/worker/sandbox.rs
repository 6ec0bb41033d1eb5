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

use crate::launcher::sandbox::{Ids, Plan, PlanId, Slot};
use crate::launcher::{Keeper, NewSandbox};
use crate::sandbox::cgroup::GroupId;

use super::lacking::Lacking;
use super::report::ReportReader;
use super::workers::Shared;

/// A sandbox and what is read from it.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) keeper: Arc<Keeper>,
    pub(super) reaped: oneshot::Receiver<()>,
    pub(super) report: ReportReader,
    pub(super) outputs: [OwnedFd; 2],
    /// Where its limits are kept.
    pub(super) group: GroupId,
    /// Given back when the tree is reaped.
    pub(super) place: Place,
}

/// A sandbox's ids, as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    slot: Slot,
    slots: Weak<RefCell<Slots>>,
}

impl Created {
    /// Nobody will use it. Its ids are free when it is gone.
    pub(super) async fn let_go(self) {
        if let Err(e) = self.keeper.kill() {
            tracing::error!("cannot kill a sandbox that nobody uses: {e}");
        }
        // An error means that the launcher is gone, and the sandbox with it.
        let _ = self.reaped.await;
        drop(self.place);
    }
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
    /// By these, and no others, sandboxes are made ahead.
    plans: RefCell<BTreeSet<PlanId>>,
    /// One per plan; absent while it is being made, or if it could not be.
    created: RefCell<HashMap<PlanId, Created>>,
    /// Plans by which one is being made.
    making: RefCell<HashSet<PlanId>>,
}

impl Stock {
    pub(super) fn new(ids: Option<Ids>, plans: &[Arc<Plan>]) -> Self {
        Self {
            ids,
            plans: RefCell::new(plans.iter().map(|plan| plan.id()).collect()),
            slots: Rc::default(),
            next: Cell::new(0),
            created: RefCell::default(),
            making: RefCell::default(),
        }
    }

    /// One that was made ahead, if it is still alive.
    pub(super) fn take(&self, plan: &Plan) -> Option<Created> {
        let created = self.created.borrow_mut().remove(&plan.id())?;
        (!created.keeper.has_exited()).then_some(created)
    }

    /// Other plans from now on; what was made ahead by those that are none any more.
    pub(super) fn renew(&self, plans: BTreeSet<PlanId>) -> Vec<Created> {
        let mut created = self.created.borrow_mut();
        let unwanted: Vec<PlanId> = created
            .keys()
            .filter(|plan| !plans.contains(plan))
            .copied()
            .collect();
        *self.plans.borrow_mut() = plans;
        unwanted
            .into_iter()
            .filter_map(|plan| created.remove(&plan))
            .collect()
    }

    fn wants(&self, plan: PlanId) -> bool {
        self.plans.borrow().contains(&plan)
    }

    fn place(&self) -> Result<Place, Lacking> {
        let of = self.ids.ok_or(Lacking::Namespaces)?.slots();
        let slot = self.slots.borrow_mut().take(of).ok_or(Lacking::Ids { of })?;
        Ok(Place {
            slot,
            slots: Rc::downgrade(&self.slots),
        })
    }
}

impl Shared {
    /// Has one made. It is not created yet when this returns: its report tells.
    pub(super) async fn create_sandbox(&self, plan: &Arc<Plan>) -> Result<Created, Lacking> {
        let place = self.stock.place()?;
        let number = self.stock.next.replace(self.stock.next.get() + 1);
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let (status, status_end) = pipe()?;
        let report = ReportReader::new(status).map_err(Lacking::Pipe)?;
        let group = GroupId(number);
        let sandbox = NewSandbox {
            plan: Arc::clone(plan),
            slot: place.slot,
            dir: self.sandbox_dir.clone(),
            group,
        };
        let (keeper, reaped) = self
            .client
            .create(sandbox, [out_end, err_end, status_end])
            .await?;
        Ok(Created {
            keeper: Arc::new(keeper),
            reaped,
            report,
            outputs: [out, err],
            group,
            place,
        })
    }

    /// As [`Self::stock`]. A failure is told by the next start, which meets it, too.
    pub(super) async fn stock_up(&self, plan: &Arc<Plan>) {
        if let Err(e) = self.stock(plan).await {
            tracing::debug!("cannot make a sandbox ahead: {e}");
        }
    }

    /// Makes one ahead by this plan, unless there is one.
    pub(super) async fn stock(&self, plan: &Arc<Plan>) -> Result<(), Lacking> {
        let id = plan.id();
        // A worker that was started by a former plan asks for another of its sort.
        if !self.stock.wants(id) {
            return Ok(());
        }
        // Sessions that start together each ask for one.
        if self.stock.created.borrow().contains_key(&id) || !self.stock.making.borrow_mut().insert(id) {
            return Ok(());
        }
        let made = match self.create_sandbox(plan).await {
            Ok(created) => self.keep(id, created).await,
            Err(e) => Err(e),
        };
        self.stock.making.borrow_mut().remove(&id);
        made
    }

    /// Waits until it is created.
    async fn keep(&self, plan: PlanId, mut created: Created) -> Result<(), Lacking> {
        match created.report.created().await {
            Ok(()) if self.stock.wants(plan) => {
                self.stock.created.borrow_mut().entry(plan).or_insert(created);
                Ok(())
            }
            Ok(()) => {
                created.let_go().await;
                Ok(())
            }
            Err(message) => {
                // Its ids are free when it is gone.
                let _ = created.reaped.await;
                Err(Lacking::Sandbox(message))
            }
        }
    }
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Lacking> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| Lacking::Pipe(e.into()))
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
