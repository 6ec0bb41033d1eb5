//! One kind's pool: its workers by state, its queue, its luck with starts; and the one function that
//! brings the pool to what its queue and its warm stock ask for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Lack, Rules, StartFailure, StartFailureKind};
use super::{
    ConfigGeneration, Core, KindId, Moment, Output, Phase, Refusal, Reuse, SessionId, SessionState,
    StartedFor, Subject, Worker, WorkerId, WorkerState,
};

/// From this many failures in a row on, new sessions are refused for a while.
const CRASH_LOOP: u32 = 5;
/// How long a refill waits for the request that made it necessary.
pub(super) const BREATH: Duration = Duration::from_millis(1);
/// How often memory is looked at for sessions that wait for it, and for the warm stock.
pub(super) const WAITED_FOR: Duration = Duration::from_millis(250);
const STOCK: Duration = Duration::from_secs(5);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Whether the configuration knows the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    #[default]
    Present,
    Removed,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) standing: Standing,
    /// Workers of an earlier configuration serve nobody new.
    pub(super) current_since: ConfigGeneration,
    /// How many of those there still are.
    pub(super) outdated: usize,
    /// Oldest first, as the other lists.
    pub(super) starting: VecDeque<WorkerId>,
    pub(super) warm: VecDeque<WorkerId>,
    pub(super) bound: usize,
    pub(super) dying: usize,
    pub(super) waiting: VecDeque<SessionId>,
    /// Starts that failed, and warm workers that died, since a worker was last bound.
    failures: u32,
    /// Starts that herd had not the means for, since then.
    shortages: u32,
    /// No start for the warm stock before this.
    pub(super) refill_at: Moment,
    /// No start at all before this.
    backoff_until: Moment,
    /// The last of those failures.
    last_failure: Option<Arc<str>>,
}

impl Pool {
    /// Of a kind that is new.
    pub(super) fn since(config: ConfigGeneration) -> Self {
        Self {
            current_since: config,
            ..Self::default()
        }
    }

    pub(super) fn occupied(&self) -> usize {
        self.starting.len() + self.warm.len() + self.bound + self.dying
    }

    /// How many more workers may start now, if there is memory for them.
    fn room(&self, rules: &Rules) -> usize {
        let starts = rules.max_starting.unwrap_or(usize::MAX);
        let slots = rules.max.saturating_sub(self.occupied());
        slots.min(starts.saturating_sub(self.starting.len()))
    }

    pub(super) fn backoff(&self, now: Moment) -> Option<Duration> {
        (self.backoff_until > now).then(|| self.backoff_until.since(now))
    }

    /// What whoever needs a start now is told while there is none.
    pub(super) fn refusal(&self, now: Moment) -> Option<Refusal> {
        let retry_after = self.backoff(now)?;
        let last = self.last_failure.clone()?;
        Some(Refusal::WorkerBackoff { retry_after, last })
    }

    /// A worker was bound. If it was a warm one, another takes its place a moment later, so that this start does not compete
    /// with the session's first request.
    pub(super) fn succeeded(&mut self, now: Moment) {
        self.failures = 0;
        self.shortages = 0;
        self.backoff_until = Moment::default();
        self.last_failure = None;
        let soon = now + BREATH;
        // Others who come before that do not put it off.
        if self.refill_at <= now || self.refill_at > soon {
            self.refill_at = soon;
        }
    }

    pub(super) fn failed(&mut self, why: Arc<str>, now: Moment) {
        self.last_failure = Some(why);
        self.failures = self.failures.saturating_add(1);
        let delay = delay(self.failures);
        self.refill_at = now + delay;
        if self.failures >= CRASH_LOOP {
            self.backoff_until = now + delay;
        }
    }

    /// herd could not start a worker. Whoever asks is told why, each time: the next start does not hang on the program, and
    /// what is short now may not be then. Only the warm stock waits longer and longer.
    pub(super) fn fell_short(&mut self, now: Moment) {
        self.shortages = self.shortages.saturating_add(1);
        self.refill_at = now + delay(self.shortages);
    }

    /// Its workers are to be others, and may start at once.
    pub(super) fn begin_anew(&mut self) {
        self.failures = 0;
        self.shortages = 0;
        self.refill_at = Moment::default();
        self.backoff_until = Moment::default();
        self.last_failure = None;
    }

    pub(super) fn leave_queue(&mut self, id: &SessionId) {
        self.waiting.retain(|waiting| waiting != id);
    }
}

/// After so many in a row.
fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY)
}

impl Core {
    /// Hands ready workers to waiting sessions, starts what is missing, ends what is too much, and
    /// refuses who has waited too long. Called after everything that changes a pool; idempotent.
    pub(super) fn reconcile(&mut self, kind: KindId, now: Moment) {
        let per_session = self.rules[kind.0].started_for == StartedFor::OneSession;
        if !per_session {
            while let (Some(worker), Some(id)) = (
                self.pools[kind.0].warm.front().copied(),
                self.pools[kind.0].waiting.front().cloned(),
            ) {
                self.pools[kind.0].warm.pop_front();
                self.bind(&id, worker, now);
            }
        }
        self.start_missing(kind, now);
        self.end_surplus(kind, now);
        self.cover_queue(kind, now);
        let pool = &self.pools[kind.0];
        let retry = pool.refill_at.max(pool.backoff_until);
        let wants_more = self.phase == Phase::Serving
            && (pool.starting.len() + pool.warm.len() < self.rules[kind.0].min || !pool.waiting.is_empty());
        let retry = (retry > now)
            .then_some(retry)
            .or_else(|| self.look_again(kind, now));
        self.timers.arm(Subject::Kind(kind), retry.filter(|_| wants_more));
    }

    fn start_missing(&mut self, kind: KindId, now: Moment) {
        if self.phase != Phase::Serving || self.pools[kind.0].backoff(now).is_some() {
            return;
        }
        let min = self.rules[kind.0].min;
        if self.rules[kind.0].started_for == StartedFor::OneSession {
            for id in self.pools[kind.0].waiting.clone() {
                if self.room(kind) == 0 {
                    break;
                }
                let Some(SessionState::Waiting { own: own @ None, .. }) =
                    self.sessions.get_mut(&id).map(|s| &mut s.state)
                else {
                    continue;
                };
                self.last_worker += 1;
                *own = Some(WorkerId(self.last_worker));
                self.begin_start(WorkerId(self.last_worker), kind, Some(id));
            }
            return;
        }
        loop {
            let pool = &self.pools[kind.0];
            let stock = if pool.refill_at > now { 0 } else { min };
            let wanted = pool.waiting.len() + stock.saturating_sub(pool.warm.len());
            if pool.starting.len() >= wanted || self.room(kind) == 0 {
                return;
            }
            let for_stock = pool.starting.len() >= pool.waiting.len();
            if for_stock && self.is_memory_waited_for(kind) {
                return;
            }
            self.last_worker += 1;
            self.begin_start(WorkerId(self.last_worker), kind, None);
        }
    }

    /// How many more workers may start now.
    pub(super) fn room(&self, kind: KindId) -> usize {
        self.pools[kind.0]
            .room(&self.rules[kind.0])
            .min(self.memory_room(kind))
    }

    /// For how many more of its workers there is memory.
    fn memory_room(&self, kind: KindId) -> usize {
        match (self.memory, self.rules[kind.0].memory) {
            (Some(memory), Some(need)) => usize::try_from(memory.left / need.max(1)).unwrap_or(usize::MAX),
            _ => usize::MAX,
        }
    }

    /// What is said to who asks for a worker, if what it may use is more than there will ever be.
    pub(super) fn never_fits(&self, kind: KindId) -> Option<Refusal> {
        let (of, memory) = (self.memory?, self.rules[kind.0].memory?);
        (memory > of.total).then(|| {
            Refusal::StartFailed(StartFailure {
                kind: StartFailureKind::TooLarge { memory, of },
                log_tail: Vec::new(),
            })
        })
    }

    /// By sessions of another kind, which come before this one's stock.
    fn is_memory_waited_for(&self, stock: KindId) -> bool {
        let others = (0..self.pools.len()).map(KindId).filter(|kind| *kind != stock);
        self.rules[stock.0].memory.is_some() && { others }
            .any(|kind| self.waits_for(kind) == Some(Lack::Memory))
    }

    /// When memory that a start waits for is to be looked at again. Nobody tells when some is free.
    fn look_again(&self, kind: KindId, now: Moment) -> Option<Moment> {
        self.rules[kind.0].memory?;
        self.memory?;
        let lacks = self.lack(kind) == Some(Lack::Memory);
        match (self.waits_for(kind), self.pools[kind.0].waiting.is_empty()) {
            (Some(Lack::Memory), _) => Some(now + WAITED_FOR),
            (_, true) if lacks || self.is_memory_waited_for(kind) => Some(now + STOCK),
            _ => None,
        }
    }

    /// Why no further worker of the kind can start now, if it is for want of something.
    pub(super) fn lack(&self, kind: KindId) -> Option<Lack> {
        let (pool, rules) = (&self.pools[kind.0], &self.rules[kind.0]);
        if pool.occupied() >= rules.max {
            Some(Lack::Slots)
        } else if pool.room(rules) == 0 {
            Some(Lack::Starts)
        } else if self.memory_room(kind) == 0 {
            Some(Lack::Memory)
        } else {
            None
        }
    }

    /// The same, if a session waits for it.
    pub(super) fn waits_for(&self, kind: KindId) -> Option<Lack> {
        let pool = &self.pools[kind.0];
        match pool.waiting.len() > pool.starting.len() {
            true => self.lack(kind),
            false => None,
        }
    }

    fn begin_start(&mut self, worker: WorkerId, kind: KindId, session: Option<SessionId>) {
        self.pools[kind.0].starting.push_back(worker);
        if let (Some(memory), Some(need)) = (&mut self.memory, self.rules[kind.0].memory) {
            memory.left = memory.left.saturating_sub(need);
        }
        self.workers.insert(
            worker,
            Worker {
                kind,
                config: self.config,
                state: WorkerState::Starting {
                    session: session.clone(),
                },
            },
        );
        self.outputs.push_back(Output::Start {
            worker,
            kind,
            session,
        });
    }

    /// Ends starts that nobody waits for any more, the youngest first, and warm workers beyond the
    /// stock. With `reuse: true` warm workers are the point, and go only for idleness.
    fn end_surplus(&mut self, kind: KindId, now: Moment) {
        let serving = self.phase == Phase::Serving;
        let stock = if serving { self.rules[kind.0].min } else { 0 };
        if self.rules[kind.0].started_for == StartedFor::OneSession {
            let orphans: Vec<WorkerId> = self.pools[kind.0]
                .starting
                .iter()
                .copied()
                .filter(|worker| !self.is_awaited(*worker))
                .collect();
            for worker in orphans {
                self.kill(worker);
            }
        } else {
            loop {
                let pool = &self.pools[kind.0];
                let wanted = pool.waiting.len() + stock.saturating_sub(pool.warm.len());
                match pool.starting.back().copied() {
                    Some(youngest) if pool.starting.len() > wanted => self.kill(youngest),
                    _ => break,
                }
            }
        }
        if serving && self.rules[kind.0].reuse == Reuse::AfterSession {
            return;
        }
        while self.pools[kind.0].warm.len() > stock {
            match self.pools[kind.0].warm.back().copied() {
                // It has never served, and is in the way of nobody who waits.
                Some(youngest) => self.terminate(youngest, now),
                None => break,
            }
        }
    }

    fn is_awaited(&self, worker: WorkerId) -> bool {
        let Some(Worker {
            state: WorkerState::Starting { session: Some(id) },
            ..
        }) = self.workers.get(&worker)
        else {
            return false;
        };
        matches!(
            self.sessions.get(id).map(|s| &s.state),
            Some(SessionState::Waiting { own: Some(own), .. }) if *own == worker
        )
    }

    /// Notes which waiting sessions a start covers, and refuses those that have waited too long for one, or would for ever.
    fn cover_queue(&mut self, kind: KindId, now: Moment) {
        let starting = self.pools[kind.0].starting.len();
        let per_session = self.rules[kind.0].started_for == StartedFor::OneSession;
        let timeout = self.rules[kind.0].queue_timeout;
        let never = self.never_fits(kind);
        let mut given_up = Vec::new();
        for (place, id) in self.pools[kind.0].waiting.iter().enumerate() {
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            let SessionState::Waiting {
                since, covered, own, ..
            } = &mut session.state
            else {
                continue;
            };
            let is_covered = if per_session {
                own.is_some()
            } else {
                place < starting
            };
            *covered = match (is_covered, *covered) {
                (true, None) => Some(now),
                (true, known) => known,
                (false, _) => None,
            };
            let deadline = *since + timeout;
            let subject = Subject::Session(super::reference(id, session));
            if is_covered {
                self.timers.arm(subject, None);
            } else if never.is_some() || deadline <= now {
                given_up.push(id.clone());
            } else {
                self.timers.arm(subject, Some(deadline));
            }
        }
        for id in given_up {
            let lack = self.lack(kind).unwrap_or(Lack::Slots);
            let waited = timeout;
            let late = Refusal::QueueTimeout { waited, lack };
            self.give_up(&id, never.as_ref().unwrap_or(&late), now);
        }
    }
}
