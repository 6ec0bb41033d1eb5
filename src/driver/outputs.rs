//! What the core has decided, carried out.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::attention::Listed;
use super::handle::{Attached, Granted, NotAttached, Origin};
use super::journal::Event as JournalEvent;
use super::{Crew, Driver, Hold, Session, Staff, records};
use crate::core::{Afterwards, EndReason, Holders, KindId, Output, SessionRef, TicketId, Waited, WorkerId};

impl<C: Crew> Driver<C> {
    /// Does everything the core has asked for.
    pub(super) fn carry_out(&mut self) {
        let mut created = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Start {
                    worker,
                    kind,
                    session,
                } => {
                    let Some(make) = self.makes.get(kind.0) else {
                        continue;
                    };
                    self.staff.insert(
                        worker,
                        Staff {
                            kind,
                            config: self.core.config_generation(),
                            sandboxing: make.sandboxing(),
                            endpoint: None,
                            pulse: Arc::default(),
                            session: None,
                            left: None,
                        },
                    );
                    self.crew.start(worker, make, session.as_ref());
                }
                Output::Terminate { worker } => self.crew.terminate(worker),
                Output::Kill { worker } => self.crew.kill(worker),
                Output::Bound {
                    session,
                    kind,
                    worker,
                    holders,
                } => created.extend(self.bound(session, kind, worker, holders)),
                Output::Grant {
                    ticket,
                    session,
                    origin,
                    waited,
                } => {
                    self.grant(ticket, &session, origin, waited);
                }
                Output::Refuse {
                    ticket,
                    refusal,
                    waited,
                } => {
                    if let Some(waiter) = self.waiters.remove(&ticket) {
                        let kind = self.name_of(waiter.kind);
                        self.metrics.refused(kind, refusal.code());
                        let _ = waiter.reply.send(Err(NotAttached { refusal, waited }));
                    }
                }
                Output::Ended {
                    session,
                    reason,
                    worker,
                    afterwards,
                    ..
                } => self.ended(&session, reason, worker, afterwards),
                Output::Drained => self.drained = true,
            }
        }
        // Not before the grants, which somebody waits for.
        for session in created {
            let (kind, worker, pid) = (&session.kind.name, session.worker, self.crew.pid(session.worker));
            info!(session = %session.name.id, kind, %worker, pid, endpoint = %session.endpoint, "session created");
        }
    }

    pub(super) fn bound(
        &mut self,
        name: SessionRef,
        kind_id: KindId,
        worker: WorkerId,
        holders: Arc<Holders>,
    ) -> Option<Arc<Session>> {
        let staff = self.staff.get_mut(&worker)?;
        let endpoint = staff.endpoint.clone()?;
        staff.session = Some(name.clone());
        let (config, sandboxing) = (staff.config, staff.sandboxing);
        let pulse = Arc::clone(&staff.pulse);
        let kind = Arc::clone(&self.makes.get(kind_id.0)?.kind);
        let pid = self.crew.pid(worker);
        self.records.bound(records::Bound {
            session: &name,
            kind: &kind.name,
            worker,
            config,
            sandboxing,
            pid,
            endpoint: endpoint.to_string(),
            since: self
                .core
                .session(&name.id)
                .map_or(self.clock.now(), |live| live.since),
        });
        self.journal.push(JournalEvent::SessionCreated {
            session: name.clone(),
            kind: kind.name.clone(),
            worker,
            pid,
        });
        let session = Session {
            name: name.clone(),
            kind_id,
            kind,
            worker,
            endpoint,
            pulse,
            holders,
            kill_switch: self.crew.kill_switch(worker),
            end: watch::Sender::new(None),
            attention: Arc::clone(&self.attention),
            listed: Listed::new(),
            clock: self.clock,
            bound: self.clock.now(),
        };
        let session = Arc::new(session);
        self.live.insert(name, Arc::clone(&session));
        Some(session)
    }

    pub(super) fn grant(&mut self, ticket: TicketId, name: &SessionRef, origin: Origin, waited: Waited) {
        let (Some(waiter), Some(session)) = (self.waiters.remove(&ticket), self.live.get(name)) else {
            return;
        };
        if origin == Origin::Created {
            self.metrics
                .created(&session.kind.name, waited.queued, waited.starting);
        }
        let hold = Hold::granted(Arc::clone(session), waiter.holder);
        let attached = Attached { hold, origin, waited };
        // If the client has left, the grant comes back here and is undone at once.
        let _ = waiter.reply.send(Ok(Granted::new(attached)));
    }

    pub(super) fn ended(
        &mut self,
        name: &SessionRef,
        reason: EndReason,
        worker: Option<WorkerId>,
        afterwards: Afterwards,
    ) {
        info!(session = %name.id, reason = reason.code(), "session ended: {reason}");
        let recycled = afterwards == Afterwards::Recycled;
        if recycled && let Some(staff) = worker.and_then(|worker| self.staff.get_mut(&worker)) {
            staff.session = None;
        }
        self.records.ended_now(name, reason.clone(), afterwards);
        if let Some(session) = self.live.remove(name) {
            let now = self.clock.now();
            let kind = &session.kind;
            self.metrics
                .ended(&kind.name, reason.code(), now.since(session.bound));
            if matches!(reason, EndReason::Crashed(_)) {
                self.metrics.crashed(&kind.name);
            }
            if reason == EndReason::Disconnected
                && !recycled
                && let Some(staff) = worker.and_then(|worker| self.staff.get_mut(&worker))
            {
                let grace = self
                    .makes
                    .get(session.kind_id.0)
                    .map(|make| make.kind.disconnect_grace);
                staff.left = Some(match grace.unwrap_or_default().is_zero() {
                    true => session.holders.last_release(),
                    false => now,
                });
            }
            self.journal.push(JournalEvent::SessionEnded {
                session: name.clone(),
                kind: session.kind.name.clone(),
                reason: reason.clone(),
                recycled,
            });
            session.end.send_replace(Some(reason));
        }
        // Nobody listening is fine: no cache, nothing to forget.
        let _ = self.endings.send(name.clone());
    }
}
