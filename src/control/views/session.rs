//! A session: as it is listed and shown, and what its end took with it.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::time::{fine_millis, millis, rfc3339};
use crate::core::{Exit, Limit, Status};
use crate::driver::{Fate, SessionState, SessionView};
use crate::sys::usage::Usage;
use crate::worker::{Death, Sandboxing};

/// `GET /v1/sessions`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SessionList {
    /// Oldest first.
    pub sessions: Vec<Session>,
    /// With `limit`: there are more, and `after` with this value asks for them.
    pub next: Option<String>,
}

/// `GET /v1/sessions/{id}`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SessionHistory {
    #[serde(flatten)]
    pub session: Session,
    /// Remembered former incarnations of the same id, newest first.
    pub earlier: Vec<Session>,
}

/// One incarnation of a session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    pub id: String,
    /// Whose it is; null without `auth`. Two principals' sessions may have the same id.
    pub principal: Option<String>,
    /// Counts incarnations, and goes on from one herd to the next: a later one of the same id has a higher number.
    pub generation: u64,
    pub kind: String,
    pub sandbox: Sandbox,
    /// Which configuration its worker was started under.
    pub config_generation: Option<u64>,
    /// That configuration knew other workers of this kind than the present one. Its worker serves nobody after it.
    pub outdated: bool,
    pub state: State,
    /// Why it ends or ended: `stopped`, `disconnected`, `ttl`, `max_lifetime`, `crashed`, `probe_failed`, `drained`,
    /// `revoked`; of a former herd that left no end of it on record, `herd_died`.
    pub reason: Option<String>,
    /// The reason for people.
    pub detail: Option<String>,
    pub worker: Option<String>,
    /// As the host numbers it; its death is the whole tree's.
    pub pid: Option<i32>,
    pub endpoint: Option<String>,
    /// RFC 3339, UTC.
    pub created: String,
    /// Milliseconds from its creation until now, or until its end; with `herd_died`, until the last that is known of its herd.
    pub age_ms: u64,
    /// Everything that keeps it alive now.
    pub holders: u32,
    /// Of them, requests that are under way.
    pub requests: u32,
    /// Of them, WebSockets and other tunnels, and with `bind: connection` connections.
    pub streams: u32,
    /// Of them, holds of the control API.
    pub holds: u16,
    /// When it ends if nothing changes; null while something holds it.
    pub ends_in_ms: Option<u64>,
    /// For what it ends then.
    pub ends_for: Option<EndsFor>,
    /// RFC 3339, UTC. Null of an ended session: nobody knows (`herd_died`); `detail` tells between which moments.
    pub ended: Option<String>,
    /// Known once the tree is reaped.
    pub death: Option<Dead>,
    /// From its client's leaving (from the end of `disconnect_grace`, if there is one) until its whole tree was reaped, if that
    /// ended it.
    #[serde(default)]
    pub disconnect_to_dead_ms: Option<f64>,
    /// What its processes use now, where it was asked for and they could be looked at.
    pub usage: Option<Used>,
    /// Of a herd before this one: when that started (RFC 3339, UTC).
    #[serde(default)]
    pub run: Option<String>,
}

/// What ends a session if nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndsFor {
    /// Its client has gone, and `disconnect_grace` runs.
    Disconnected,
    Ttl,
    MaxLifetime,
    /// It crashed, and the id will be new again.
    Forgotten,
}

/// What a worker's processes use.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub struct Used {
    /// With the keeper.
    pub processes: usize,
    /// Resident memory that is not shared with others.
    pub memory_bytes: u64,
    /// Processor time so far, of processes that have ended too, as far as their parents waited for them.
    pub cpu_seconds: f64,
}

/// How its worker is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    Off,
    On,
    /// Without limits that were asked for, as `require: best-effort` allows.
    Weaker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Dead {
    /// How many processes died, herd's own at its head included; if the worker's main process ended by itself: it and
    /// those which it left behind.
    pub processes: usize,
    /// Those that were killed, by the host's numbers; at most 128.
    pub pids: Vec<i32>,
    pub memory_bytes: u64,
    /// From the decision to kill until the whole tree was reaped; 0 if the worker ended by itself.
    pub took_ms: f64,
    pub exit: String,
    /// The exit status of its main process, or the signal that killed it; neither if its keeper could not tell.
    #[serde(default)]
    pub status: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
    /// A limit of its sandbox that had to do with it: `memory`, `processes`, `processor`; `host_memory` where it was the
    /// machine that had no memory left.
    #[serde(default)]
    pub limit: Option<String>,
}

/// `DELETE /v1/sessions/{id}`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StopReport {
    pub id: String,
    pub principal: Option<String>,
    pub outcome: StopOutcome,
    /// Null with `reuse: true`, where the worker lives on in the warm pool, and where nothing ran.
    pub death: Option<Dead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopOutcome {
    /// The whole tree is gone and reaped, or the worker is warm again.
    Ended,
    /// It had not started yet; the requests that waited for it were refused.
    NeverStarted,
    /// Only the remains of a crash were there; the id can be used anew.
    Forgotten,
}

/// A session's name as commands take it: `id` or `principal/id`.
pub fn name(principal: Option<&str>, id: &str) -> String {
    match principal {
        Some(principal) => format!("{principal}/{id}"),
        None => id.to_owned(),
    }
}

impl Session {
    /// As commands take it.
    pub fn name(&self) -> String {
        name(self.principal.as_deref(), &self.id)
    }

    pub(in crate::control) fn new(view: SessionView, now: SystemTime) -> Self {
        let (state, reason) = match view.state {
            SessionState::Queued => (State::Queued, None),
            SessionState::Starting => (State::Starting, None),
            SessionState::Bound => (State::Bound, None),
            SessionState::Ending(reason) => (State::Ending, Some(reason)),
            SessionState::Ended(reason) => (State::Ended, Some(reason)),
        };
        let until = view.ended.unwrap_or(now);
        Self {
            id: view.session.id.id().to_owned(),
            principal: view.session.id.principal().map(str::to_owned),
            generation: view.session.generation.0,
            kind: view.kind,
            sandbox: view.sandboxing.unwrap_or_default().into(),
            config_generation: view.config.map(|config| config.0),
            outdated: view.outdated,
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
            // Read one after the other, so they need not fit.
            requests: view
                .holders
                .saturating_sub(view.streams)
                .saturating_sub(u32::from(view.holds)),
            streams: view.streams,
            holds: view.holds,
            ends_in_ms: view.ends.map(|(left, _)| millis(left)),
            ends_for: view.ends.map(|(_, fate)| fate.into()),
            ended: view.ended.map(rfc3339),
            death: view.death.map(Dead::from),
            disconnect_to_dead_ms: view.since_left.map(fine_millis),
            usage: None,
            run: None,
        }
    }
}

impl From<Fate> for EndsFor {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Disconnected => Self::Disconnected,
            Fate::Ttl => Self::Ttl,
            Fate::MaxLifetime => Self::MaxLifetime,
            Fate::Forgotten => Self::Forgotten,
        }
    }
}

impl From<Usage> for Used {
    fn from(usage: Usage) -> Self {
        Self {
            processes: usage.processes,
            memory_bytes: usage.memory,
            cpu_seconds: usage.cpu.as_secs_f64(),
        }
    }
}

impl From<Sandboxing> for Sandbox {
    fn from(sandboxing: Sandboxing) -> Self {
        match sandboxing {
            Sandboxing::Off => Self::Off,
            Sandboxing::On => Self::On,
            Sandboxing::Weaker => Self::Weaker,
        }
    }
}

impl From<Death> for Dead {
    fn from(death: Death) -> Self {
        let (ended, limit) = match death.exit {
            Exit::Code(code) => (Some(Status::Code(code)), None),
            Exit::Signal(signal) => (Some(Status::Signal(signal)), None),
            Exit::Limited { status, limit } => (Some(status), Some(limit)),
            Exit::KeeperLost => (None, None),
        };
        let limit = limit.map(|limit| match limit {
            Limit::Memory => "memory",
            Limit::HostMemory => "host_memory",
            Limit::Processes { .. } => "processes",
            Limit::Processor { .. } => "processor",
        });
        Self {
            processes: death.processes,
            pids: death.pids,
            memory_bytes: death.memory,
            took_ms: fine_millis(death.took),
            exit: death.exit.to_string(),
            status: match ended {
                Some(Status::Code(code)) => Some(code),
                Some(Status::Signal(_)) | None => None,
            },
            signal: match ended {
                Some(Status::Signal(signal)) => Some(signal),
                Some(Status::Code(_)) | None => None,
            },
            limit: limit.map(str::to_owned),
        }
    }
}
