//! The cheap, cloneable side of the driver: what the proxy and the control plane talk to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::departures::Departures;
use super::journal::Journal;
use super::reload::{Cause, Next, NotReloaded, Reloaded, Reloads};
use super::session::{Hold, Session};
use crate::access::Current;
use crate::core::{
    ConfigGeneration, EndReason, Generation, KindId, Lack, Memory, Refusal, SessionId, SessionRef, WorkerId,
};
pub use crate::core::{Fate, KindChoice, Origin, Remains, Request, Wait, Waited};
use crate::metrics::Metrics;
use crate::worker::{Death, Logs, Sandboxing};

/// A granted request. Dropping `hold` releases it.
#[derive(Debug)]
pub struct Attached {
    pub hold: Hold,
    pub origin: Origin,
    pub waited: Waited,
}

/// A request that was not granted.
#[derive(Debug)]
pub struct NotAttached {
    pub refusal: Refusal,
    pub waited: Waited,
}

/// Refused at once, without a wait.
impl From<Refusal> for NotAttached {
    fn from(refusal: Refusal) -> Self {
        let waited = Waited::default();
        Self { refusal, waited }
    }
}

impl Attached {
    pub fn session(&self) -> &Arc<Session> {
        self.hold.session()
    }
}

/// A grant on its way. If the client has left before it arrives, a session that was created for it ends
/// like one whose client disconnected.
#[derive(Debug)]
pub(super) struct Granted(Attached);

impl Granted {
    pub(super) fn new(mut attached: Attached) -> Self {
        if attached.origin == Origin::Created {
            attached.hold.expect_client();
        }
        Self(attached)
    }

    fn arrived(self) -> Attached {
        let Self(mut attached) = self;
        attached.hold.answered();
        attached
    }
}

/// Which sessions are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those that have not ended.
    Live,
    /// Also those that have, as far as they are remembered.
    All,
}

/// The state of a session, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    Queued,
    Starting,
    Bound,
    /// Decided to end; its worker's tree is not gone yet.
    Ending(EndReason),
    Ended(EndReason),
}

/// One row of `herd ps`.
#[derive(Debug, Clone)]
pub struct SessionView {
    pub session: SessionRef,
    pub kind: String,
    /// `None` before it has a worker.
    pub sandboxing: Option<Sandboxing>,
    /// Which configuration its worker is of, once it has one, and whether that knew other workers than the present one.
    pub config: Option<ConfigGeneration>,
    pub outdated: bool,
    pub state: SessionState,
    pub worker: Option<WorkerId>,
    /// The worker's process id as the host sees it: the keeper's, whose death is the tree's.
    pub pid: Option<i32>,
    pub endpoint: Option<String>,
    pub created: SystemTime,
    pub holders: u32,
    pub streams: u32,
    pub holds: u16,
    /// When it ends if nothing changes, and for what; `None` while something holds it and no `max_lifetime` runs.
    pub ends: Option<(Duration, Fate)>,
    pub ended: Option<SystemTime>,
    /// What its end took with it; known once the tree is reaped.
    pub death: Option<Death>,
    /// From its client's leaving until the tree was reaped, if that ended it.
    pub since_left: Option<Duration>,
}

/// All pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolsView {
    /// Which configuration is in force.
    pub generation: ConfigGeneration,
    /// In the order of the configuration; then those that it does not know and that still have workers.
    pub kinds: Vec<PoolView>,
    /// herd is ending: no new session.
    pub draining: bool,
    /// What workers with a limit of memory are admitted by; `None`: nobody asks, or it was not read yet.
    pub memory: Option<Memory>,
}

/// One kind's pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    pub id: KindId,
    pub kind: String,
    pub standing: Standing,
    pub min: usize,
    pub max: usize,
    /// Most that may start at a time.
    pub max_starting: Option<usize>,
    pub starting: usize,
    pub warm: usize,
    pub bound: usize,
    pub dying: usize,
    /// Of all of them, those of a configuration that knew other workers.
    pub outdated: usize,
    /// Sessions that no start covers.
    pub queued: usize,
    /// How many more workers may start now.
    pub room: usize,
    /// What they lack.
    pub waits_for: Option<Lack>,
    pub queue_max: usize,
    /// How long the first of them has waited.
    pub longest_wait: Option<Duration>,
    /// For how long new sessions are still refused because starts keep failing.
    pub backoff: Option<Duration>,
    pub sandboxing: Sandboxing,
}

impl PoolView {
    pub(super) fn has_workers(&self) -> bool {
        self.starting + self.warm + self.bound + self.dying > 0
    }
}

/// Whether the configuration knows a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Present,
    Removed,
}

/// What a stop request found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The session's whole tree is gone and reaped; without a death, its worker is warm again (`reuse: true`).
    Ended {
        death: Option<Death>,
    },
    /// It had not started yet; its waiting requests were refused.
    NeverStarted,
    /// Only the remains of a crash were there; forgotten now.
    Forgotten,
    Unknown,
    /// It was to be stopped only if it were another incarnation.
    OtherGeneration {
        current: Generation,
    },
}

/// What there is of a session's output.
#[derive(Debug, Clone)]
pub enum SessionOutput {
    /// All that its worker's ring has; more may come.
    Ring(Arc<Logs>),
    /// Of one that ended some time ago: its worker's last lines, escaped.
    LastLines(Arc<[String]>),
    /// Its worker has gone on to serve others, and what it writes is theirs.
    Gone,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoOutput {
    /// It has no worker yet.
    Waits,
    /// No such session is known.
    Unknown,
}

/// The driver is gone: herd is exiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("herd is shutting down")]
pub struct DriverGone;

/// What the driver is asked. The reply travels in the oneshot; a dropped receiver means that the asker
/// has left, and a waiting request gives its place up.
#[derive(Debug)]
pub(super) enum Command {
    Attach {
        request: Request,
        reply: oneshot::Sender<Result<Granted, NotAttached>>,
    },
    Abandon,
    Stop {
        id: SessionId,
        only: Option<Generation>,
        reply: oneshot::Sender<Stopped>,
    },
    List {
        among: Among,
        reply: oneshot::Sender<Vec<SessionView>>,
    },
    Show {
        id: SessionId,
        reply: oneshot::Sender<Vec<SessionView>>,
    },
    Pools {
        reply: oneshot::Sender<PoolsView>,
    },
    Drain,
    Reconfigure {
        next: Box<Next>,
        cause: Cause,
        reply: oneshot::Sender<Result<Reloaded, NotReloaded>>,
    },
    Bound {
        id: SessionId,
        reply: oneshot::Sender<Option<Arc<Session>>>,
    },
    Logs {
        id: SessionId,
        only: Option<Generation>,
        reply: oneshot::Sender<Result<SessionOutput, NoOutput>>,
    },
}

/// Talks to the driver.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) departures: Arc<Departures>,
    pub(super) endings: broadcast::Sender<SessionRef>,
    pub(super) journal: Arc<Journal>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) config: Arc<Current>,
    pub(super) reloads: Reloads,
    pub(super) draining: watch::Receiver<bool>,
}

impl Handle {
    /// Binds the id to a worker, starting one or waiting for a slot as needed. Dropping the future
    /// leaves the queue.
    pub async fn attach(&self, request: Request) -> Result<Attached, NotAttached> {
        // Declared first, so dropped last: the driver must find the receiver closed when it is woken.
        let leave = Leave {
            handle: self,
            done: false,
        };
        let (reply, mut answer) = oneshot::channel();
        if self
            .commands
            .send(Command::Attach { request, reply })
            .await
            .is_err()
        {
            return Err(Refusal::Draining.into());
        }
        // The driver sees `reply.is_closed()`; this wakes it to look.
        let result = (&mut answer).await;
        leave.done();
        result
            .unwrap_or_else(|_| Err(Refusal::Draining.into()))
            .map(Granted::arrived)
    }

    /// Ends the session now, or only if it is of the generation `only`; resolves when its tree is reaped.
    pub async fn stop(&self, id: SessionId, only: Option<Generation>) -> Result<Stopped, DriverGone> {
        self.ask(|reply| Command::Stop { id, only, reply }).await
    }

    /// Sessions, oldest first.
    pub async fn list(&self, among: Among) -> Result<Vec<SessionView>, DriverGone> {
        self.ask(|reply| Command::List { among, reply }).await
    }

    /// Every remembered incarnation of one id, newest first.
    pub async fn show(&self, id: SessionId) -> Result<Vec<SessionView>, DriverGone> {
        self.ask(|reply| Command::Show { id, reply }).await
    }

    /// The session, if it has its worker. Nothing holds it for whoever asks.
    pub async fn bound(&self, id: SessionId) -> Result<Option<Arc<Session>>, DriverGone> {
        self.ask(|reply| Command::Bound { id, reply }).await
    }

    pub async fn pools(&self) -> Result<PoolsView, DriverGone> {
        self.ask(|reply| Command::Pools { reply }).await
    }

    /// The output of the newest incarnation that has some, live or ended, or of the one of the generation `only`.
    pub async fn logs(
        &self,
        id: SessionId,
        only: Option<Generation>,
    ) -> Result<Result<SessionOutput, NoOutput>, DriverGone> {
        self.ask(|reply| Command::Logs { id, only, reply }).await
    }

    /// Admits no new session; herd ends when bound ones have, or after `drain_timeout`. Returns when it is asked.
    pub async fn drain(&self) -> Result<(), DriverGone> {
        self.commands.send(Command::Drain).await.map_err(|_| DriverGone)
    }

    /// Asks for herd.yaml to be read again.
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Puts a configuration in force.
    pub async fn reconfigure(&self, next: Next, cause: Cause) -> Result<Reloaded, NotReloaded> {
        let next = Box::new(next);
        let asked = self
            .ask(|reply| Command::Reconfigure { next, cause, reply })
            .await;
        asked.unwrap_or(Err(NotReloaded::Draining))
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Current> {
        &self.config
    }

    /// Whether new sessions are refused for good.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when no new session is admitted any more.
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut draining = self.draining.clone();
        async move {
            // An error means that the driver is gone, which is more of the same.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }

    /// What happened.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Sessions as they end, so that caches can forget them. A receiver that lags has to sweep its
    /// cache for closed sessions.
    pub fn endings(&self) -> broadcast::Receiver<SessionRef> {
        self.endings.subscribe()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, DriverGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| DriverGone)?;
        answer.await.map_err(|_| DriverGone)
    }
}

/// Tells the driver that somebody left while waiting.
struct Leave<'a> {
    handle: &'a Handle,
    done: bool,
}

impl Leave<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.handle.departures.announce();
            // Only a wake-up: where the mailbox is full, the driver is awake and will see the flag.
            let _ = self.handle.commands.try_send(Command::Abandon);
        }
    }
}
