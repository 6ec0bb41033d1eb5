//! All workers of this herd: the handle that the driver drives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Kind;
use crate::core::{SessionId, WorkerId};
use crate::launcher::{Client, Keeper, Lost};
use crate::sys::process::Census;

use super::environment;
use super::logs::Logs;
use super::ports::Ports;
use super::sandbox::Stock;
use super::start::Life;
use super::state_dir::StateDir;
use super::{Event, Sandboxing};

/// Starts, ends and remembers workers. Lives on one thread, inside a `LocalSet`; dropping it ends every worker
/// with the launcher.
#[derive(Debug)]
pub struct Workers {
    shared: Rc<Shared>,
    lost: watch::Receiver<Option<Lost>>,
    /// One per worker, and one that hears the launcher.
    tasks: JoinSet<()>,
}

/// What the tasks of all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) state: StateDir,
    pub(super) ports: RefCell<Ports>,
    pub(super) own_env: Vec<(String, String)>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) stock: Stock,
    /// Where keepers build sandboxes: over the state directory, each in a mount namespace of its own. Nobody removes
    /// it, which would take the mount away, and nobody has to.
    pub(super) sandbox_dir: String,
    slots: RefCell<HashMap<WorkerId, Slot>>,
}

#[derive(Debug)]
struct Slot {
    logs: Arc<Logs>,
    tree: Tree,
    /// When the driver decided to kill it, and what there was to kill.
    killed: Option<Killed>,
}

#[derive(Debug)]
enum Tree {
    /// No process yet, or between two tries.
    Pending {
        terminate: Terminate,
    },
    Alive(Arc<Keeper>),
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminate {
    NotAsked,
    Asked,
}

#[derive(Debug, Clone)]
pub(super) struct Killed {
    decided: Instant,
    /// From the decision until the tree was reaped; zero as long as it is not.
    pub(super) took: Duration,
    pub(super) census: Census,
}

impl Workers {
    /// `events` hears of every worker. Has to be called inside a `LocalSet`.
    pub fn new(
        client: Client,
        state: StateDir,
        ports: RangeInclusive<u16>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let sandbox_dir = state.path().to_str().unwrap_or_default().to_owned();
        let stock = Stock::new(client.ids());
        let kinds = client.plans().len();
        let shared = Rc::new(Shared {
            stock,
            sandbox_dir,
            client,
            state,
            ports: RefCell::new(Ports::new(ports)),
            own_env: environment::own(),
            events,
            slots: RefCell::default(),
        });
        let (tell, lost) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let listening = Rc::clone(&shared);
        tasks.spawn_local(async move {
            let lost = listening.client.listen().await;
            tell.send_replace(Some(lost));
        });
        for kind in (0..kinds).filter(|kind| shared.client.plans()[*kind].is_some()) {
            let shared = Rc::clone(&shared);
            tasks.spawn_local(async move { shared.stock_up(kind).await });
        }
        Self { shared, lost, tasks }
    }

    /// Starts a worker. What comes of it is told by events only. `session` is known for kinds that name it.
    pub fn start(&mut self, worker: WorkerId, kind: &Arc<Kind>, session: Option<&SessionId>) {
        while self.tasks.try_join_next().is_some() {}
        let logs = Arc::new(Logs::new(kind.log_buffer));
        let tree = Tree::Pending {
            terminate: Terminate::NotAsked,
        };
        let slot = Slot {
            logs: Arc::clone(&logs),
            tree,
            killed: None,
        };
        self.shared.slots.borrow_mut().insert(worker, slot);
        let life = Life {
            worker,
            kind: Arc::clone(kind),
            session: session.cloned(),
            logs,
            shared: Rc::clone(&self.shared),
        };
        self.tasks.spawn_local(life.run());
    }

    /// SIGTERM to the worker's process group; as soon as there is one, if it is only starting.
    pub fn terminate(&mut self, worker: WorkerId) {
        if let Some(slot) = self.shared.slots.borrow_mut().get_mut(&worker) {
            match &mut slot.tree {
                Tree::Pending { terminate } => *terminate = Terminate::Asked,
                Tree::Alive(keeper) => warn_if_failed(worker, "terminate", keeper.terminate()),
                Tree::Gone => {}
            }
        }
    }

    /// Kills the whole tree now, in this call; as soon as there is one, if it is only starting.
    pub fn kill(&mut self, worker: WorkerId) {
        if let Some(slot) = self.shared.slots.borrow_mut().get_mut(&worker) {
            slot.kill(worker);
        }
    }

    /// The keeper's process id as the host sees it, while the worker has one.
    pub fn pid(&self, worker: WorkerId) -> Option<i32> {
        match &self.shared.slots.borrow().get(&worker)?.tree {
            Tree::Alive(keeper) => keeper.pid(),
            Tree::Pending { .. } | Tree::Gone => None,
        }
    }

    /// How workers of the kind at this index are isolated.
    pub fn sandboxing(&self, kind: usize) -> Sandboxing {
        match self.shared.client.plans().get(kind).and_then(Option::as_ref) {
            None => Sandboxing::Off,
            Some(plan) if plan.weaker().is_empty() => Sandboxing::On,
            Some(_) => Sandboxing::Weaker,
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
    fn kill(&mut self, worker: WorkerId) {
        let decided = match &self.killed {
            Some(killed) => killed.decided,
            None => Instant::now(),
        };
        let census = match &self.tree {
            Tree::Alive(keeper) => {
                let census = keeper.pid().map(Census::take).unwrap_or_default();
                warn_if_failed(worker, "kill", keeper.kill());
                census
            }
            Tree::Pending { .. } | Tree::Gone => Census::default(),
        };
        if self
            .killed
            .as_ref()
            .is_none_or(|killed| killed.census.processes == 0)
        {
            self.killed = Some(Killed {
                decided,
                took: Duration::ZERO,
                census,
            });
        }
    }
}

fn warn_if_failed(worker: WorkerId, what: &str, result: std::io::Result<()>) {
    if let Err(e) = result {
        tracing::error!(%worker, "cannot {what} the worker: {e}");
    }
}

/// For the worker's own task.
impl Shared {
    /// Its keeper exists from now on; does what was asked before.
    pub(super) fn alive(&self, worker: WorkerId, keeper: &Arc<Keeper>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            let before = std::mem::replace(&mut slot.tree, Tree::Alive(Arc::clone(keeper)));
            if slot.killed.is_some() {
                slot.kill(worker);
            } else if matches!(
                before,
                Tree::Pending {
                    terminate: Terminate::Asked
                }
            ) {
                warn_if_failed(worker, "terminate", keeper.terminate());
            }
        }
    }

    /// The keeper is reaped, and there may be another.
    pub(super) fn pending(&self, worker: WorkerId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            slot.tree = Tree::Pending {
                terminate: Terminate::NotAsked,
            };
        }
    }

    /// The tree is gone: the end of the time that its death took.
    pub(super) fn reaped(&self, worker: WorkerId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker)
            && let Some(killed) = &mut slot.killed
        {
            killed.took = killed.decided.elapsed();
        }
    }

    pub(super) fn gone(&self, worker: WorkerId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&worker) {
            slot.tree = Tree::Gone;
            slot.logs.close();
        }
    }

    pub(super) fn killed(&self, worker: WorkerId) -> Option<Killed> {
        self.slots
            .borrow()
            .get(&worker)
            .and_then(|slot| slot.killed.clone())
    }
}
