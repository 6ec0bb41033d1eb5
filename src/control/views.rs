//! What the control API answers with. These types are its contract; the CLI reads the same ones.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::driver::{PoolView, SessionState, SessionView, Stopped};
use crate::worker::{Death, Sandboxing};

use super::time::rfc3339;

/// `GET /v1/sessions`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionList {
    /// Oldest first.
    pub sessions: Vec<Session>,
}

/// `GET /v1/sessions/{id}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionHistory {
    #[serde(flatten)]
    pub session: Session,
    /// Remembered former incarnations of the same id, newest first.
    pub earlier: Vec<Session>,
}

/// One incarnation of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    /// Counts incarnations over the life of this herd: a later one of the same id has a higher number.
    pub generation: u64,
    pub kind: String,
    pub sandbox: Sandbox,
    pub state: State,
    /// Why it ends or ended: `stopped`, `disconnected`, `ttl`, `max_lifetime`, `crashed`, `drained`.
    pub reason: Option<String>,
    /// The reason for people.
    pub detail: Option<String>,
    pub worker: Option<String>,
    /// As the host numbers it; its death is the whole tree's.
    pub pid: Option<i32>,
    pub endpoint: Option<String>,
    /// RFC 3339, UTC.
    pub created: String,
    /// Milliseconds from its creation until now, or until its end.
    pub age_ms: u64,
    /// Everything that keeps it alive now; of that, streams and connections, and holds.
    pub holders: u32,
    pub streams: u32,
    pub holds: u16,
    /// When it ends if nothing changes; null while something holds it.
    pub ends_in_ms: Option<u64>,
    /// RFC 3339, UTC.
    pub ended: Option<String>,
    /// Known once the tree is reaped.
    pub death: Option<Dead>,
}

/// How its worker is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    Off,
    On,
    /// Without limits that were asked for, as `require: best-effort` allows.
    Weaker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a slot.
    Queued,
    /// Its worker is not ready yet.
    Starting,
    Bound,
    /// Decided to end; its worker's tree is not gone yet.
    Ending,
    Ended,
}

/// What an end took with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dead {
    pub processes: usize,
    /// At most 128 are named.
    pub pids: Vec<i32>,
    pub memory_bytes: u64,
    /// From the decision to kill until the whole tree was reaped; 0 if the worker ended by itself.
    pub took_ms: f64,
    pub exit: String,
}

/// `DELETE /v1/sessions/{id}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopReport {
    pub id: String,
    pub outcome: StopOutcome,
    /// Null with `reuse: true`, where the worker lives on in the warm pool, and where nothing ran.
    pub death: Option<Dead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopOutcome {
    /// The whole tree is gone and reaped, or the worker is warm again.
    Ended,
    /// It had not started yet; the requests that waited for it were refused.
    NeverStarted,
    /// Only the remains of a crash were there; the id can be used anew.
    Forgotten,
}

/// `GET /v1/workers`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerList {
    pub workers: Vec<Pool>,
}

/// The workers of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pool {
    pub kind: String,
    pub min: usize,
    /// starting + warm + bound + dying never exceeds it.
    pub max: usize,
    pub starting: usize,
    pub warm: usize,
    pub bound: usize,
    pub dying: usize,
    /// Requests that wait for a slot.
    pub queued: usize,
}

/// First line of `GET /v1/sessions/{id}/hold`: held from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    pub id: String,
    pub generation: u64,
    pub kind: String,
    pub worker: String,
    pub origin: HeldOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldOrigin {
    Created,
    Reused,
}

/// Last line of a hold stream whose session ended under it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldEnded {
    pub ended: String,
    pub detail: String,
}

/// RFC 9457 problem details.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    /// The same as the `X-Herd-Error` header.
    pub code: String,
    pub detail: String,
    /// The worker's last lines, where a start failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Session {
    pub(super) fn new(view: SessionView, now: SystemTime) -> Self {
        let (state, reason) = match view.state {
            SessionState::Queued => (State::Queued, None),
            SessionState::Starting => (State::Starting, None),
            SessionState::Bound => (State::Bound, None),
            SessionState::Ending(reason) => (State::Ending, Some(reason)),
            SessionState::Ended(reason) => (State::Ended, Some(reason)),
        };
        let until = view.ended.unwrap_or(now);
        Self {
            id: view.session.id.as_str().to_owned(),
            generation: view.session.generation.0,
            kind: view.kind,
            sandbox: match view.sandboxing {
                Sandboxing::Off => Sandbox::Off,
                Sandboxing::On => Sandbox::On,
                Sandboxing::Weaker => Sandbox::Weaker,
            },
            state,
            reason: reason.as_ref().map(|reason| reason.code().to_owned()),
            detail: reason.map(|reason| reason.to_string()),
            worker: view.worker.map(|worker| worker.to_string()),
            pid: view.pid,
            endpoint: view.endpoint,
            created: rfc3339(view.created),
            // A wall clock that was set back gives no negative age.
            age_ms: millis(until.duration_since(view.created).unwrap_or_default()),
            holders: view.holders,
            streams: view.streams,
            holds: view.holds,
            ends_in_ms: view.ends_in.map(millis),
            ended: view.ended.map(rfc3339),
            death: view.death.map(Dead::from),
        }
    }
}

impl From<Death> for Dead {
    fn from(death: Death) -> Self {
        Self {
            processes: death.processes,
            pids: death.pids,
            memory_bytes: death.memory,
            took_ms: death.took.as_secs_f64() * 1e3,
            exit: death.exit.to_string(),
        }
    }
}

impl StopOutcome {
    /// `None`: there was nothing to stop.
    pub(super) fn new(stopped: &Stopped) -> Option<Self> {
        match stopped {
            Stopped::Ended { .. } => Some(Self::Ended),
            Stopped::NeverStarted => Some(Self::NeverStarted),
            Stopped::Forgotten => Some(Self::Forgotten),
            Stopped::Unknown => None,
        }
    }
}

impl From<PoolView> for Pool {
    fn from(pool: PoolView) -> Self {
        let PoolView {
            kind,
            min,
            max,
            starting,
            warm,
            bound,
            dying,
            queued,
        } = pool;
        Self {
            kind,
            min,
            max,
            starting,
            warm,
            bound,
            dying,
            queued,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
