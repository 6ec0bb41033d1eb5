//! How bound sessions end: their holders leave, a clock runs out, somebody asks, their worker dies.

use std::sync::Arc;

use super::super::{EndReason, Idle, OnCrash, OnDisconnect, Reuse};
use super::{
    Afterwards, Core, Grace, Moment, Output, Phase, SessionId, SessionRef, SessionState, Subject, WorkerId,
    WorkerState, earliest, reference,
};

impl Core {
    /// A session's last holder, or its last hold, has left.
    pub fn attention(&mut self, session: &SessionRef, now: Moment) {
        if self.is_live(session) {
            self.consider_disconnect(&session.id, now);
        } else {
            self.consider_recycling(session, now);
        }
    }

    fn is_live(&self, session: &SessionRef) -> bool {
        self.sessions
            .get(&session.id)
            .is_some_and(|s| s.generation == session.generation)
    }

    /// Plans, or carries out, the end that a disconnect asks for.
    fn consider_disconnect(&mut self, id: &SessionId, now: Moment) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let rules = &self.rules[session.kind.0];
        let SessionState::Bound { holders, grace, .. } = &mut session.state else {
            return;
        };
        let seen = holders.snapshot();
        if seen.left {
            return self.end(id, EndReason::Disconnected, now);
        }
        let hold_gone = seen.ever_hold && seen.holds == 0;
        let unheld = seen.holders == 0;
        if seen.holds > 0 || !(unheld || hold_gone) || !(seen.ever_stream || seen.ever_hold) {
            return;
        }
        if !hold_gone && rules.on_disconnect == OnDisconnect::Ttl {
            holders.quieten_if_unchanged(seen.sequence);
            return;
        }
        match grace {
            // The same absence, seen again: its deadline stands.
            Some(armed) if armed.sequence == seen.sequence => {}
            _ => {
                *grace = Some(Grace {
                    at: now + rules.disconnect_grace,
                    sequence: seen.sequence,
                })
            }
        }
        self.session_due(&reference(id, &self.sessions[id]), now);
    }

    /// Looks at everything that may be due for a session, and arms what comes next.
    pub(super) fn session_due(&mut self, name: &SessionRef, now: Moment) {
        if !self.is_live(name) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&name.id) else {
            return;
        };
        let kind = session.kind;
        match &mut session.state {
            SessionState::Waiting { .. } => self.reconcile(kind, now),
            SessionState::Lost { until, .. } => {
                if *until <= now {
                    self.forget(&name.id);
                } else {
                    let until = *until;
                    self.timers.arm(Subject::Session(name.clone()), Some(until));
                }
            }
            SessionState::Bound {
                holders,
                grace,
                idle_check,
                lifetime_ends,
                ..
            } => {
                let mut ended = None;
                if lifetime_ends.is_some_and(|at| at <= now) {
                    ended = Some(EndReason::MaxLifetime);
                }
                if let Some(armed) = *grace
                    && armed.at <= now
                    && ended.is_none()
                {
                    // Whoever came since the absence was seen cancels the end.
                    match holders.close_if_unchanged(armed.sequence) {
                        true => ended = Some(EndReason::Disconnected),
                        false => *grace = None,
                    }
                }
                if let (Some(at), Some(ttl), None) = (*idle_check, self.rules[kind.0].ttl, &ended)
                    && at <= now
                {
                    match holders.close_if_idle(ttl, now) {
                        Idle::Closed => ended = Some(EndReason::Ttl),
                        Idle::LookAgain(at) => *idle_check = Some(at),
                    }
                }
                match ended {
                    Some(reason) => self.end(&name.id, reason, now),
                    None => {
                        let next = earliest([grace.map(|g| g.at), *idle_check, *lifetime_ends]);
                        self.timers.arm(Subject::Session(name.clone()), next);
                    }
                }
            }
        }
    }

    /// Ends a bound session: nobody can hold it any more, and its worker dies or is recycled. One that its last holder
    /// has left is ended by that, whatever is told of it first: its worker may be dead already for this reason.
    pub(super) fn end(&mut self, id: &SessionId, reason: EndReason, now: Moment) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let SessionState::Bound { worker, holders, .. } = &session.state else {
            return;
        };
        let (kind, name, worker, holders) =
            (session.kind, reference(id, session), *worker, Arc::clone(holders));
        holders.close();
        self.quotas.give_back(id);
        let reason = match holders.snapshot().left {
            true => EndReason::Disconnected,
            false => reason,
        };
        let afterwards = self.afterwards(worker, &reason);
        let recycled = afterwards == Afterwards::Recycled;
        // Nothing is left to be polite to, and nothing to wait for.
        if reason.is_at_once() && !recycled {
            self.kill(worker);
        }
        self.timers.arm(Subject::Session(name.clone()), None);
        self.outputs.push_back(Output::Ended {
            session: name.clone(),
            kind,
            worker: Some(worker),
            reason: reason.clone(),
            afterwards,
        });
        let rules = &self.rules[kind.0];
        if reason.is_loss() && rules.on_crash == OnCrash::Lost && self.phase == Phase::Serving {
            let until = now + rules.lost_for;
            if let Some(session) = self.sessions.get_mut(id) {
                session.state = SessionState::Lost {
                    reason: reason.clone(),
                    until,
                };
            }
            self.timers.arm(Subject::Session(name.clone()), Some(until));
        } else {
            self.sessions.remove(id);
        }
        match reason {
            // The caller has the dead worker in hand.
            EndReason::Crashed(_) => {}
            EndReason::Drained => self.terminate(worker, now),
            _ if recycled => {
                self.recycling.insert(name.clone(), worker);
                self.set_worker(
                    worker,
                    WorkerState::Recycling {
                        session: name.clone(),
                        holders,
                    },
                );
                self.consider_recycling(&name, now);
            }
            // Killed above.
            EndReason::Disconnected | EndReason::Stopped | EndReason::Revoked | EndReason::ProbeFailed(_) => {
            }
            EndReason::Ttl | EndReason::MaxLifetime => self.terminate(worker, now),
        }
        self.reconcile(kind, now);
    }

    /// What becomes of a bound session's worker, should it end now for this reason.
    pub(super) fn afterwards(&self, worker: WorkerId, reason: &EndReason) -> Afterwards {
        let Some(known) = self.workers.get(&worker) else {
            return Afterwards::Ends;
        };
        let reused = self.rules[known.kind.0].reuse == Reuse::AfterSession && self.phase == Phase::Serving;
        match reason {
            EndReason::Crashed(_) | EndReason::ProbeFailed(_) | EndReason::Drained => Afterwards::Ends,
            _ if reused && self.is_current(worker) => Afterwards::Recycled,
            _ => Afterwards::Ends,
        }
    }

    /// Ends every session and worker, politely where that is still possible.
    pub(super) fn end_all(&mut self, now: Moment) {
        self.phase = Phase::Ending;
        self.timers.arm(Subject::Drain, None);
        let ids: Vec<SessionId> = self.sessions.keys().cloned().collect();
        for id in ids {
            match self.sessions.get(&id).map(|s| &s.state) {
                Some(SessionState::Bound { .. }) => self.end(&id, EndReason::Drained, now),
                Some(SessionState::Lost { .. }) => self.forget(&id),
                _ => {}
            }
        }
        // Their next session will not come.
        let left: Vec<WorkerId> = self.recycling.values().copied().collect();
        for worker in left {
            self.terminate(worker, now);
        }
        self.check_drained();
    }
}
