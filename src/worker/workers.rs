//! All workers of this herd: the handle that the driver drives.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::core::{Memory, SessionId, WorkerId};
use crate::launcher::sandbox::{Plan, PlanId, Plans};
use crate::launcher::{Client, Keeper, Lost};
use crate::sandbox::cgroup::{GroupId, Hierarchies};
use crate::sys::process::Census;

use super::environment;
use super::kill::KillSwitch;
use super::liveness::{self, Probes, Vigil};
use super::logs::Logs;
use super::memory::{Promise, Scales};
use super::ports::Ports;
use super::sandbox::Stock;
use super::start::Life;
use super::state_dir::StateDir;
use super::{Event, Make};

/// Starts, ends and remembers workers. Lives on one thread, inside a `LocalSet`; dropping it ends every worker
/// with the launcher.
#[derive(Debug)]
pub struct Workers {
    shared: Rc<Shared>,
    lost: watch::Receiver<Option<Lost>>,
    scales: Scales,
    /// One per worker, and one that hears the launcher.
    tasks: JoinSet<()>,
}

/// What the tasks of all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) state: StateDir,
    pub(super) ports: RefCell<Ports>,
    pub(super) own_env: RefCell<Vec<(String, String)>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) stock: Stock,
    /// Where keepers build sandboxes: over the state directory, each in a mount namespace of its own. Nobody removes
    /// it, which would take the mount away, and nobody has to.
    pub(super) sandbox_dir: String,
    slots: RefCell<HashMap<WorkerId, Slot>>,
    /// Liveness probes that may be under way.
    probes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Slot {
    logs: Arc<Logs>,
    tree: Tree,
    /// When the driver decided to kill it while there was nothing to kill.
    doomed: Option<Instant>,
    watch: Watch,
    /// Of memory, if it has a limit.
    promise: Option<Promise>,
    reaped: Option<Instant>,
}

/// Whether it is asked if it is alive.
#[derive(Debug)]
enum Watch {
    Off,
    On(#[expect(dead_code, reason = "it watches as long as it is there")] Vigil),
    /// It was told to end, or has.
    Over,
}

#[derive(Debug)]
enum Tree {
    /// No process yet, or between two tries.
    Pending {
        terminate: Terminate,
    },
    Alive(Arc<KillSwitch>),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminate {
    NotAsked,
    Asked,
}

/// A kill that was decided.
#[derive(Debug)]
pub(super) struct Kill {
    /// From the decision until the tree was reaped; zero as long as it is not.
    pub(super) decided: Instant,
    pub(super) took: Duration,
    pub(super) census: Census,
}

impl Workers {
    /// `events` hears of every worker; `secret` are the variables of herd's environment that none sees. Has to be called inside a `LocalSet`.
    pub fn new(
        client: Client,
        state: StateDir,
        ports: RangeInclusive<u16>,
        secret: &BTreeSet<&str>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let sandbox_dir = state.path().to_str().unwrap_or_default().to_owned();
        let plans: Vec<Arc<Plan>> = client.plans().iter().flatten().cloned().collect();
        let stock = Stock::new(client.ids(), &plans);
        let shared = Rc::new(Shared {
            stock,
            sandbox_dir,
            client,
            state,
            ports: RefCell::new(Ports::new(ports)),
            own_env: RefCell::new(environment::own(secret)),
            events,
            slots: RefCell::default(),
            probes: Arc::new(Semaphore::new(liveness::AT_ONCE)),
        });
        let (tell, lost) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let listening = Rc::clone(&shared);
        tasks.spawn_local(async move {
            let lost = listening.client.listen().await;
            tell.send_replace(Some(lost));
        });
        Self {
            shared,
            lost,
            scales: Scales::default(),
            tasks,
        }
    }

    /// With the groups in which sandboxes' use of memory is counted.
    #[must_use]
    pub fn counted_in(mut self, groups: Arc<Hierarchies>) -> Self {
        self.scales = Scales::new(groups);
        self
    }

    /// What this host has left for workers with a limit of memory, unless it was read just now.
    pub fn memory(&mut self) -> Option<Memory> {
        let slots = self.shared.slots.borrow();
        self.scales.weigh(slots.values().filter_map(|slot| slot.promise))
    }

    /// Makes the first sandbox of each kind that has any; the kinds, by their place, for which none can be made, and why.
    pub async fn make_ahead(&self) -> Vec<(usize, String)> {
        let mut failed = Vec::new();
        for (kind, plan) in self.plans().iter().enumerate() {
            let Some(plan) = plan else { continue };
            if let Err(why) = self.shared.stock(plan).await {
                failed.push((kind, why.to_string()));
            }
        }
        failed
    }

    /// Starts a worker. What comes of it is told by events only. `session` is known for kinds that name it.
    pub fn start(&mut self, worker: WorkerId, make: &Make, session: Option<&SessionId>) {
        while self.tasks.try_join_next().is_some() {}
        let logs = Arc::new(Logs::new(make.kind.log_buffer));
        let tree = Tree::Pending {
            terminate: Terminate::NotAsked,
        };
        let slot = Slot {
            logs: Arc::clone(&logs),
            tree,
            doomed: None,
            watch: Watch::Off,
            promise: make.memory().map(|limit| Promise { limit, group: None }),
            reaped: None,
        };
        self.shared.slots.borrow_mut().insert(worker, slot);
        let life = Life {
            worker,
            make: make.clone(),
            session: session.cloned(),
            logs,
            shared: Rc::clone(&self.shared),
        };
        self.tasks.spawn_local(life.run());
    }

    /// Asks a ready worker from now on whether it is alive, in this way or not any more. What it has failed before does
    /// not count.
    pub fn watch(&mut self, worker: WorkerId, probes: Option<Probes>) {
        let vigil = probes.map(|probes| {
            let (at_once, events) = (Arc::clone(&self.shared.probes), self.shared.events.clone());
            let watch = liveness::watch(worker, probes, at_once, events);
            Vigil::new(self.tasks.spawn_local(watch))
        });
        if let Some(slot) = self.shared.slots.borrow_mut().get_mut(&worker)
            && !matches!(slot.watch, Watch::Over)
        {
            slot.watch = vigil.map_or(Watch::Off, Watch::On);
        }
    }

    /// SIGTERM to the worker's process group; as soon as there is one, if it is only starting.
    pub fn terminate(&mut self, worker: WorkerId) {
        if let Some(slot) = self.shared.slots.borrow_mut().get_mut(&worker) {
            slot.watch = Watch::Over;
            match &mut slot.tree {
                Tree::Pending { terminate } => *terminate = Terminate::Asked,
                Tree::Alive(switch) => terminate_now(worker, switch),
                Tree::Gone => {}
            }
        }
    }

    /// Kills the whole tree now, in this call; as soon as there is one, if it is only starting.
    pub fn kill(&mut self, worker: WorkerId) {
        if let Some(slot) = self.shared.slots.borrow_mut().get_mut(&worker) {
            slot.kill();
        }
    }

    /// For whoever has to kill it without asking the driver; while the worker has a process.
    pub fn kill_switch(&self, worker: WorkerId) -> Option<Arc<KillSwitch>> {
        match &self.shared.slots.borrow().get(&worker)?.tree {
            Tree::Alive(switch) => Some(Arc::clone(switch)),
            Tree::Pending { .. } | Tree::Gone => None,
        }
    }

    /// The keeper's process id as the host sees it, while the worker has one.
    pub fn pid(&self, worker: WorkerId) -> Option<i32> {
        self.kill_switch(worker)?.keeper().pid()
    }

    /// The plans that it was made with, one per kind.
    pub fn plans(&self) -> &Plans {
        self.shared.client.plans()
    }

    /// From now on sandboxes are made by these plans; those that were made ahead by others are let go. Nor does any worker
    /// see these `secret` variables from now on; what was secret before stays it. What memory is left is read anew.
    pub fn renew(&mut self, plans: &[Arc<Plan>], secret: &BTreeSet<&str>) {
        let seen = |(name, _): &(String, String)| !secret.contains(name.as_str());
        self.shared.own_env.borrow_mut().retain(seen);
        self.scales.forget();
        while self.tasks.try_join_next().is_some() {}
        let ids: BTreeSet<PlanId> = plans.iter().map(|plan| plan.id()).collect();
        self.shared.client.keep_only(&ids);
        for unwanted in self.shared.stock.renew(ids) {
            self.tasks.spawn_local(unwanted.let_go());
        }
        for plan in plans {
            let (shared, plan) = (Rc::clone(&self.shared), Arc::clone(plan));
            self.tasks
                .spawn_local(async move { shared.stock_up(&plan).await });
        }
    }

    /// Its output, until it is [forgotten](Self::forget).
    pub fn logs(&self, worker: WorkerId) -> Option<Arc<Logs>> {
        self.shared
            .slots
            .borrow()
            .get(&worker)
            .map(|slot| Arc::clone(&slot.logs))
    }

    /// Drops what is remembered of a worker that is gone.
    pub fn forget(&mut self, worker: WorkerId) {
        let mut slots = self.shared.slots.borrow_mut();
        if slots
            .get(&worker)
            .is_some_and(|slot| matches!(slot.tree, Tree::Gone))
        {
            slots.remove(&worker);
        }
    }

    /// Resolves when the launcher has died, and with it every worker: herd cannot go on.
    pub fn launcher_lost(&self) -> impl Future<Output = Lost> + use<> {
        let mut lost = self.lost.clone();
        async move {
            match lost.wait_for(Option::is_some).await {
                Ok(lost) => lost.clone().unwrap_or_else(unheard),
                Err(_) => unheard(),
            }
        }
    }
}

fn unheard() -> Lost {
    Lost {
        why: "nobody listens to it any more".to_owned(),
    }
}

impl Slot {
    fn kill(&mut self) {
        self.watch = Watch::Over;
        match &self.tree {
            Tree::Alive(switch) => switch.kill(),
            Tree::Pending { .. } | Tree::Gone => {
                self.doomed.get_or_insert_with(Instant::now);
            }
        }
    }

    fn killed(&self) -> Option<Kill> {
        let killed = match &self.tree {
            Tree::Alive(switch) => switch.killed(),
            Tree::Pending { .. } | Tree::Gone => None,
        };
        let decided = self.doomed.or(killed.map(|killed| killed.decided))?;
        Some(Kill {
            decided,
            took: self
                .reaped
                .map(|reaped| reaped.duration_since(decided))
                .unwrap_or_default(),
            census: killed.map(|killed| killed.census.clone()).unwrap_or_default(),
        })
    }
}

fn terminate_now(worker: WorkerId, switch: &KillSwitch) {
    if let Err(e) = switch.keeper().terminate() {
        tracing::error!(%worker, "cannot terminate the worker: {e}");
    }
}

/// For the worker's own task.
impl Shared {
    /// Its keeper exists from now on; does what was asked before.
    pub(super) fn alive(&self, worker: WorkerId, keeper: &Arc<Keeper>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            let switch = Arc::new(KillSwitch::new(worker, Arc::clone(keeper)));
            let before = std::mem::replace(&mut slot.tree, Tree::Alive(Arc::clone(&switch)));
            if slot.doomed.is_some() {
                switch.kill();
            } else if matches!(
                before,
                Tree::Pending {
                    terminate: Terminate::Asked
                }
            ) {
                terminate_now(worker, &switch);
            }
        }
    }

    /// Its sandbox is there.
    pub(super) fn counted_in(&self, worker: WorkerId, counted_in: GroupId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker)
            && let Some(promise) = &mut slot.promise
        {
            promise.group = Some(counted_in);
        }
    }

    /// The keeper is reaped, and there may be another.
    pub(super) fn pending(&self, worker: WorkerId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            slot.tree = Tree::Pending {
                terminate: Terminate::NotAsked,
            };
            // They were the first one's.
            slot.watch = Watch::Off;
            slot.reaped = None;
        }
    }

    /// The tree is gone: the end of the time that its death took.
    pub(super) fn reaped(&self, worker: WorkerId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            slot.watch = Watch::Over;
            slot.reaped = Some(Instant::now());
        }
    }

    pub(super) fn gone(&self, worker: WorkerId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            slot.tree = Tree::Gone;
            slot.promise = None;
            slot.logs.close();
        }
    }

    /// Whether it was decided to kill it.
    pub(super) fn killed(&self, worker: WorkerId) -> Option<Kill> {
        self.slots.borrow().get(&worker).and_then(Slot::killed)
    }
}
