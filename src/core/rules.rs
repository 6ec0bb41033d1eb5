//! What a kind asks of its sessions and workers: the part of the configuration that the core decides by.

use std::time::Duration;

use super::{Rate, Unheld};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// `reuse: false`: a worker serves one session and dies.
    Never,
    /// `reuse: true`: after its session it returns to the warm pool.
    AfterSession,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The session ends with its last stream or connection, after the grace.
    Kill,
    /// It goes on until its ttl.
    Ttl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// The id answers `session_lost` until the tombstone goes.
    Lost,
    /// The next request starts a new worker.
    Respawn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedFor {
    /// Any worker of the kind can serve any session.
    Anyone,
    /// Each worker is started for one known session, because its templates name it.
    OneSession,
}

/// What this host has for workers with a limit of memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// That neither is in use nor was promised.
    pub left: u64,
    /// Most that there could ever be.
    pub total: u64,
}

/// How many sessions a principal may have; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowance {
    /// At a time.
    pub sessions: Option<usize>,
    /// New ones.
    pub session_rate: Option<Rate>,
}

/// The rules of one kind.
#[derive(Debug, Clone)]
pub struct Rules {
    pub min: usize,
    /// At least 1 and at least `min`.
    pub max: usize,
    /// Most that start at a time, at least 1; `None`: all of `max`.
    pub max_starting: Option<usize>,
    pub started_for: StartedFor,
    /// Bytes that one of its workers may use. `None`: nobody has said, and nobody asks whether it is there.
    pub memory: Option<u64>,
    /// `None`: no end for idleness.
    pub ttl: Option<Duration>,
    pub max_lifetime: Option<Duration>,
    pub stop_timeout: Duration,
    pub disconnect_grace: Duration,
    pub on_disconnect: OnDisconnect,
    pub on_crash: OnCrash,
    pub reuse: Reuse,
    /// Sessions that may wait for a slot, and for how long.
    pub queue_max: usize,
    pub queue_timeout: Duration,
    /// How long a crashed session answers `session_lost`.
    pub lost_for: Duration,
}

/// What a new configuration makes of a kind.
#[derive(Debug, Clone)]
pub enum Change {
    /// Its workers stay what they are; of its rules these hold from now on.
    Kept(Rules),
    /// It is new, or its workers are to be others: those there are serve nobody new.
    Renewed(Rules),
    /// It admits nobody any more; its bound sessions go on under the rules they have.
    Removed,
}

impl Rules {
    /// Whether a disconnect leaves anything to decide, or to wait for.
    pub(super) fn unheld(&self) -> Unheld {
        let at_once = self.on_disconnect == OnDisconnect::Kill && self.disconnect_grace.is_zero();
        match at_once && self.reuse == Reuse::Never {
            true => Unheld::End,
            false => Unheld::Decide,
        }
    }
}
