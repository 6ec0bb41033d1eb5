//! A new configuration.
//!
//! | of a kind | kept | renewed | removed |
//! |---|---|---|---|
//! | bound sessions | go on, under its new rules | the same, with the workers they have | go on, under its old rules |
//! | warm workers | stay | end politely, others take their place | end politely |
//! | starting workers | go on | are killed, others take their place | are killed |
//! | waiting sessions | wait on | wait for a new worker | are refused |
//!
//! Nothing here ends a session for want of room: a lower `max`, or a principal's lower quota, holds for what is started
//! from now on. What does end is whatever is left of a principal that is gone.

use std::collections::HashMap;

use super::super::{Allowance, Change, EndReason, Reuse, Rules};
use super::pool::{Pool, Standing};
use super::{
    ConfigGeneration, Core, KindId, Moment, Phase, Refusal, SessionId, SessionRef, SessionState, Subject,
    WorkerId, WorkerState, earliest, reference,
};

impl Core {
    /// Puts a new configuration in force: what it makes of each kind by its number, and those after them are new.
    /// Not while draining: nothing new begins then.
    pub fn reload(&mut self, changes: Vec<Change>, now: Moment) {
        if self.phase != Phase::Serving {
            return;
        }
        self.config.0 += 1;
        for (index, change) in changes.into_iter().enumerate() {
            let kind = KindId(index);
            match change {
                Change::Kept(rules) if index < self.pools.len() => self.adjust(kind, rules, now),
                Change::Kept(rules) | Change::Renewed(rules) if index >= self.pools.len() => {
                    self.rules.push(rules);
                    self.pools.push(Pool::since(self.config));
                }
                Change::Kept(rules) | Change::Renewed(rules) => {
                    self.retire_workers(kind, now);
                    self.pools[index].standing = Standing::Present;
                    self.pools[index].begin_anew();
                    self.adjust(kind, rules, now);
                }
                Change::Removed => self.remove(kind, now),
            }
        }
        for kind in 0..self.pools.len() {
            self.reconcile(KindId(kind), now);
        }
    }

    /// Only these principals may have sessions from now on, and no more than they are allowed. Sessions of one that is gone
    /// end at once: who took it away wants nothing to go on in its name. A lower limit ends nothing.
    pub fn reload_principals(&mut self, allowances: HashMap<String, Allowance>, now: Moment) {
        if self.phase != Phase::Serving {
            return;
        }
        self.quotas.set(allowances, now);
        let gone = |id: &&SessionId| !self.quotas.knows(id);
        let mut gone: Vec<SessionId> = self.sessions.keys().filter(gone).cloned().collect();
        gone.sort_unstable();
        for id in gone {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            let kind = session.kind;
            match session.state {
                SessionState::Bound { .. } => self.end(&id, EndReason::Revoked, now),
                SessionState::Waiting { .. } => {
                    self.give_up(&id, &Refusal::Revoked, now);
                    self.reconcile(kind, now);
                }
                // It has ended, for its own reason.
                SessionState::Lost { .. } => {}
            }
        }
    }

    /// The configuration in force.
    pub fn config_generation(&self) -> ConfigGeneration {
        self.config
    }

    /// Whether workers of this kind that were started under that configuration serve nobody new.
    pub fn is_outdated(&self, kind: KindId, config: ConfigGeneration) -> bool {
        self.pools
            .get(kind.0)
            .is_some_and(|pool| config < pool.current_since)
    }

    fn remove(&mut self, kind: KindId, now: Moment) {
        if self
            .pools
            .get(kind.0)
            .is_none_or(|pool| pool.standing == Standing::Removed)
        {
            return;
        }
        self.retire_workers(kind, now);
        self.pools[kind.0].standing = Standing::Removed;
        self.rules[kind.0].min = 0;
        for id in self.pools[kind.0].waiting.clone() {
            self.give_up(&id, &Refusal::UnknownWorker, now);
        }
    }

    /// Nobody new gets a worker that there is now. One that starts is of use to nobody, so it is not waited for: it may
    /// be what the new configuration is to put right.
    fn retire_workers(&mut self, kind: KindId, now: Moment) {
        let pool = &mut self.pools[kind.0];
        pool.current_since = self.config;
        pool.outdated = pool.occupied();
        let starting: Vec<WorkerId> = pool.starting.iter().copied().collect();
        for worker in starting {
            self.kill(worker);
        }
        let idle = |known: &super::Worker| {
            known.kind == kind
                && matches!(
                    known.state,
                    WorkerState::Warm { .. } | WorkerState::Recycling { .. }
                )
        };
        let mut idle: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, known)| idle(known))
            .map(|(worker, _)| *worker)
            .collect();
        idle.sort_unstable();
        for worker in idle {
            self.terminate(worker, now);
        }
        for id in &self.pools[kind.0].waiting {
            if let Some(SessionState::Waiting { own, .. }) = self.sessions.get_mut(id).map(|s| &mut s.state) {
                *own = None;
            }
        }
    }

    /// The rules of a kind from now on, for its bound sessions too. What runs already is measured anew from its
    /// beginning; only a grace that runs ends when it was said to.
    fn adjust(&mut self, kind: KindId, rules: Rules, now: Moment) {
        self.rules[kind.0] = rules;
        let rules = &self.rules[kind.0];
        let mut bound: Vec<SessionRef> = Vec::new();
        for (id, session) in self
            .sessions
            .iter_mut()
            .filter(|(_, session)| session.kind == kind)
        {
            let name = reference(id, session);
            if let SessionState::Bound {
                holders,
                idle_check,
                lifetime_ends,
                since,
                ..
            } = &mut session.state
            {
                holders.decide_unheld(rules.unheld());
                *idle_check = rules.ttl.map(|_| now);
                *lifetime_ends = rules.max_lifetime.map(|limit| *since + limit);
                bound.push(name);
            }
        }
        let evict_at = rules
            .ttl
            .filter(|_| rules.reuse == Reuse::AfterSession)
            .map(|ttl| now + ttl);
        for worker in self.pools[kind.0].warm.clone() {
            self.set_worker(worker, WorkerState::Warm { evict_at });
            self.timers.arm(Subject::Worker(worker), earliest([evict_at]));
        }
        bound.sort_unstable();
        for name in bound {
            self.session_due(&name, now);
        }
    }
}
