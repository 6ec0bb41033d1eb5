//! Principals: who there is, what each may have, and whether it has more.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use herd::core::{Allowance, Moment, Quota, Rate, SessionId, Stage};

use super::World;
use super::lots::Lots;

const NAMES: [&str; 3] = ["alice", "bob", "carol"];

/// By their names.
pub(super) type Principals = BTreeMap<&'static str, ModelPrincipal>;

#[derive(Default)]
pub(super) struct ModelPrincipal {
    allowance: Allowance,
    /// Sessions it had at the last look; a lower limit ends none.
    had: usize,
    /// When it has made sessions, as long as its rate is what it is.
    made: Vec<Moment>,
}

/// None, or any of them.
pub(super) fn any_principals(lots: &mut Lots) -> Option<Principals> {
    lots.chance(50).then(|| some_principals(lots))
}

fn some_principals(lots: &mut Lots) -> Principals {
    let mut principals = Principals::new();
    for name in NAMES {
        if lots.chance(80) {
            let session_rate = lots.chance(50).then(|| Rate {
                number: 1 + lots.below(30) as u32,
                per: Duration::from_secs(60),
                burst: 1 + lots.below(6) as u32,
            });
            let allowance = Allowance {
                sessions: lots.chance(50).then(|| 1 + lots.below(3)),
                session_rate,
            };
            let principal = ModelPrincipal {
                allowance,
                ..ModelPrincipal::default()
            };
            principals.insert(name, principal);
        }
    }
    principals
}

/// As the core takes them.
pub(super) fn allowances(principals: &Principals) -> HashMap<String, Allowance> {
    principals
        .iter()
        .map(|(name, principal)| ((*name).to_owned(), principal.allowance))
        .collect()
}

impl World {
    /// Of anybody, also of who is not there.
    pub(super) fn any_session(&mut self) -> SessionId {
        let id = self.lots.session_id();
        match self.principals {
            Some(_) => id.of(NAMES[self.lots.below(NAMES.len())]),
            None => id,
        }
    }

    pub(super) fn principals_change(&mut self) {
        if self.principals.is_none() {
            return;
        }
        let mut next = some_principals(&mut self.lots);
        self.say(|| format!("principals: {:?}", allowances(&next)));
        self.core.reload_principals(allowances(&next), self.now);
        let (false, Some(before)) = (self.draining, &mut self.principals) else {
            return;
        };
        for (name, principal) in &mut next {
            let Some(known) = before.remove(name) else {
                continue;
            };
            principal.had = known.had;
            if principal.allowance.session_rate == known.allowance.session_rate {
                principal.made = known.made;
            }
        }
        self.principals = Some(next);
    }

    /// A session has been made just now.
    pub(super) fn made(&mut self, id: &SessionId) {
        let Some(principals) = &mut self.principals else {
            return;
        };
        let name = id.principal().unwrap();
        let principal = principals.get_mut(name);
        let principal = principal.unwrap_or_else(|| panic!("{id} was made, and there is no {name}"));
        principal.made.push(self.now);
        let Some(rate) = principal.allowance.session_rate else {
            return;
        };
        for (index, since) in principal.made.iter().enumerate() {
            let made = (principal.made.len() - index) as u128;
            let time = self.now.since(*since).as_nanos();
            let most = u128::from(rate.burst) + time / interval(rate).as_nanos();
            assert!(
                made <= most,
                "{name} has made {made} sessions in {time} ns: {rate:?}"
            );
        }
    }

    /// One was refused with good reason.
    pub(super) fn over_quota(&mut self, id: &SessionId, quota: Quota, retry_after: Duration) {
        let live = self.live_sessions(id.principal().unwrap());
        let principal = &self.principals.as_ref().unwrap()[id.principal().unwrap()];
        match (quota, principal.allowance.session_rate) {
            (Quota::Sessions { most }, _) => {
                assert_eq!(principal.allowance.sessions, Some(most));
                assert!(live >= most, "{id} was refused, and there are {live} of {most}");
                self.count("over its sessions");
            }
            (Quota::SessionRate, Some(rate)) => {
                let sensible = !retry_after.is_zero() && retry_after <= interval(rate);
                assert!(sensible, "{id} is to wait {retry_after:?}: {rate:?}");
                self.count("over its rate");
            }
            (Quota::SessionRate, None) => panic!("{id} was refused for a rate that there is not"),
        }
    }

    pub(super) fn check_principals(&mut self) {
        let live = NAMES.map(|name| (name, self.live_sessions(name)));
        let Some(principals) = &mut self.principals else {
            return;
        };
        for (name, live) in live {
            let Some(principal) = principals.get_mut(name) else {
                assert_eq!(live, 0, "{name} is gone");
                continue;
            };
            if let Some(most) = principal.allowance.sessions {
                assert!(
                    live <= most.max(principal.had),
                    "{name} has {live} sessions of {most}"
                );
            }
            principal.had = live;
        }
    }

    /// Those that wait, start or are bound.
    fn live_sessions(&self, name: &str) -> usize {
        let its = |session: &herd::core::Overview| {
            session.session.id.principal() == Some(name) && !matches!(session.stage, Stage::Lost { .. })
        };
        self.core.sessions().filter(its).count()
    }
}

fn interval(rate: Rate) -> Duration {
    rate.per / rate.number
}
