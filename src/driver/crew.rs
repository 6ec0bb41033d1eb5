//! Who starts and ends workers.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::{Memory, SessionId, WorkerId};
use crate::worker::{KillSwitch, Logs, Make, Plan, Plans, Probes, Workers};

/// What the driver needs of [`Workers`]; a fake in tests.
pub trait Crew {
    /// Never fails here: the outcome arrives as an [`Event`](crate::worker::Event).
    fn start(&mut self, worker: WorkerId, make: &Make, session: Option<&SessionId>);
    /// Asks a ready worker from now on whether it is alive, in this way or not any more.
    fn watch(&mut self, worker: WorkerId, probes: Option<Probes>);
    /// SIGTERM.
    fn terminate(&mut self, worker: WorkerId);
    /// SIGKILL to the whole tree, now.
    fn kill(&mut self, worker: WorkerId);
    /// The same, from any thread and without asking the driver; `None`: only through it.
    fn kill_switch(&self, worker: WorkerId) -> Option<Arc<KillSwitch>>;
    /// The keeper's process id, as the host sees it.
    fn pid(&self, worker: WorkerId) -> Option<i32>;
    fn logs(&self, worker: WorkerId) -> Option<Arc<Logs>>;
    /// The sandboxes' plans that it was made with, one per kind of the first configuration.
    fn plans(&self) -> Plans;
    /// Other plans are in force: sandboxes may be made ahead by these, and by no others. `secret` are variables of herd's
    /// environment that no worker sees any more.
    fn renew(&mut self, plans: &[Arc<Plan>], secret: &BTreeSet<&str>);
    /// What this host has left for workers with a limit of memory, with all in mind that were started; `None`: what it told
    /// last is still good, or it cannot tell.
    fn memory(&mut self) -> Option<Memory>;
    /// Drops what is kept about a worker that is gone.
    fn forget(&mut self, worker: WorkerId);
}

impl Crew for Workers {
    fn start(&mut self, worker: WorkerId, make: &Make, session: Option<&SessionId>) {
        Workers::start(self, worker, make, session);
    }

    fn watch(&mut self, worker: WorkerId, probes: Option<Probes>) {
        Workers::watch(self, worker, probes);
    }

    fn terminate(&mut self, worker: WorkerId) {
        Workers::terminate(self, worker);
    }

    fn kill(&mut self, worker: WorkerId) {
        Workers::kill(self, worker);
    }

    fn kill_switch(&self, worker: WorkerId) -> Option<Arc<KillSwitch>> {
        Workers::kill_switch(self, worker)
    }

    fn pid(&self, worker: WorkerId) -> Option<i32> {
        Workers::pid(self, worker)
    }

    fn logs(&self, worker: WorkerId) -> Option<Arc<Logs>> {
        Workers::logs(self, worker)
    }

    fn plans(&self) -> Plans {
        Workers::plans(self).clone()
    }

    fn renew(&mut self, plans: &[Arc<Plan>], secret: &BTreeSet<&str>) {
        Workers::renew(self, plans, secret);
    }

    fn memory(&mut self) -> Option<Memory> {
        Workers::memory(self)
    }

    fn forget(&mut self, worker: WorkerId) {
        Workers::forget(self, worker);
    }
}
