//! What is left to chance: choices, and rules that kinds may have.

use std::time::Duration;

use herd::core::{HolderKind, OnCrash, OnDisconnect, Reuse, Rules, SessionId, StartedFor};

use super::random::Random;
use super::secs;

const HOLDERS: [HolderKind; 4] = [
    HolderKind::Request,
    HolderKind::Stream,
    HolderKind::Connection,
    HolderKind::Hold,
];

/// Where it all comes from: one seed, one run.
pub(super) struct Lots(Random);

impl Lots {
    pub(super) fn of(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }

    pub(super) fn session_id(&mut self) -> SessionId {
        SessionId::parse(format!("s{}", self.below(12)).as_bytes()).unwrap()
    }

    pub(super) fn holder(&mut self) -> HolderKind {
        HOLDERS[self.below(HOLDERS.len())]
    }
}

const SORTS: [(StartedFor, Reuse); 3] = [
    (StartedFor::Anyone, Reuse::Never),
    (StartedFor::Anyone, Reuse::AfterSession),
    (StartedFor::OneSession, Reuse::Never),
];

pub(super) fn rules(lots: &mut Lots) -> Vec<Rules> {
    SORTS
        .into_iter()
        .map(|(started_for, reuse)| rules_of(lots, started_for, reuse))
        .collect()
}

pub(super) fn any_rules(lots: &mut Lots) -> Rules {
    let (started_for, reuse) = SORTS[lots.below(SORTS.len())];
    rules_of(lots, started_for, reuse)
}

pub(super) fn rules_of(lots: &mut Lots, started_for: StartedFor, reuse: Reuse) -> Rules {
    let max = 1 + lots.below(5);
    Rules {
        min: if started_for == StartedFor::OneSession {
            0
        } else {
            lots.below(max + 1)
        },
        max,
        max_starting: lots.chance(40).then(|| 1 + lots.below(3)),
        memory: lots.chance(60).then(|| 1 + lots.below(5) as u64),
        started_for,
        ttl: lots.chance(80).then(|| secs(5 + lots.below(60))),
        max_lifetime: lots.chance(30).then(|| secs(30 + lots.below(100))),
        stop_timeout: secs(5),
        disconnect_grace: if lots.chance(50) {
            Duration::ZERO
        } else {
            secs(lots.below(10))
        },
        on_disconnect: if lots.chance(70) {
            OnDisconnect::Kill
        } else {
            OnDisconnect::Ttl
        },
        on_crash: if lots.chance(50) {
            OnCrash::Lost
        } else {
            OnCrash::Respawn
        },
        reuse,
        queue_max: lots.below(6),
        queue_timeout: secs(1 + lots.below(30)),
        lost_for: secs(60),
    }
}
