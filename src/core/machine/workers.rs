//! Workers: what the driver reports of them, and how they are told to end.

use super::super::{EndReason, Exit, Reuse, StartFailure, StartFailureKind, Unwell};
use super::{
    Core, KindId, Moment, Output, Phase, Refusal, SessionId, SessionRef, SessionState, StartedFor, Subject,
    WorkerId, WorkerState,
};

impl Core {
    /// A started worker can serve.
    pub fn worker_ready(&mut self, worker: WorkerId, now: Moment) {
        let Some(known) = self.workers.get(&worker) else {
            return;
        };
        let kind = known.kind;
        // A worker that was given up while it started is dying already.
        let WorkerState::Starting { session } = &known.state else {
            return;
        };
        match session.clone() {
            Some(id) => {
                if self.is_waiting_for(&id, worker) {
                    self.pools[kind.0].starting.retain(|w| *w != worker);
                    self.bind(&id, worker, now);
                } else {
                    self.kill(worker);
                }
            }
            None => {
                self.pools[kind.0].starting.retain(|w| *w != worker);
                self.make_warm(worker, kind, now);
            }
        }
        self.reconcile(kind, now);
    }

    /// A worker did not become ready. It is killed; the session that waits longest is told why, if this
    /// start was needed for the queue.
    pub fn worker_failed(&mut self, worker: WorkerId, failure: StartFailure, now: Moment) {
        let Some(known) = self.workers.get(&worker) else {
            return;
        };
        let kind = known.kind;
        let WorkerState::Starting { session } = &known.state else {
            return;
        };
        let own = session.clone();
        self.kill(worker);
        self.start_failed(worker, kind, own, failure, now);
    }

    /// The worker's whole tree is gone and reaped; its slot is free.
    pub fn worker_gone(&mut self, worker: WorkerId, exit: Exit, now: Moment) {
        let Some(known) = self.workers.get(&worker) else {
            return;
        };
        let kind = known.kind;
        match &known.state {
            WorkerState::Starting { session } => {
                let own = session.clone();
                let failure = StartFailure {
                    kind: StartFailureKind::Exited(exit),
                    log_tail: Vec::new(),
                };
                self.drop_worker(worker, kind);
                self.start_failed(worker, kind, own, failure, now);
            }
            WorkerState::Warm { .. } => {
                self.drop_worker(worker, kind);
                let why = StartFailureKind::Unused(exit).to_string();
                self.pools[kind.0].failed(why.into(), now);
            }
            WorkerState::Bound { session } => {
                let id = session.clone();
                self.drop_worker(worker, kind);
                self.end(&id, EndReason::Crashed(exit), now);
            }
            WorkerState::Recycling { .. } | WorkerState::Dying { .. } => self.drop_worker(worker, kind),
        }
        self.reconcile(kind, now);
        self.check_drained();
    }

    /// Whether it is ready, and serves nobody.
    pub fn is_warm(&self, worker: WorkerId) -> bool {
        matches!(
            self.workers.get(&worker).map(|known| &known.state),
            Some(WorkerState::Warm { .. })
        )
    }

    /// Whether it is ready, and not told to end.
    pub fn is_up(&self, worker: WorkerId) -> bool {
        matches!(
            self.workers.get(&worker).map(|known| &known.state),
            Some(WorkerState::Warm { .. } | WorkerState::Bound { .. } | WorkerState::Recycling { .. })
        )
    }

    /// A ready worker is not alive any more, as far as probes tell. It is killed, and its session ends as by a crash.
    pub fn worker_unwell(&mut self, worker: WorkerId, unwell: Unwell, now: Moment) {
        let Some(known) = self.workers.get(&worker) else {
            return;
        };
        let kind = known.kind;
        match &known.state {
            // Nobody probes a worker that starts, and one that is dying needs no verdict.
            WorkerState::Starting { .. } | WorkerState::Dying { .. } => return,
            WorkerState::Warm { .. } => {
                self.kill(worker);
                let why = format!("a worker was killed before it was needed: it {unwell}");
                self.pools[kind.0].failed(why.into(), now);
            }
            WorkerState::Bound { session } => {
                let id = session.clone();
                self.end(&id, EndReason::ProbeFailed(unwell), now);
            }
            WorkerState::Recycling { .. } => self.kill(worker),
        }
        self.reconcile(kind, now);
    }

    fn start_failed(
        &mut self,
        worker: WorkerId,
        kind: KindId,
        own: Option<SessionId>,
        failure: StartFailure,
        now: Moment,
    ) {
        let pool = &mut self.pools[kind.0];
        match failure.kind {
            StartFailureKind::Resource { .. } => pool.fell_short(now),
            _ => pool.failed(failure.to_string().into(), now),
        }
        let looping = pool.refusal(now);
        let victim = match self.rules[kind.0].started_for {
            StartedFor::OneSession => own.filter(|id| self.is_waiting_for(id, worker)),
            // Starts that go on may still cover everybody.
            StartedFor::Anyone if pool.starting.len() >= pool.waiting.len() => None,
            StartedFor::Anyone => pool.waiting.front().cloned(),
        };
        if let Some(id) = victim {
            self.give_up(&id, &Refusal::StartFailed(failure), now);
        }
        if let Some(refusal) = looping {
            let uncovered: Vec<SessionId> = self.pools[kind.0]
                .waiting
                .iter()
                .skip(self.pools[kind.0].starting.len())
                .cloned()
                .collect();
            for id in uncovered {
                self.give_up(&id, &refusal, now);
            }
        }
        self.reconcile(kind, now);
    }

    fn is_waiting_for(&self, id: &SessionId, worker: WorkerId) -> bool {
        matches!(
            self.sessions.get(id).map(|s| &s.state),
            Some(SessionState::Waiting { own: Some(own), .. }) if *own == worker
        )
    }

    /// Puts a worker whose session has ended back into stock, once that session's holders and guests have left.
    pub(super) fn consider_recycling(&mut self, session: &SessionRef, now: Moment) {
        let Some(worker) = self.recycling.get(session).copied() else {
            return;
        };
        let Some(known) = self.workers.get(&worker) else {
            return;
        };
        if let WorkerState::Recycling { holders, .. } = &known.state
            && holders.snapshot().is_empty()
        {
            let kind = known.kind;
            self.recycling.remove(session);
            self.pools[kind.0].bound -= 1;
            self.make_warm(worker, kind, now);
            self.reconcile(kind, now);
        }
    }

    /// Whether it is as the present configuration wants it.
    pub(super) fn is_current(&self, worker: WorkerId) -> bool {
        self.workers
            .get(&worker)
            .is_some_and(|known| known.config >= self.pools[known.kind.0].current_since)
    }

    fn make_warm(&mut self, worker: WorkerId, kind: KindId, now: Moment) {
        // Stock beyond `min` exists only with `reuse: true`; it is let go after the kind's ttl.
        let rules = &self.rules[kind.0];
        let evict_at = rules
            .ttl
            .filter(|_| rules.reuse == Reuse::AfterSession)
            .map(|ttl| now + ttl);
        self.set_worker(worker, WorkerState::Warm { evict_at });
        self.timers.arm(Subject::Worker(worker), evict_at);
        self.pools[kind.0].warm.push_back(worker);
    }

    /// Polite: SIGTERM now, SIGKILL after `stop_timeout`.
    pub(super) fn terminate(&mut self, worker: WorkerId, now: Moment) {
        if let Some(kind) = self.leave_pool(worker) {
            let kill_at = now + self.rules[kind.0].stop_timeout;
            self.pools[kind.0].dying += 1;
            self.set_worker(
                worker,
                WorkerState::Dying {
                    kill_at: Some(kill_at),
                },
            );
            self.timers.arm(Subject::Worker(worker), Some(kill_at));
            self.outputs.push_back(Output::Terminate { worker });
        }
    }

    /// SIGKILL to the whole tree, whatever the worker does.
    pub(super) fn kill(&mut self, worker: WorkerId) {
        let left = self.leave_pool(worker);
        if let Some(kind) = left {
            self.pools[kind.0].dying += 1;
        } else if !self.is_politely_dying(worker) {
            return;
        }
        self.set_worker(worker, WorkerState::Dying { kill_at: None });
        self.timers.arm(Subject::Worker(worker), None);
        self.outputs.push_back(Output::Kill { worker });
    }

    /// Nobody waits any more for a worker that was told to end politely.
    pub fn hasten(&mut self, worker: WorkerId) {
        if self.is_politely_dying(worker) {
            self.kill(worker);
        }
    }

    pub(super) fn worker_due(&mut self, worker: WorkerId, now: Moment) {
        let Some(known) = self.workers.get(&worker) else {
            return;
        };
        let kind = known.kind;
        match &known.state {
            WorkerState::Dying { kill_at: Some(at) } if *at <= now => self.kill(worker),
            WorkerState::Warm { evict_at: Some(at) } if *at <= now => {
                if self.pools[kind.0].warm.len() > self.rules[kind.0].min || self.phase != Phase::Serving {
                    self.terminate(worker, now);
                } else {
                    // It is part of the stock now; should it ever be surplus, its time starts anew.
                    let evict_at = self.rules[kind.0].ttl.map(|ttl| now + ttl);
                    self.set_worker(worker, WorkerState::Warm { evict_at });
                    self.timers.arm(Subject::Worker(worker), evict_at);
                }
            }
            _ => {}
        }
    }

    fn is_politely_dying(&self, worker: WorkerId) -> bool {
        matches!(
            self.workers.get(&worker).map(|w| &w.state),
            Some(WorkerState::Dying { kill_at: Some(_) })
        )
    }

    pub(super) fn set_worker(&mut self, worker: WorkerId, state: WorkerState) {
        if let Some(known) = self.workers.get_mut(&worker) {
            known.state = state;
        }
    }

    /// Takes a living worker out of its pool's lists; `None` if it is dying already.
    fn leave_pool(&mut self, worker: WorkerId) -> Option<KindId> {
        let known = self.workers.get(&worker)?;
        let pool = &mut self.pools[known.kind.0];
        match &known.state {
            WorkerState::Starting { .. } => pool.starting.retain(|w| *w != worker),
            WorkerState::Warm { .. } => pool.warm.retain(|w| *w != worker),
            WorkerState::Bound { .. } => pool.bound -= 1,
            WorkerState::Recycling { session, .. } => {
                pool.bound -= 1;
                self.recycling.remove(session);
            }
            WorkerState::Dying { .. } => return None,
        }
        Some(known.kind)
    }

    /// Forgets a worker that is gone.
    fn drop_worker(&mut self, worker: WorkerId, kind: KindId) {
        if self.leave_pool(worker).is_none() {
            self.pools[kind.0].dying -= 1;
        }
        if !self.is_current(worker) {
            self.pools[kind.0].outdated -= 1;
        }
        self.timers.arm(Subject::Worker(worker), None);
        self.workers.remove(&worker);
    }
}
