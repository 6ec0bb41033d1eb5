//! What can happen: clients, workers, clocks, operators, and reports that come late.

use std::sync::Arc;
use std::time::Duration;

use herd::core::{
    Change, ConfigGeneration, Core, Exit, KindChoice, KindId, Memory, Release, Remains, Request, Rules,
    SessionRef, Stage, StartFailure, StartFailureKind, StopOutcome, TicketId, Unwell, Wait, WorkerId,
};

use super::lots::{any_rules, rules_of};
use super::model::{Life, ModelKind};
use super::{Held, World, secs};

impl World {
    pub(super) fn client_comes(&mut self) {
        let kind = KindId(self.lots.below(self.rules.len()));
        let holder = self.lots.holder();
        let request = Request {
            id: self.any_session(),
            kind: if self.lots.chance(50) {
                KindChoice::Named(kind)
            } else {
                KindChoice::Fallback(kind)
            },
            holder,
            wait: if self.lots.chance(85) {
                Wait::Queue
            } else {
                Wait::Refuse
            },
            remains: if self.lots.chance(80) {
                Remains::Respect
            } else {
                Remains::Discard
            },
        };
        self.last_ticket += 1;
        let ticket = TicketId(self.last_ticket);
        self.say(|| format!("{ticket} asks: {request:?}"));
        let id = request.id.clone();
        self.waiting.insert(ticket, id.clone());
        self.holder_of.insert(ticket, holder);
        let generation = |core: &Core| core.session(&id).map(|seen| seen.session.generation);
        let before = generation(&self.core);
        self.core.attach(ticket, request, self.now);
        let after = generation(&self.core);
        if after.is_some() && after != before {
            self.made(&id);
        }
    }

    pub(super) fn client_leaves_the_queue(&mut self) {
        let waiting: Vec<TicketId> = self.waiting.keys().copied().collect();
        if let Some(ticket) = self.lots.pick(&waiting) {
            self.say(|| format!("{ticket} leaves"));
            self.waiting.remove(&ticket);
            self.answered.insert(ticket);
            self.core.abandon(ticket, self.now);
            self.count("left the queue");
        }
    }

    pub(super) fn holder_leaves(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.lots.below(self.held.len());
        let held = self.held.swap_remove(index);
        self.say(|| format!("{:?} of {:?} leaves", held.holder, held.session));
        if held.holders.release(held.holder, self.now) != Release::Quiet {
            self.notices.push(held.session);
            if self.lots.chance(70) {
                self.deliver_notices();
            }
        }
    }

    /// The data plane's fast path: an established session is held without visiting the owner.
    pub(super) fn holder_comes_without_asking(&mut self) {
        let sessions: Vec<SessionRef> = self.bound.keys().cloned().collect();
        let Some(session) = self.lots.pick(&sessions) else {
            return;
        };
        let holders = Arc::clone(&self.bound[&session].1);
        let holder = self.lots.holder();
        if holders.acquire(holder) {
            self.held.push(Held {
                session,
                holders,
                holder,
            });
        }
    }

    pub(super) fn deliver_notices(&mut self) {
        for session in std::mem::take(&mut self.notices) {
            self.core.attention(&session, self.now);
        }
    }

    pub(super) fn worker_progresses(&mut self) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        let Some(worker) = self.lots.pick(&workers) else {
            return;
        };
        match self.workers[&worker].life {
            Life::Starting if self.lots.chance(80) => {
                self.say(|| format!("{worker} ready"));
                if let Some(model) = self.workers.get_mut(&worker) {
                    model.life = Life::Ready;
                }
                self.core.worker_ready(worker, self.now);
            }
            Life::Starting if self.lots.chance(50) => {
                self.say(|| format!("{worker} fails to start"));
                let kind = StartFailureKind::Timeout {
                    after: secs(1),
                    last: "refused".into(),
                };
                self.core.worker_failed(
                    worker,
                    StartFailure {
                        kind,
                        log_tail: Vec::new(),
                    },
                    self.now,
                );
                self.count("failed starts");
            }
            Life::Killed => self.gone(worker),
            Life::Terminated if self.lots.chance(30) => self.gone(worker),
            _ => {}
        }
    }

    /// At any time, in any state, asked or not.
    pub(super) fn worker_dies(&mut self) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        if let Some(worker) = self.lots.pick(&workers) {
            self.gone(worker);
        }
    }

    /// What others use, and whether anybody asks.
    pub(super) fn memory_changes(&mut self) {
        let total = 4 + self.lots.below(30) as u64;
        let left = self.lots.below(total as usize + 1) as u64;
        let memory = self.lots.chance(70).then_some(Memory { left, total });
        self.say(|| format!("{memory:?}"));
        self.memory = memory;
        self.core.weigh(memory);
    }

    /// Also of workers that nobody would ask: such a report touches nothing.
    pub(super) fn probes_fail(&mut self) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        let Some(worker) = self.lots.pick(&workers) else {
            return;
        };
        self.say(|| format!("{worker} is unwell"));
        let was_up = self.core.is_up(worker);
        let unwell = Unwell {
            failures: 3,
            last: String::new(),
        };
        self.core.worker_unwell(worker, unwell, self.now);
        self.settle();
        if was_up {
            let life = self.workers[&worker].life;
            assert_eq!(life, Life::Killed, "{worker} is unwell and goes on");
        }
    }

    pub(super) fn gone(&mut self, worker: WorkerId) {
        self.say(|| format!("{worker} gone"));
        self.workers.remove(&worker);
        self.core.worker_gone(worker, Exit::Code(1), self.now);
    }

    pub(super) fn somebody_stops_a_session(&mut self) {
        let id = self.any_session();
        self.say(|| format!("stop {id}"));
        let stage = self.core.session(&id).map(|s| s.stage);
        let outcome = self.core.stop(&id, self.now);
        let fits = matches!(
            (&stage, &outcome),
            (None, StopOutcome::Unknown)
                | (Some(Stage::Queued | Stage::Starting), StopOutcome::NeverStarted)
                | (Some(Stage::Bound { .. }), StopOutcome::Ending { .. })
                | (Some(Stage::Lost { .. }), StopOutcome::Forgotten)
        );
        assert!(fits, "stopping a session in {stage:?} answered {outcome:?}");
    }

    /// Late and repeated reports must touch nothing.
    pub(super) fn stale_input(&mut self) {
        let worker = WorkerId(self.lots.below(40) as u64);
        if !self.workers.contains_key(&worker) {
            self.core.worker_ready(worker, self.now);
            self.core.worker_gone(worker, Exit::Code(0), self.now);
        }
        let ended = std::mem::take(&mut self.ended);
        if let Some(session) = self.lots.pick(&ended) {
            self.core.attention(&session, self.now);
        }
        self.ended = ended;
        self.core.abandon(TicketId(u64::MAX), self.now);
        self.core.advance(self.now);
    }

    /// Kinds stay, are renewed, go, come back and are added.
    pub(super) fn configuration_changes(&mut self) {
        let mut changes = Vec::new();
        let mut next = (self.rules.clone(), self.kinds.clone());
        let config = self.config + 1;
        for (index, known) in self.kinds.clone().into_iter().enumerate() {
            let old = self.rules[index].clone();
            let (rules, change) = match (known.present, self.lots.below(100)) {
                (true, 0..45) => {
                    let rules = rules_of(&mut self.lots, old.started_for, old.reuse);
                    (Some(rules.clone()), Change::Kept(rules))
                }
                (true, 45..80) | (false, 0..40) => {
                    let rules = any_rules(&mut self.lots);
                    next.1[index].current_since = config;
                    next.1[index].present = true;
                    (Some(rules.clone()), Change::Renewed(rules))
                }
                // One kind always stays.
                (true, _) if index > 0 => {
                    next.1[index].present = false;
                    next.1[index].current_since = config;
                    next.0[index].min = 0;
                    (None, Change::Removed)
                }
                (true, _) => (None, Change::Kept(old)),
                (false, _) => (None, Change::Removed),
            };
            if let Some(rules) = rules {
                next.0[index] = rules;
            }
            changes.push(change);
        }
        if self.kinds.len() < 5 && self.lots.chance(20) {
            let rules = any_rules(&mut self.lots);
            next.0.push(rules.clone());
            next.1.push(ModelKind::new(config));
            changes.push(Change::Renewed(rules));
        }
        self.reload(changes, next);
        self.count("reloads");
    }

    /// That alone ends nothing and nobody.
    pub(super) fn max_changes(&mut self) {
        let mut rules = self.rules.clone();
        for rules in &mut rules {
            rules.max = rules.min.max(1) + self.lots.below(5);
            rules.max_starting = self.lots.chance(40).then(|| 1 + self.lots.below(3));
        }
        let changes = rules
            .iter()
            .zip(&self.kinds)
            .map(|(rules, kind)| match kind.present {
                true => Change::Kept(rules.clone()),
                false => Change::Removed,
            });
        let changes = changes.collect();
        // What has been due for some time is not the reload's doing.
        self.core.advance(self.now);
        self.deliver_notices();
        self.settle();
        let before = self.harm;
        self.reload(changes, (rules, self.kinds.clone()));
        self.settle();
        assert_eq!(self.harm, before, "another max has ended something");
        self.count("other max");
    }

    pub(super) fn reload(&mut self, changes: Vec<Change>, next: (Vec<Rules>, Vec<ModelKind>)) {
        self.say(|| format!("reload: {changes:?}"));
        let before: Vec<SessionRef> = self.bound.keys().cloned().collect();
        self.core.reload(changes, self.now);
        if self.draining {
            assert_eq!(self.core.config_generation(), ConfigGeneration(self.config));
            return;
        }
        self.config += 1;
        assert_eq!(self.core.config_generation(), ConfigGeneration(self.config));
        (self.rules, self.kinds) = next;
        for session in before {
            if let Some(seen) = self.core.session(&session.id)
                && seen.session == session
            {
                assert!(
                    matches!(seen.stage, Stage::Bound { .. }),
                    "{session:?} was unbound by a reload"
                );
            }
        }
    }

    pub(super) fn time_passes(&mut self) {
        match self.core.next_deadline() {
            Some(at) if self.lots.chance(60) => self.now = self.now.max(at),
            _ => self.now = self.now + Duration::from_millis(self.lots.below(5000) as u64),
        }
        self.core.advance(self.now);
        if let Some(at) = self.core.next_deadline() {
            assert!(
                at > self.now,
                "a deadline in the past stays armed: {at:?} at {:?}",
                self.now
            );
        }
    }
}
