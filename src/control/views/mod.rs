//! What the control API answers with. These types are its contract; the CLI reads the same ones.

mod command;
mod event;

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config;
use crate::core::{Exit, Limit, Status};
use crate::driver::{self, Fate, Origin, PoolView, SessionState, SessionView, Standing};
use crate::sys::usage::Usage;
use crate::worker::{Death, Sandboxing};

use super::build::Build;
use super::time::{millis, rfc3339};

pub use command::{ExecEnd, ExecOutcome};
pub use event::{By, Event, What};

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
    /// Counts incarnations over the life of this herd: a later one of the same id has a higher number.
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
    /// From its client's leaving until its whole tree was reaped, if that ended it.
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

/// The body of `PUT /v1/sessions/{id}` and `POST /v1/sessions`; none is as good as `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewSession {
    /// The kind of worker that a new session gets, and an existing one must have; else the first kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    pub wait: Waiting,
}

/// What to do where no worker slot is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// Wait for one, as long as the kind's `queue` allows.
    #[default]
    Queue,
    /// Fail at once.
    Refuse,
}

/// A session that is being created: the answer to `Prefer: respond-async`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    pub id: String,
    pub principal: Option<String>,
}

/// The body of `POST /v1/sessions/{id}/token`; none is as good as `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewToken {
    /// How long it is good for, milliseconds: 1000 (a second) to 86400000 (a day); else ten minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "whole")]
    #[schemars(range(min = 1000, max = 86_400_000))]
    pub ttl_ms: Option<u64>,
    /// Good for this kind of worker only; else for any that the principal may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// JSON knows one kind of number: 1000.0 is a whole one, too.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else {
        return Ok(None);
    };
    let exact = |float: f64| (float.fract() == 0.0 && (0.0..1e15).contains(&float)).then_some(float as u64);
    let whole = number.as_u64().or_else(|| number.as_f64().and_then(exact));
    whole
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{number} is not a whole number of milliseconds")))
}

/// A signed token for one session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    pub token: String,
    pub id: String,
    pub principal: String,
    pub worker: Option<String>,
    /// RFC 3339, UTC.
    pub expires: String,
    /// The data port with the token in its query.
    pub url: String,
    /// The cookie and the query parameter that may carry it.
    pub cookie: String,
    pub query: String,
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
    pub processes: usize,
    /// At most 128 are named.
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
    /// A limit of its sandbox that had to do with it: `memory`, `processes`, `processor`.
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

/// `GET /v1/workers`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WorkerList {
    /// The configuration in force; each that was loaded counts one more.
    pub config_generation: u64,
    pub workers: Vec<Pool>,
}

/// The workers of one kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    pub kind: String,
    /// The configuration does not know it any more: its bound sessions go on, and no others begin.
    pub removed: bool,
    pub min: usize,
    /// starting + warm + bound + dying never exceeds it.
    pub max: usize,
    /// Most that may start at a time; null: all.
    pub max_starting: Option<usize>,
    pub starting: usize,
    pub warm: usize,
    pub bound: usize,
    pub dying: usize,
    /// Of all of them, those that were started under a configuration that knew other workers.
    pub outdated: usize,
    /// Sessions that wait for a slot or a start.
    pub queued: usize,
    /// What the first of them that no start is for waits for: `slots` (`max` is reached), `starts` (`max_starting` is) or
    /// `memory` (the host has less left than a worker may use).
    pub waits_for: Option<String>,
    /// More than these are refused.
    pub queue_max: usize,
    /// How long the first of them has waited.
    pub longest_wait_ms: Option<u64>,
    /// For how long new sessions are refused because starts keep failing.
    pub backoff_ms: Option<u64>,
    pub sandbox: Sandbox,
}

/// `GET /v1/pressure`: how much more this herd can take.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    pub draining: bool,
    pub workers: Vec<PoolPressure>,
    pub herd: HerdPressure,
    pub host: HostPressure,
    /// What workers with a limit of memory are admitted by; null where nobody asks.
    pub admission: Option<AdmissionPressure>,
}

/// What the host has for workers with a limit of memory, `admission.reserve` set aside.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AdmissionPressure {
    /// Neither in use nor promised, when it was last read; a worker whose limit is larger waits.
    pub memory_left_bytes: u64,
    /// A worker whose limit is larger is refused.
    pub memory_total_bytes: u64,
}

/// How full a pool is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PoolPressure {
    pub kind: String,
    /// Slots that are taken, and of how many.
    pub taken: usize,
    pub max: usize,
    /// Sessions that can be had now: warm workers, and those that may start. Each kind alone: they share the host's memory.
    pub available: usize,
    pub queued: usize,
    /// What they wait for: `slots` (`max` is reached), `starts` (`max_starting` is) or `memory` (the host has less left than
    /// a worker may use).
    pub waits_for: Option<String>,
    pub queue_max: usize,
    pub longest_wait_ms: Option<u64>,
    pub backoff_ms: Option<u64>,
}

/// What herd's own process uses.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HerdPressure {
    pub resident_memory_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

/// What is left of the host. A number is null where the kernel does not tell it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostPressure {
    pub memory_available_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub cpus: usize,
    /// Of the last minute.
    pub load_average: Option<f64>,
    /// Share of the last ten seconds in which some process waited for memory, or for a processor, in percent (PSI).
    pub memory_some_percent: Option<f64>,
    pub cpu_some_percent: Option<f64>,
}

/// `GET /readyz`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// New sessions are admitted.
    pub ready: bool,
    pub draining: bool,
    /// Kinds whose sessions are refused for now because their workers do not start.
    pub failing: Vec<String>,
}

/// `POST /v1/drain`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    pub draining: bool,
    /// Sessions that were still bound when the drain was asked for.
    pub bound: usize,
}

/// `POST /v1/reload`: the file is in force. Kinds that are not named are as they were.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Counts the configurations that were loaded.
    pub config_generation: u64,
    pub added: Vec<String>,
    /// Kinds whose workers are replaced: warm ones now, bound ones as their sessions end.
    pub renewed: Vec<String>,
    /// Kinds of which only the rules have changed.
    pub adjusted: Vec<String>,
    pub removed: Vec<String>,
}

/// `GET /v1/version`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    pub version: String,
    pub build: Build,
    pub pid: u32,
    /// Where sessions are reached.
    pub data_url: String,
    /// The header that names the session.
    pub session_header: String,
    /// The configuration in force; each that was loaded counts one more.
    pub config_generation: u64,
    /// RFC 3339, UTC.
    pub started: String,
    pub uptime_ms: u64,
}

/// First line of `GET /v1/sessions/{id}/hold`: held from now on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    pub id: String,
    pub principal: Option<String>,
    pub generation: u64,
    pub kind: String,
    pub worker: String,
    pub origin: HeldOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldOrigin {
    Created,
    Reused,
}

/// Last line of a hold stream whose session ended under it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HoldEnded {
    pub ended: String,
    pub detail: String,
}

/// RFC 9457 problem details.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    /// The same as the `X-Herd-Error` header.
    pub code: String,
    pub detail: String,
    /// The worker's last lines, where a start failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Every mistake of herd.yaml, where it is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Mistake>,
}

/// A mistake in herd.yaml.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, like `workers.browser.max`; empty where none is concerned.
    pub path: String,
    pub message: String,
    /// That line of the file.
    pub source: String,
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
            disconnect_to_dead_ms: view.since_left.map(|took| took.as_secs_f64() * 1e3),
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
            Limit::Processes { .. } => "processes",
            Limit::Processor { .. } => "processor",
        });
        Self {
            processes: death.processes,
            pids: death.pids,
            memory_bytes: death.memory,
            took_ms: death.took.as_secs_f64() * 1e3,
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

impl From<driver::Reloaded> for Reloaded {
    fn from(reloaded: driver::Reloaded) -> Self {
        let driver::Reloaded {
            generation,
            added,
            renewed,
            adjusted,
            removed,
        } = reloaded;
        Self {
            config_generation: generation.0,
            added,
            renewed,
            adjusted,
            removed,
        }
    }
}

impl From<config::Problem> for Mistake {
    fn from(problem: config::Problem) -> Self {
        let config::Problem {
            line,
            column,
            path,
            message,
            source,
        } = problem;
        Self {
            line,
            column,
            path,
            message,
            source,
        }
    }
}

impl From<Origin> for HeldOrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Created => Self::Created,
            Origin::Reused => Self::Reused,
        }
    }
}

impl From<PoolView> for Pool {
    fn from(pool: PoolView) -> Self {
        Self {
            kind: pool.kind,
            removed: pool.standing == Standing::Removed,
            min: pool.min,
            max: pool.max,
            max_starting: pool.max_starting,
            starting: pool.starting,
            warm: pool.warm,
            bound: pool.bound,
            dying: pool.dying,
            outdated: pool.outdated,
            queued: pool.queued,
            waits_for: pool.waits_for.map(|lack| lack.code().to_owned()),
            queue_max: pool.queue_max,
            longest_wait_ms: pool.longest_wait.map(millis),
            backoff_ms: pool.backoff.map(millis),
            sandbox: pool.sandboxing.into(),
        }
    }
}

impl From<PoolView> for PoolPressure {
    fn from(pool: PoolView) -> Self {
        let taken = pool.starting + pool.warm + pool.bound + pool.dying;
        Self {
            kind: pool.kind,
            taken,
            max: pool.max,
            available: match pool.backoff {
                None => pool.warm + pool.room,
                Some(_) => pool.warm,
            },
            queued: pool.queued,
            waits_for: pool.waits_for.map(|lack| lack.code().to_owned()),
            queue_max: pool.queue_max,
            longest_wait_ms: pool.longest_wait.map(millis),
            backoff_ms: pool.backoff.map(millis),
        }
    }
}
