//! Requests: attaching to a session, waiting for one, leaving.

use std::sync::Arc;
use std::time::Duration;

use super::super::{EndReason, Lack, Unqueued};
use super::pool::Standing;
use super::{
    Core, Generation, Holders, KindChoice, KindId, Moment, Origin, Output, Phase, Refusal, Remains, Request,
    Session, SessionId, SessionState, StartedFor, StopOutcome, Subject, Ticket, TicketId, Wait, Waited,
    WorkerId, WorkerState, earliest, reference,
};

/// What a refused client is told to wait where no better estimate exists.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Core {
    /// Binds the request to its session: now, once a worker is ready, or not at all. Answered by exactly
    /// one [`Output::Grant`] or [`Output::Refuse`], unless [`abandon`](Self::abandon)ed before.
    pub fn attach(&mut self, ticket: TicketId, request: Request, now: Moment) {
        if let Err(refusal) = self.try_attach(ticket, request, now) {
            let waited = Waited::default();
            self.outputs.push_back(Output::Refuse {
                ticket,
                refusal,
                waited,
            });
        }
    }

    fn try_attach(&mut self, ticket: TicketId, request: Request, now: Moment) -> Result<(), Refusal> {
        let Request {
            id,
            kind,
            holder,
            wait,
            remains,
        } = request;
        if let Some(session) = self.sessions.get_mut(&id) {
            let mismatch = matches!(kind, KindChoice::Named(named) if named != session.kind);
            match &mut session.state {
                SessionState::Lost { reason, until } => {
                    if remains == Remains::Respect && *until > now {
                        return Err(Refusal::SessionLost {
                            reason: reason.clone(),
                        });
                    }
                    self.forget(&id);
                }
                _ if mismatch => {
                    return Err(Refusal::WorkerMismatch {
                        bound_to: session.kind,
                    });
                }
                SessionState::Bound { holders, .. } => {
                    if holders.acquire(holder) {
                        let session = reference(&id, session);
                        let origin = Origin::Reused;
                        self.outputs.push_back(Output::Grant {
                            ticket,
                            session,
                            origin,
                            waited: Waited::default(),
                        });
                        return Ok(());
                    }
                    if !holders.snapshot().left {
                        let kind = session.kind;
                        return Err(self.at_capacity(kind, Unqueued::MayNotWait));
                    }
                    // Its last holder has left, and the message about that is still on its way. The next incarnation need
                    // not wait for it.
                    self.end(&id, EndReason::Disconnected, now);
                }
                SessionState::Waiting { tickets, covered, .. } => {
                    if wait == Wait::Refuse && covered.is_none() {
                        let kind = session.kind;
                        return Err(self.at_capacity(kind, Unqueued::MayNotWait));
                    }
                    tickets.push(Ticket {
                        id: ticket,
                        holder,
                        since: now,
                    });
                    self.tickets.insert(ticket, id);
                    return Ok(());
                }
            }
        }
        let (KindChoice::Named(kind) | KindChoice::Fallback(kind)) = kind;
        self.admit(&id, kind, wait, now)?;
        self.last_generation += 1;
        self.quotas.take(&id, now);
        let waiting = SessionState::Waiting {
            tickets: vec![Ticket {
                id: ticket,
                holder,
                since: now,
            }],
            since: now,
            covered: None,
            own: None,
        };
        let session = Session {
            generation: Generation(self.last_generation),
            kind,
            since: now,
            state: waiting,
        };
        self.sessions.insert(id.clone(), session);
        self.tickets.insert(ticket, id.clone());
        self.pools[kind.0].waiting.push_back(id);
        self.reconcile(kind, now);
        Ok(())
    }

    /// Whether one more session of this kind may wait for a worker.
    fn admit(&self, id: &SessionId, kind: KindId, wait: Wait, now: Moment) -> Result<(), Refusal> {
        if self.phase != Phase::Serving {
            return Err(Refusal::Draining);
        }
        if self.pools[kind.0].standing == Standing::Removed {
            return Err(Refusal::UnknownWorker);
        }
        self.quotas.admit(id, now)?;
        let (pool, rules) = (&self.pools[kind.0], &self.rules[kind.0]);
        if !pool.warm.is_empty() {
            return Ok(());
        }
        if let Some(refusal) = pool.refusal(now) {
            return Err(refusal);
        }
        if let Some(refusal) = self.never_fits(kind) {
            return Err(refusal);
        }
        let startable = self.room(kind);
        let coverable = match rules.started_for {
            StartedFor::Anyone => pool.starting.len() + startable,
            // Starts under way belong to those who wait already.
            StartedFor::OneSession => pool.waiting.len().min(pool.starting.len()) + startable,
        };
        let uncovered = (pool.waiting.len() + 1).saturating_sub(coverable);
        let (allowed, unqueued) = match wait {
            Wait::Refuse => (0, Unqueued::MayNotWait),
            Wait::Queue => (rules.queue_max, Unqueued::QueueFull),
        };
        if uncovered > allowed {
            return Err(self.at_capacity(kind, unqueued));
        }
        Ok(())
    }

    fn at_capacity(&self, kind: KindId, unqueued: Unqueued) -> Refusal {
        Refusal::AtCapacity {
            retry_after: RETRY_AFTER,
            lack: self.lack(kind).unwrap_or(Lack::Slots),
            unqueued,
        }
    }

    /// The client left while it waited; it gets no answer. Its place goes with the last of its session.
    pub fn abandon(&mut self, ticket: TicketId, now: Moment) {
        let Some(id) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let SessionState::Waiting { tickets, .. } = &mut session.state else {
            return;
        };
        tickets.retain(|t| t.id != ticket);
        if tickets.is_empty() {
            let kind = session.kind;
            self.forget(&id);
            self.reconcile(kind, now);
        }
    }

    /// Ends a session at once, whatever its stage.
    pub fn stop(&mut self, id: &SessionId, now: Moment) -> StopOutcome {
        let Some(session) = self.sessions.get(id) else {
            return StopOutcome::Unknown;
        };
        let (kind, name) = (session.kind, reference(id, session));
        match &session.state {
            SessionState::Bound { worker, .. } => {
                let worker = *worker;
                let afterwards = self.afterwards(worker, &EndReason::Stopped);
                self.end(id, EndReason::Stopped, now);
                StopOutcome::Ending {
                    session: name,
                    worker,
                    afterwards,
                }
            }
            SessionState::Waiting { .. } => {
                self.give_up(id, &Refusal::SessionStopped, now);
                self.reconcile(kind, now);
                StopOutcome::NeverStarted
            }
            SessionState::Lost { .. } => {
                self.forget(id);
                StopOutcome::Forgotten
            }
        }
    }

    /// Gives a waiting session its worker, and its requests their grants.
    pub(super) fn bind(&mut self, id: &SessionId, worker: WorkerId, now: Moment) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let SessionState::Waiting { tickets, covered, .. } = &mut session.state else {
            return;
        };
        let (tickets, covered) = (std::mem::take(tickets), *covered);
        let (kind, name) = (session.kind, reference(id, session));
        let rules = &self.rules[kind.0];
        let holders = Arc::new(Holders::new(now, rules.unheld()));
        let lifetime_ends = rules.max_lifetime.map(|limit| now + limit);
        let idle_check = rules.ttl.map(|ttl| now + ttl);
        session.state = SessionState::Bound {
            worker,
            holders: Arc::clone(&holders),
            grace: None,
            idle_check,
            lifetime_ends,
            since: now,
        };
        self.timers.arm(
            Subject::Session(name.clone()),
            earliest([idle_check, lifetime_ends]),
        );
        self.set_worker(worker, WorkerState::Bound { session: id.clone() });
        let pool = &mut self.pools[kind.0];
        pool.leave_queue(id);
        pool.bound += 1;
        pool.succeeded(now);
        self.outputs.push_back(Output::Bound {
            session: name.clone(),
            kind,
            worker,
            holders: holders.clone(),
        });
        let mut origin = Origin::Created;
        for ticket in tickets {
            self.tickets.remove(&ticket.id);
            let waited = ticket.waited(covered, now);
            if holders.acquire(ticket.holder) {
                self.outputs.push_back(Output::Grant {
                    ticket: ticket.id,
                    session: name.clone(),
                    origin,
                    waited,
                });
                origin = Origin::Reused;
            } else {
                let refusal = self.at_capacity(kind, Unqueued::MayNotWait);
                self.outputs.push_back(Output::Refuse {
                    ticket: ticket.id,
                    refusal,
                    waited,
                });
            }
        }
    }

    /// Refuses every request of a waiting session and forgets it. The caller reconciles.
    pub(super) fn give_up(&mut self, id: &SessionId, refusal: &Refusal, now: Moment) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let SessionState::Waiting { tickets, covered, .. } = &mut session.state else {
            return;
        };
        let covered = *covered;
        for ticket in std::mem::take(tickets) {
            self.tickets.remove(&ticket.id);
            self.outputs.push_back(Output::Refuse {
                ticket: ticket.id,
                refusal: refusal.clone(),
                waited: ticket.waited(covered, now),
            });
        }
        self.forget(id);
    }

    /// Drops a session that has no worker.
    pub(super) fn forget(&mut self, id: &SessionId) {
        if let Some(session) = self.sessions.remove(id) {
            // A lost one has given its place back already.
            if matches!(session.state, SessionState::Waiting { .. }) {
                self.quotas.give_back(id);
            }
            self.timers.arm(Subject::Session(reference(id, &session)), None);
            self.pools[session.kind.0].leave_queue(id);
        }
    }
}
