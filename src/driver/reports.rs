//! What workers and their host tell the driver, told to the core.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::handle::Stopped;
use super::journal::Event as JournalEvent;
use super::{Crew, Driver};
use crate::config::MemoryAdmission;
use crate::core::{Exit, Memory, StartFailureKind, Unwell, WorkerId};
use crate::worker::{Death, Event, Probes};

impl<C: Crew> Driver<C> {
    /// Tells the core what memory is left, before it may start workers.
    pub(super) fn weigh(&mut self) {
        let admission = &self.config.admission;
        if admission.memory == MemoryAdmission::Off {
            return self.core.weigh(None);
        }
        if self.makes.iter().all(|make| make.memory().is_none()) {
            return;
        }
        if let Some(Memory { left, total }) = self.crew.memory() {
            self.core.weigh(Some(Memory {
                left: left.saturating_sub(admission.reserve),
                total: total.saturating_sub(admission.reserve),
            }));
        }
    }

    pub(super) fn worker_event(&mut self, event: Event) {
        self.weigh();
        let now = self.clock.now();
        match event {
            Event::Ready { worker, endpoint } => {
                if let Some(staff) = self.staff.get_mut(&worker) {
                    staff.endpoint = Some(endpoint);
                }
                let kind = self.kind_name(worker).to_owned();
                self.journal.push(JournalEvent::WorkerReady { worker, kind });
                let probes = self.probes(worker);
                if probes.is_some() {
                    self.crew.watch(worker, probes);
                }
                self.core.worker_ready(worker, now);
            }
            Event::StartFailed { worker, failure } => {
                let kind = self.kind_name(worker).to_owned();
                let last = failure.log_tail.last().map(String::as_str).unwrap_or_default();
                warn!(%worker, kind, %failure, last_line = last, "worker did not start");
                self.metrics.start_failed(&kind, failure.kind.code());
                self.journal.push(JournalEvent::WorkerFailed {
                    worker,
                    kind,
                    failure: failure.to_string(),
                });
                self.core.worker_failed(worker, failure, now);
            }
            Event::ProbeFailed {
                worker,
                strike,
                of,
                what,
            } => self.probe_failed(worker, strike, of, what),
            Event::Gone { worker, death } => self.worker_gone(worker, death),
        }
    }

    /// How a worker is to be asked whether it is alive, by the configuration of its kind. `None`: not at all.
    pub(super) fn probes(&self, worker: WorkerId) -> Option<Probes> {
        let staff = self.staff.get(&worker)?;
        let kind = &self.makes.get(staff.kind.0)?.kind;
        Some(Probes {
            endpoint: staff.endpoint.clone()?,
            protocol: kind.protocol,
            liveness: kind.liveness.clone()?,
            pulse: Arc::clone(&staff.pulse),
        })
    }

    pub(super) fn probe_failed(&mut self, worker: WorkerId, strike: u32, of: u32, what: String) {
        // Its end may have been decided while this was on its way.
        if !self.core.is_up(worker) {
            return;
        }
        let kind = self.kind_name(worker).to_owned();
        let session = self.staff.get(&worker).and_then(|staff| staff.session.as_ref());
        let session = session.map(|session| tracing::field::display(&session.id));
        self.metrics.probe_failed(&kind);
        if strike < of {
            debug!(session, %worker, kind, strike, of, "liveness probe failed: {what}");
            return;
        }
        let unwell = Unwell {
            failures: strike,
            last: what,
        };
        warn!(session, %worker, kind, "the worker {unwell}; it is killed");
        self.journal.push(JournalEvent::WorkerUnwell {
            worker,
            kind,
            unwell: unwell.to_string(),
        });
        self.core.worker_unwell(worker, unwell, self.clock.now());
    }

    /// Nobody has missed it, but its kind may come to be refused for that.
    fn ended_unused(&self, worker: WorkerId, exit: Exit) {
        let kind = self.kind_name(worker).to_owned();
        let failure = StartFailureKind::Unused(exit);
        warn!(%worker, kind, "{failure}");
        self.metrics.start_failed(&kind, failure.code());
        self.journal.push(JournalEvent::WorkerFailed {
            worker,
            kind,
            failure: failure.to_string(),
        });
    }

    pub(super) fn worker_gone(&mut self, worker: WorkerId, death: Death) {
        if self.core.is_warm(worker) {
            self.ended_unused(worker, death.exit);
        }
        // The core first: a crash ends its session, and that ending precedes the tree's story.
        self.core.worker_gone(worker, death.exit, self.clock.now());
        self.carry_out();
        let kind = self.kind_name(worker).to_owned();
        self.metrics.survived(&kind, death.survivors);
        let staff = self.staff.remove(&worker);
        let left = staff.as_ref().and_then(|staff| staff.left);
        let since_left = left.map(|left| self.clock.now().since(left));
        if let Some(took) = since_left {
            self.metrics.disconnected_and_dead(&kind, took);
        }
        let session = staff.and_then(|staff| staff.session);
        info!(
            session = session.as_ref().map(|s| tracing::field::display(&s.id)),
            %worker,
            kind,
            pids = ?death.pids,
            processes = death.processes,
            freed_bytes = death.memory,
            took_ms = death.took.as_micros() as f64 / 1e3,
            exit = %death.exit,
            "tree gone"
        );
        self.journal.push(JournalEvent::WorkerGone {
            worker,
            kind,
            session: session.clone(),
            death: death.clone(),
        });
        let logs = self.crew.logs(worker);
        self.crew.forget(worker);
        if let Some(session) = session {
            self.records.buried(&session, death.clone(), since_left, logs);
        }
        for stop in self.stops.remove(&worker).into_iter().flatten() {
            // With all there is to tell: after a drain's last session nothing more can be asked.
            let death = Some(death.clone());
            let _ = stop.send(Stopped::Ended { death });
        }
    }
}
