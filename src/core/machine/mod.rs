//! The owner of every session, worker and queue.

mod endings;
mod pool;
mod quotas;
mod reload;
mod requests;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::pool::Pool;
use self::quotas::Quotas;
use super::timers::{Subject, Timers};
use super::{
    Allowance, ConfigGeneration, EndReason, Generation, HolderKind, Holders, KindId, Lack, Memory, Moment,
    Refusal, Reuse, Rules, SessionId, SessionRef, StartedFor, TicketId, WorkerId,
};

/// How a request came by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KindChoice {
    /// Named by `X-Herd-Worker` or matched by a route: a session bound to another kind is a conflict.
    Named(KindId),
    /// Nothing said otherwise; only used if the session does not exist yet.
    Fallback(KindId),
}

/// What to do where no slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Queue,
    /// `X-Herd-Wait: 0`.
    Refuse,
}

/// What to do about the remains of a crashed session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Answer that the session is lost.
    Respect,
    /// `X-Herd-Session: new`: forget them and start anew.
    Discard,
}

/// How a request came by its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Created,
    Reused,
}

/// How long a request has waited for its session's worker; zero where one was there, or none was to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// For a slot.
    pub queued: Duration,
    /// For the worker to become ready.
    pub starting: Duration,
}

/// A request for a session.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: SessionId,
    pub kind: KindChoice,
    pub holder: HolderKind,
    pub wait: Wait,
    pub remains: Remains,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Output {
    /// Start a worker; `session` only for kinds whose workers are started for one session.
    Start {
        worker: WorkerId,
        kind: KindId,
        session: Option<SessionId>,
    },
    /// End the worker politely (SIGTERM). A [`Output::Kill`] follows if it does not go in time.
    Terminate { worker: WorkerId },
    /// Kill the worker's whole tree now.
    Kill { worker: WorkerId },
    /// A session has its worker. Precedes the grants to the requests that waited for it.
    Bound {
        session: SessionRef,
        kind: KindId,
        worker: WorkerId,
        holders: Arc<Holders>,
    },
    /// The request may go to its worker. Its hold has been taken already.
    Grant {
        ticket: TicketId,
        session: SessionRef,
        origin: Origin,
        waited: Waited,
    },
    Refuse {
        ticket: TicketId,
        refusal: Refusal,
        waited: Waited,
    },
    /// The session is no more. `worker` is what it was bound to, if it was.
    Ended {
        session: SessionRef,
        kind: KindId,
        worker: Option<WorkerId>,
        reason: EndReason,
        afterwards: Afterwards,
    },
    /// A drain has nothing left to wait for: no session and no worker remains.
    Drained,
}

/// What becomes of the worker of a session that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Ends,
    /// It goes back to the warm pool (`reuse: true`).
    Recycled,
}

/// What a stop found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopOutcome {
    /// The session ends now; with the worker whose end, if it ends, completes the stop.
    Ending {
        session: SessionRef,
        worker: WorkerId,
        afterwards: Afterwards,
    },
    /// It was still waiting; its requests were refused.
    NeverStarted,
    /// Only the remains of a crash were there.
    Forgotten,
    Unknown,
}

/// The stage of a live session, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Queued,
    Starting,
    Bound { worker: WorkerId },
    Lost { reason: EndReason },
}

/// One live session.
#[derive(Debug, Clone)]
pub struct Overview {
    pub session: SessionRef,
    pub kind: KindId,
    pub stage: Stage,
    /// Of its worker, once it has one.
    pub config: Option<ConfigGeneration>,
    /// When its first request came.
    pub since: Moment,
    /// When it ends if nothing more happens, and for what; `None` while something holds it.
    pub ends: Option<(Moment, Fate)>,
}

/// What ends a session, or forgets its remains, if nothing more happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its client has gone, and the grace runs.
    Disconnected,
    Ttl,
    MaxLifetime,
    /// It is lost already, and its id will be new again.
    Forgotten,
}

/// The occupation of one kind's pool. `starting + warm + bound + dying` never exceeds `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub starting: usize,
    pub warm: usize,
    /// Bound, or recycling after its session.
    pub bound: usize,
    pub dying: usize,
    /// Of all of them, those that were started under a configuration that knew other workers.
    pub outdated: usize,
    /// Sessions that no start covers.
    pub queued: usize,
    /// How many more workers may start now.
    pub room: usize,
    /// What they lack.
    pub waits_for: Option<Lack>,
    /// When the first of them came.
    pub waiting_since: Option<Moment>,
    /// New sessions are refused until then, because starts keep failing.
    pub backoff_until: Option<Moment>,
}

#[derive(Debug)]
struct Ticket {
    id: TicketId,
    holder: HolderKind,
    /// When it came.
    since: Moment,
}

impl Ticket {
    /// Its wait ends now, in a session that has been covered like this.
    fn waited(&self, covered: Option<Moment>, now: Moment) -> Waited {
        let covered = covered.unwrap_or(now).max(self.since);
        Waited {
            queued: covered.since(self.since),
            starting: now.since(covered),
        }
    }
}

/// A planned end for want of holders.
#[derive(Debug, Clone, Copy)]
struct Grace {
    at: Moment,
    /// Whoever acquires after this cancels it.
    sequence: u16,
}

#[derive(Debug)]
enum SessionState {
    Waiting {
        tickets: Vec<Ticket>,
        since: Moment,
        /// Since when a starting worker covers its place.
        covered: Option<Moment>,
        /// The worker that was started for just this session.
        own: Option<WorkerId>,
    },
    Bound {
        worker: WorkerId,
        holders: Arc<Holders>,
        grace: Option<Grace>,
        /// The next look at the ttl clock.
        idle_check: Option<Moment>,
        lifetime_ends: Option<Moment>,
        since: Moment,
    },
    Lost {
        reason: EndReason,
        until: Moment,
    },
}

#[derive(Debug)]
struct Session {
    generation: Generation,
    kind: KindId,
    since: Moment,
    state: SessionState,
}

#[derive(Debug)]
enum WorkerState {
    Starting {
        session: Option<SessionId>,
    },
    Warm {
        evict_at: Option<Moment>,
    },
    Bound {
        session: SessionId,
    },
    /// Waits for the holders of its last session to leave before it serves another.
    Recycling {
        session: SessionRef,
        holders: Arc<Holders>,
    },
    /// Told to end; killed at the moment given, or already killed.
    Dying {
        kill_at: Option<Moment>,
    },
}

#[derive(Debug)]
struct Worker {
    kind: KindId,
    config: ConfigGeneration,
    state: WorkerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining {
        deadline: Moment,
    },
    /// Everything is being ended.
    Ending,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Core {
    rules: Vec<Rules>,
    pools: Vec<Pool>,
    config: ConfigGeneration,
    sessions: HashMap<SessionId, Session>,
    quotas: Quotas,
    workers: HashMap<WorkerId, Worker>,
    /// The workers that are [`WorkerState::Recycling`], by the session that they served.
    recycling: HashMap<SessionRef, WorkerId>,
    /// `None`: it is as if there were enough.
    memory: Option<Memory>,
    /// Which waiting session a request belongs to.
    tickets: HashMap<TicketId, SessionId>,
    timers: Timers,
    outputs: VecDeque<Output>,
    phase: Phase,
    drained: bool,
    last_worker: u64,
    last_generation: u64,
}

impl Core {
    /// One [`Rules`] per kind, in the order of [`KindId`].
    pub fn new(rules: Vec<Rules>) -> Self {
        Self {
            pools: rules.iter().map(|_| Pool::default()).collect(),
            rules,
            config: ConfigGeneration(1),
            sessions: HashMap::new(),
            quotas: Quotas::default(),
            workers: HashMap::new(),
            recycling: HashMap::new(),
            memory: None,
            tickets: HashMap::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            phase: Phase::Serving,
            drained: false,
            last_worker: 0,
            last_generation: 0,
        }
    }

    /// Only these principals may have sessions, and no more than they are allowed.
    #[must_use]
    pub fn with_principals(mut self, allowances: HashMap<String, Allowance>) -> Self {
        self.quotas.set(allowances, Moment::default());
        self
    }

    /// Generations go on after `last`, which is of a herd before this one. To be called before any session exists.
    pub fn count_from(&mut self, last: Generation) {
        self.last_generation = self.last_generation.max(last.0);
    }

    /// What this host has left from now on, as it was just read: with all workers in mind that were asked for until now.
    /// Takes effect with the next input. `None`: nobody is to care.
    pub fn weigh(&mut self, memory: Option<Memory>) {
        self.memory = memory;
    }

    pub fn memory(&self) -> Option<Memory> {
        self.memory
    }

    /// Fills the warm pools.
    pub fn start(&mut self, now: Moment) {
        for kind in 0..self.pools.len() {
            self.reconcile(KindId(kind), now);
        }
    }

    /// The next thing to do; call until `None` after every event.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`advance`](Self::advance) has to be called at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.next()
    }

    /// Does what has become due.
    pub fn advance(&mut self, now: Moment) {
        while let Some(subject) = self.timers.due(now) {
            match subject {
                Subject::Session(session) => self.session_due(&session, now),
                Subject::Worker(worker) => self.worker_due(worker, now),
                Subject::Kind(kind) => self.reconcile(kind, now),
                Subject::Drain => self.end_all(now),
            }
        }
    }

    /// Admits no new session; bound ones go on until `deadline`.
    pub fn drain(&mut self, deadline: Moment, now: Moment) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Draining { deadline };
        self.timers.arm(Subject::Drain, Some(deadline));
        for id in self.waiting_sessions() {
            self.give_up(&id, &Refusal::Draining, now);
        }
        for kind in 0..self.pools.len() {
            self.reconcile(KindId(kind), now);
        }
        self.check_drained();
    }

    /// Kills everything now.
    pub fn kill_all(&mut self, now: Moment) {
        self.drain(now, now);
        self.end_all(now);
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            self.kill(worker);
        }
    }

    /// Live sessions, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = Overview> + '_ {
        self.sessions
            .iter()
            .map(|(id, session)| self.overview(id, session))
    }

    pub fn session(&self, id: &SessionId) -> Option<Overview> {
        self.sessions.get(id).map(|session| self.overview(id, session))
    }

    pub fn counts(&self, kind: KindId, now: Moment) -> Counts {
        let pool = &self.pools[kind.0];
        let mut queued = 0;
        let mut waiting_since = None;
        for session in pool.waiting.iter().filter_map(|id| self.sessions.get(id)) {
            if matches!(session.state, SessionState::Waiting { covered: None, .. }) {
                queued += 1;
                waiting_since = waiting_since.or(Some(session.since));
            }
        }
        Counts {
            starting: pool.starting.len(),
            warm: pool.warm.len(),
            bound: pool.bound,
            dying: pool.dying,
            outdated: pool.outdated,
            queued,
            room: self.room(kind),
            waits_for: self.waits_for(kind),
            waiting_since,
            backoff_until: pool.backoff(now).map(|left| now + left),
        }
    }

    /// Whether new sessions are refused for good, because herd is ending.
    pub fn is_draining(&self) -> bool {
        self.phase != Phase::Serving
    }

    fn overview(&self, id: &SessionId, session: &Session) -> Overview {
        let (stage, ends) = match &session.state {
            SessionState::Waiting { covered: None, .. } => (Stage::Queued, None),
            SessionState::Waiting { .. } => (Stage::Starting, None),
            SessionState::Lost { reason, until } => (
                Stage::Lost {
                    reason: reason.clone(),
                },
                Some((*until, Fate::Forgotten)),
            ),
            SessionState::Bound {
                worker,
                holders,
                grace,
                lifetime_ends,
                ..
            } => {
                let seen = holders.snapshot();
                let idle = match (grace, self.rules[session.kind.0].ttl) {
                    (Some(grace), _) if grace.sequence == seen.sequence => {
                        Some((grace.at, Fate::Disconnected))
                    }
                    (_, Some(ttl)) if seen.holders == 0 => Some((holders.last_release() + ttl, Fate::Ttl)),
                    _ => None,
                };
                let lifetime = lifetime_ends.map(|at| (at, Fate::MaxLifetime));
                let ends = [idle, lifetime].into_iter().flatten().min_by_key(|(at, _)| *at);
                (Stage::Bound { worker: *worker }, ends)
            }
        };
        let config = match &stage {
            Stage::Bound { worker } => self.workers.get(worker).map(|known| known.config),
            _ => None,
        };
        Overview {
            session: reference(id, session),
            kind: session.kind,
            stage,
            config,
            since: session.since,
            ends,
        }
    }

    fn waiting_sessions(&self) -> Vec<SessionId> {
        self.pools
            .iter()
            .flat_map(|pool| pool.waiting.iter().cloned())
            .collect()
    }

    fn check_drained(&mut self) {
        if self.phase != Phase::Serving && !self.drained && self.workers.is_empty() {
            self.drained = true;
            self.outputs.push_back(Output::Drained);
        }
    }
}

fn reference(id: &SessionId, session: &Session) -> SessionRef {
    SessionRef {
        id: id.clone(),
        generation: session.generation,
    }
}

fn earliest<const N: usize>(moments: [Option<Moment>; N]) -> Option<Moment> {
    moments.into_iter().flatten().min()
}
