//! What has to hold: the core's outputs, carried out in a small model, and what is checked after every step.

use std::collections::HashSet;
use std::sync::Arc;

use herd::core::{
    Afterwards, EndReason, Holders, KindId, Lack, Origin, Output, Refusal, Reuse, SessionId, SessionRef,
    Stage, StartedFor, TicketId, WorkerId,
};

use super::{Held, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Starting,
    Ready,
    Terminated,
    Killed,
}

pub(super) struct ModelWorker {
    pub(super) kind: KindId,
    /// Under which configuration it was started.
    pub(super) config: u64,
    pub(super) life: Life,
    pub(super) session: Option<SessionRef>,
    pub(super) started_for: Option<SessionId>,
    bindings: usize,
}

/// What reloads have made of a kind.
#[derive(Clone)]
pub(super) struct ModelKind {
    pub(super) present: bool,
    /// Workers of an earlier configuration serve nobody new.
    pub(super) current_since: u64,
    /// Workers there may be: `max`, or as many as there were when it was lowered below that.
    most: usize,
    /// The same of waiting sessions.
    most_waiting: usize,
}

impl ModelKind {
    pub(super) fn new(current_since: u64) -> Self {
        Self {
            present: true,
            current_since,
            most: 0,
            most_waiting: 0,
        }
    }
}

impl World {
    /// Carries the outputs out, then checks everything.
    pub(super) fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.say(|| format!("    {output:?}"));
            self.carry_out(output);
        }
        self.check();
    }

    fn answer(&mut self, ticket: TicketId) -> SessionId {
        assert!(
            self.answered.insert(ticket),
            "{ticket} was answered twice, or after it left"
        );
        self.waiting
            .remove(&ticket)
            .unwrap_or_else(|| panic!("{ticket} was never asked"))
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Start {
                worker,
                kind,
                session,
            } => {
                let one_session = self.rules[kind.0].started_for == StartedFor::OneSession;
                assert_eq!(session.is_some(), one_session);
                assert!(!self.draining, "a worker was started while draining");
                assert!(
                    self.kinds[kind.0].present,
                    "a worker of {kind} was started, which was removed"
                );
                let life = Life::Starting;
                let model = ModelWorker {
                    kind,
                    config: self.config,
                    life,
                    session: None,
                    started_for: session,
                    bindings: 0,
                };
                let start = |w: &&ModelWorker| w.kind == kind && w.life == Life::Starting;
                let starting = 1 + self.workers.values().filter(start).count();
                if let Some(most) = self.rules[kind.0].max_starting {
                    assert!(
                        starting <= most,
                        "{starting} of {kind} start at a time, not {most}"
                    );
                }
                if let (Some(memory), Some(need)) = (&mut self.memory, self.rules[kind.0].memory) {
                    assert!(need <= memory.left, "{need} was promised of {memory:?}");
                    memory.left -= need;
                }
                assert!(
                    self.workers.insert(worker, model).is_none(),
                    "worker id {worker} was used twice"
                );
                self.count("starts");
            }
            Output::Terminate { worker } => {
                let model = self
                    .workers
                    .get_mut(&worker)
                    .expect("a worker that is gone was terminated");
                assert!(
                    matches!(model.life, Life::Starting | Life::Ready),
                    "terminated twice"
                );
                model.life = Life::Terminated;
                self.harm += 1;
            }
            Output::Kill { worker } => {
                let model = self
                    .workers
                    .get_mut(&worker)
                    .expect("a worker that is gone was killed");
                assert_ne!(model.life, Life::Killed, "killed twice");
                model.life = Life::Killed;
                self.harm += 1;
            }
            Output::Bound {
                session,
                kind,
                worker,
                holders,
            } => {
                self.bind(session, kind, worker, holders);
            }
            Output::Grant {
                ticket,
                session,
                origin,
                ..
            } => {
                assert_eq!(self.answer(ticket), session.id);
                let (_, holders) = self
                    .bound
                    .get(&session)
                    .expect("granted a session that is not bound");
                let holders = Arc::clone(holders);
                self.count(if origin == Origin::Created {
                    "created"
                } else {
                    "reused"
                });
                let worker = self.bound[&session].0;
                let kind = self
                    .workers
                    .get(&worker)
                    .map(|w| (w.config, self.kinds[w.kind.0].current_since));
                if kind.is_some_and(|(config, since)| config < since) {
                    self.count("served across a reload");
                }
                let holder = self.holder_of[&ticket];
                self.held.push(Held {
                    session,
                    holders,
                    holder,
                });
            }
            Output::Refuse { ticket, refusal, .. } => {
                let id = self.answer(ticket);
                self.count("refused");
                if let Refusal::QuotaExceeded { quota, retry_after } = refusal {
                    self.over_quota(&id, quota, retry_after);
                }
            }
            Output::Ended {
                session,
                kind,
                worker,
                reason,
                afterwards,
            } => {
                if let (Afterwards::Recycled, Some(worker)) = (afterwards, worker) {
                    assert_eq!(self.rules[kind.0].reuse, Reuse::AfterSession);
                    assert!(
                        self.workers[&worker].config >= self.kinds[kind.0].current_since,
                        "{worker} of an old configuration is used again"
                    );
                }
                self.harm += 1;
                self.unbind(session, worker, reason);
            }
            Output::Drained => self.drained += 1,
        }
    }

    fn bind(&mut self, session: SessionRef, kind: KindId, worker: WorkerId, holders: Arc<Holders>) {
        let model = self
            .workers
            .get_mut(&worker)
            .expect("bound to a worker that is gone");
        assert_eq!(model.life, Life::Ready, "bound to a worker that cannot serve");
        assert_eq!(model.kind, kind);
        assert_eq!(model.session, None, "{worker} serves two sessions");
        assert!(
            model.config >= self.kinds[kind.0].current_since,
            "{worker} of an old configuration serves a new session"
        );
        assert!(
            self.kinds[kind.0].present,
            "a session of a kind that was removed begins"
        );
        model.bindings += 1;
        let reused = self.rules[kind.0].reuse == Reuse::AfterSession;
        assert!(
            model.bindings == 1 || reused,
            "{worker} serves a second session without `reuse`"
        );
        if let Some(id) = &model.started_for {
            assert_eq!(*id, session.id, "{worker} was started for another session");
        }
        model.session = Some(session.clone());
        let holder = self
            .held
            .iter()
            .find(|held| self.served_by.get(&held.session) == Some(&worker));
        assert!(
            holder.is_none(),
            "{worker} serves anew while its old session is still held"
        );
        let twice = self.bound.keys().any(|s| s.id == session.id);
        assert!(!twice, "{} is bound to two workers", session.id);
        self.served_by.insert(session.clone(), worker);
        self.bound.insert(session, (worker, holders));
        self.count("bound");
    }

    fn unbind(&mut self, session: SessionRef, worker: Option<WorkerId>, reason: EndReason) {
        let (bound_to, holders) = self
            .bound
            .remove(&session)
            .expect("ended without having been bound");
        assert_eq!(worker, Some(bound_to));
        assert!(holders.snapshot().closed, "an ended session can still be held");
        assert!(
            !holders.snapshot().left || reason == EndReason::Disconnected,
            "its last holder left, and it ended otherwise: {reason}"
        );
        if let Some(model) = self.workers.get_mut(&bound_to) {
            model.session = None;
        }
        if reason == EndReason::Ttl {
            let held = self.held.iter().any(|h| h.session == session);
            assert!(!held, "evicted for idleness while held");
        }
        self.count(match reason {
            EndReason::Stopped => "stopped",
            EndReason::Disconnected => "disconnected",
            EndReason::Ttl => "ttl",
            EndReason::MaxLifetime => "max_lifetime",
            EndReason::Crashed(_) => "crashed",
            EndReason::ProbeFailed(_) => "probe_failed",
            EndReason::Drained => "drained",
            EndReason::Revoked => "revoked",
        });
        self.ended.push(session);
    }

    fn check(&mut self) {
        self.check_principals();
        for index in 0..self.rules.len() {
            match self.core.counts(KindId(index), self.now).waits_for {
                Some(Lack::Starts) => self.count("waited for a start"),
                Some(Lack::Memory) => self.count("waited for memory"),
                Some(Lack::Slots) | None => {}
            }
        }
        for (index, rules) in self.rules.iter().enumerate() {
            let kind = KindId(index);
            let counts = self.core.counts(kind, self.now);
            let occupied = counts.starting + counts.warm + counts.bound + counts.dying;
            let model = &mut self.kinds[index];
            assert!(
                occupied <= model.most.max(rules.max),
                "{kind}: {counts:?} exceeds max {}",
                rules.max
            );
            // A start that was begun under a higher `max` covers who waits for it.
            let covered = model.most.max(rules.max);
            model.most = occupied;
            let alive = self.workers.values().filter(|w| w.kind == kind).count();
            assert_eq!(occupied, alive, "{kind}: {counts:?} but {alive} workers live");
            let bound = self
                .bound
                .values()
                .filter(|(w, _)| self.workers[w].kind == kind)
                .count();
            assert!(
                counts.bound >= bound,
                "{kind}: {counts:?} but {bound} sessions are bound"
            );
            let limit = (rules.queue_max + covered).max(model.most_waiting);
            let stages = self
                .core
                .sessions()
                .filter(|session| session.kind == kind)
                .map(|session| session.stage);
            let (queued, starting) = stages.fold((0, 0), |(queued, starting), stage| match stage {
                Stage::Queued => (queued + 1, starting),
                Stage::Starting => (queued, starting + 1),
                Stage::Bound { .. } | Stage::Lost { .. } => (queued, starting),
            });
            assert_eq!(counts.queued, queued, "{kind}: {counts:?}");
            let waiting = queued + starting;
            model.most_waiting = waiting;
            if !model.present {
                let none = (counts.starting, counts.warm, waiting);
                assert_eq!(none, (0, 0, 0), "{kind} was removed: {counts:?}");
            }
            let since = model.current_since;
            let outdated = |w: &&ModelWorker| w.kind == kind && w.config < since;
            let outdated = self.workers.values().filter(outdated).count();
            assert_eq!(counts.outdated, outdated, "{kind}: {counts:?}");
            assert!(waiting <= limit, "{kind}: {waiting} wait, over the limit {limit}");
            if waiting > 0 {
                assert_eq!(counts.warm, 0, "{kind}: a warm worker idles while sessions wait");
            }
            if rules.reuse == Reuse::Never && !self.draining {
                assert!(
                    counts.warm <= rules.min,
                    "{kind}: {counts:?} keeps more warm than {}",
                    rules.min
                );
            }
        }
        for (session, (worker, holders)) in &self.bound {
            let serving = self.workers.get(worker).and_then(|w| w.session.as_ref());
            assert_eq!(serving, Some(session), "{session:?} and {worker} disagree");
            let held = self.held.iter().filter(|h| h.session == *session).count();
            assert_eq!(
                holders.snapshot().holders as usize,
                held,
                "holders of {session:?}"
            );
            let seen = holders.snapshot();
            assert!(
                !seen.closed || seen.left && self.notices.contains(session),
                "{session:?} is closed but was not ended"
            );
        }
        let live: HashSet<SessionId> = self.core.sessions().map(|s| s.session.id).collect();
        for (ticket, id) in &self.waiting {
            assert!(live.contains(id), "{ticket} waits for {id}, which does not exist");
        }
    }
}
