//! The driver: the one task that owns the core.
//!
//! It turns what happens (a request, a worker's report, a holder's leaving, a deadline, a signal) into
//! calls of the core, and the core's outputs into deeds. It does no I/O itself: requests come over a
//! bounded mailbox, workers are started and killed by its [`Crew`], answers go out in oneshots. One
//! deadline is armed at a time.

mod attention;
mod burial;
mod clock;
mod crew;
mod departures;
mod handle;
mod journal;
mod outputs;
mod records;
mod reload;
mod reports;
mod session;
mod sync;
mod views;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::info;

pub use burial::{Burial, Burials, Lost, Milestone};
pub use clock::Clock;
pub use crew::Crew;
pub use handle::{
    Among, Attached, DriverGone, Fate, Handle, KindChoice, NoOutput, NotAttached, Origin, PoolView,
    PoolsView, Remains, Request, SessionOutput, SessionState, SessionView, Standing, Stopped, Wait, Waited,
};
pub use journal::{By, CommandEnd, Deed, Entry, Event as JournalEvent, Journal};
pub use reload::{Cause, Next, NotReloaded, Reloaded, Reloads, Wish};
pub use session::{Guest, Hold, Session};

use self::attention::Attention;
use self::departures::Departures;
use self::handle::{Command, Granted};
use self::records::Records;
use crate::access::{Access, Current, InForce};
use crate::config::{Config, Kind};
use crate::core::{
    Afterwards, Allowance, ConfigGeneration, Core, EndReason, Generation, HolderKind, KindId, Moment,
    Refusal, Rules, SessionId, SessionRef, StartFailureKind, StartedFor, StopOutcome, TicketId, WorkerId,
};
use crate::metrics::{Metrics, Reasons};
use crate::worker::{Endpoint, Event, Make, Pulse, Sandboxing};

/// Requests that may wait in the mailbox before their senders wait themselves.
const MAILBOX: usize = 1024;
/// Endings that a slow cache may fall behind before it has to sweep.
const ENDINGS: usize = 1024;

const REASONS: Reasons = Reasons {
    ended: &EndReason::CODES,
    refused: &Refusal::CODES,
    start_failed: &StartFailureKind::CODES,
};

/// What the process's signals ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Admit nothing new, let bound sessions finish until `drain_timeout`.
    Drain,
    /// End everything now.
    Now,
}

/// A waiting request.
#[derive(Debug)]
struct Waiter {
    /// Asked for; a session that exists may be of another.
    kind: KindId,
    holder: HolderKind,
    reply: oneshot::Sender<Result<Granted, NotAttached>>,
}

/// What the driver knows of a worker beside the core.
#[derive(Debug)]
struct Staff {
    kind: KindId,
    config: ConfigGeneration,
    sandboxing: Sandboxing,
    endpoint: Option<Endpoint>,
    pulse: Arc<Pulse>,
    session: Option<SessionRef>,
    /// When the client left whose leaving ends it.
    left: Option<Moment>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Driver<C> {
    core: Core,
    crew: C,
    config: Arc<Config>,
    /// `None`: it has no `auth`.
    access: Option<Arc<Access>>,
    /// The same, for other threads.
    current: Arc<Current>,
    /// Of every kind that this herd has known, by its number.
    makes: Vec<Make>,
    clock: Clock,
    attention: Arc<Attention<Arc<Session>>>,
    commands: mpsc::Receiver<Command>,
    departures: Arc<Departures>,
    endings: broadcast::Sender<SessionRef>,
    waiters: HashMap<TicketId, Waiter>,
    last_ticket: u64,
    live: HashMap<SessionRef, Arc<Session>>,
    staff: HashMap<WorkerId, Staff>,
    records: Records,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    /// Who waits for a worker's end.
    stops: HashMap<WorkerId, Vec<oneshot::Sender<Stopped>>>,
    /// Turns true when no new session is admitted any more.
    draining: watch::Sender<bool>,
    drained: bool,
    /// Until somebody takes them.
    wishes: Option<mpsc::Receiver<Wish>>,
}

impl<C: Crew> Driver<C> {
    pub fn new(first: impl Into<InForce>, crew: C) -> (Self, Handle) {
        let first: InForce = first.into();
        let InForce { config, access } = first.clone();
        let (sender, commands) = mpsc::channel(MAILBOX);
        let endings = broadcast::Sender::new(ENDINGS);
        let departures = Arc::new(Departures::new());
        let started = SystemTime::now();
        let journal = Arc::new(Journal::new(started));
        let metrics = Arc::new(Metrics::new(
            config.kinds.iter().map(|kind| &*kind.name),
            &REASONS,
        ));
        let current = Arc::new(Current::new(first));
        let draining = watch::Sender::new(false);
        let (reloads, wishes) = Reloads::channel();
        let handle = Handle {
            commands: sender,
            config: Arc::clone(&current),
            reloads,
            draining: draining.subscribe(),
            departures: Arc::clone(&departures),
            endings: endings.clone(),
            journal: Arc::clone(&journal),
            metrics: Arc::clone(&metrics),
        };
        let clock = Clock::start();
        let mut plans = crew.plans().into_iter();
        let makes = config.kinds.iter().map(|kind| Make {
            kind: Arc::clone(kind),
            plan: plans.next().flatten(),
        });
        let makes = makes.collect();
        let mut core = Core::new(
            config
                .kinds
                .iter()
                .map(|kind| rules(kind, config.session.lost_for))
                .collect(),
        );
        if access.is_some() {
            core = core.with_principals(principals(&config));
        }
        let driver = Self {
            core,
            crew,
            config,
            access,
            current,
            makes,
            clock,
            attention: Arc::new(Attention::new()),
            commands,
            departures,
            endings,
            waiters: HashMap::new(),
            last_ticket: 0,
            live: HashMap::new(),
            staff: HashMap::new(),
            records: Records::new(started),
            journal,
            metrics,
            stops: HashMap::new(),
            draining,
            drained: false,
            wishes: Some(wishes),
        };
        (driver, handle)
    }

    /// Who wants herd.yaml to be read again: for whoever reads it. `None`: somebody has them already.
    pub fn wishes(&mut self) -> Option<mpsc::Receiver<Wish>> {
        self.wishes.take()
    }

    /// Hands every session that begins or ends over, too; generations go on after `last`. To be called before it runs.
    pub fn keep_history(&mut self, burials: Burials, last: Generation) {
        self.records.keep_history(burials);
        self.core.count_from(last);
    }

    /// Nothing more is handed over.
    pub fn end_history(&mut self) {
        self.records.end_history();
    }

    /// Runs until a shutdown has ended every worker.
    pub async fn run(&mut self, mut events: mpsc::Receiver<Event>, mut shutdown: mpsc::Receiver<Shutdown>) {
        // Without a reader nobody waits for one.
        self.wishes = None;
        self.weigh();
        self.core.start(self.clock.now());
        self.carry_out();
        let attention = Arc::clone(&self.attention);
        while !self.drained {
            let deadline = self.core.next_deadline().and_then(|at| self.clock.instant(at));
            // Biased: a worker's end comes before the requests that it decides, a holder's leaving before
            // the deadline that it may move, and signals before everything, so that no load delays them.
            tokio::select! {
                biased;
                Some(shutdown) = shutdown.recv() => self.shut_down(shutdown),
                Some(event) = events.recv() => self.worker_event(event),
                () = attention.listed() => self.attend(),
                Some(command) = self.commands.recv() => self.command(command),
                () = sleep_until(deadline) => {
                    self.weigh();
                    self.core.advance(self.clock.now());
                }
            }
            self.carry_out();
            // After the grants that were decided just now: one to a client that has left comes back from its
            // reply and is undone. Without a reply to go to, the hold that the core took for it would stay.
            if self.departures.take() {
                self.abandon_left();
                self.carry_out();
            }
        }
        // Who still asks is told that the driver is gone, instead of waiting for it.
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
    }

    fn shut_down(&mut self, shutdown: Shutdown) {
        let now = self.clock.now();
        match shutdown {
            // The control API asked for that; this is the first signal.
            Shutdown::Drain if self.core.is_draining() => {
                info!(
                    bound = self.live.len(),
                    "draining already: another signal stops at once"
                );
            }
            Shutdown::Drain => {
                let bound = self.live.len();
                let limit = self.config.drain_timeout;
                info!(
                    bound,
                    ?limit,
                    "draining: new sessions are refused; a second signal stops at once"
                );
                self.journal.push(JournalEvent::Draining { limit });
                self.core.drain(now + limit, now);
                self.draining.send_replace(true);
            }
            Shutdown::Now => {
                info!(bound = self.live.len(), "stopping now");
                self.core.kill_all(now);
                self.draining.send_replace(true);
            }
        }
    }

    fn attend(&mut self) {
        let attention = Arc::clone(&self.attention);
        // Also for a session that has ended, whose worker may wait for its last holder.
        attention.attend(
            |session| &session.listed,
            |session| self.core.attention(&session.name, self.clock.now()),
        );
    }

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Attach { mut request, reply } => {
                self.weigh();
                request.kind = self.meant(request.kind, &request.id);
                self.last_ticket += 1;
                let ticket = TicketId(self.last_ticket);
                let (KindChoice::Named(kind) | KindChoice::Fallback(kind)) = request.kind;
                self.waiters.insert(
                    ticket,
                    Waiter {
                        kind,
                        holder: request.holder,
                        reply,
                    },
                );
                self.core.attach(ticket, request, now);
            }
            // The flag that came with it says what to do.
            Command::Abandon => {}
            Command::Stop { id, only, reply } => self.stop(&id, only, reply),
            Command::List { among, reply } => {
                let _ = reply.send(self.list(among));
            }
            Command::Show { id, reply } => {
                let _ = reply.send(self.show(&id));
            }
            Command::Pools { reply } => {
                let _ = reply.send(self.pools());
            }
            Command::Reconfigure { next, cause, reply } => {
                let _ = reply.send(self.reconfigure(*next, &cause));
            }
            Command::Drain if self.core.is_draining() => {}
            Command::Drain => self.shut_down(Shutdown::Drain),
            Command::Bound { id, reply } => {
                let live = self.core.session(&id);
                let session = live.and_then(|overview| self.live.get(&overview.session));
                let _ = reply.send(session.cloned());
            }
            Command::Logs { id, only, reply } => {
                let _ = reply.send(self.output(&id, only));
            }
        }
    }

    fn stop(&mut self, id: &SessionId, only: Option<Generation>, reply: oneshot::Sender<Stopped>) {
        if let Some(only) = only {
            let live = self.core.session(id).map(|overview| overview.session.generation);
            let current = live.or_else(|| self.records.dying(id).map(|dying| dying.session.generation));
            if let Some(current) = current.filter(|current| *current != only) {
                let _ = reply.send(Stopped::OtherGeneration { current });
                return;
            }
        }
        match self.core.stop(id, self.clock.now()) {
            StopOutcome::Ending {
                worker, afterwards, ..
            } => match afterwards {
                Afterwards::Ends => self.stops.entry(worker).or_default().push(reply),
                Afterwards::Recycled => {
                    let _ = reply.send(Stopped::Ended { death: None });
                }
            },
            StopOutcome::NeverStarted => {
                let _ = reply.send(Stopped::NeverStarted);
            }
            StopOutcome::Forgotten => {
                let _ = reply.send(Stopped::Forgotten);
            }
            // It may have been decided to end already, with its tree not gone yet: that ends now, too.
            StopOutcome::Unknown => match self.records.dying(id).and_then(|dying| dying.worker) {
                Some(worker) => {
                    self.core.hasten(worker);
                    self.stops.entry(worker).or_default().push(reply);
                }
                None => {
                    let _ = reply.send(Stopped::Unknown);
                }
            },
        }
    }

    /// Gives up the places of those who no longer wait.
    fn abandon_left(&mut self) {
        let left: Vec<TicketId> = self
            .waiters
            .iter()
            .filter(|(_, w)| w.reply.is_closed())
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in left {
            self.waiters.remove(&ticket);
            self.core.abandon(ticket, self.clock.now());
        }
    }

    fn kind_name(&self, worker: WorkerId) -> &str {
        self.staff
            .get(&worker)
            .map_or("", |staff| self.name_of(staff.kind))
    }

    fn name_of(&self, kind: KindId) -> &str {
        self.makes.get(kind.0).map_or("", |make| &make.kind.name)
    }
}

/// Never, without a deadline.
async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The principals that there are.
fn principals(config: &Config) -> HashMap<String, Allowance> {
    let keys = config.auth.iter().flat_map(|auth| &auth.keys);
    keys.map(|key| (key.name.clone(), key.allowance)).collect()
}

pub(in crate::driver) fn rules(kind: &Kind, lost_for: Duration) -> Rules {
    Rules {
        min: kind.min,
        max: kind.max,
        max_starting: kind.max_starting,
        memory: kind.sandbox.on().and_then(|sandbox| sandbox.limits.memory),
        started_for: if kind.per_session {
            StartedFor::OneSession
        } else {
            StartedFor::Anyone
        },
        ttl: kind.ttl,
        max_lifetime: kind.max_lifetime,
        stop_timeout: kind.stop_timeout,
        disconnect_grace: kind.disconnect_grace,
        on_disconnect: kind.on_disconnect,
        on_crash: kind.on_crash,
        reuse: kind.reuse,
        queue_max: kind.queue.max,
        queue_timeout: kind.queue.timeout,
        lost_for,
    }
}
