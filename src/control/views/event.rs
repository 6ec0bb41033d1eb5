//! Events as they are told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dead, ExecEnd, HeldOrigin, Reloaded};
use crate::control::time::millis;
use crate::driver::{self, Deed, JournalEvent};

/// One event of `GET /v1/events`: the JSON in its `data`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// For `Last-Event-ID` and `after`. Counts up within one herd.
    pub id: Option<String>,
    /// RFC 3339, UTC.
    pub at: String,
    #[serde(flatten)]
    pub what: What,
}

/// What happened. More types may come: readers pass over those they do not know. A `session` is an id, or with `auth`
/// a principal and an id, as in `alice/user-42`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub enum What {
    /// A session has its worker.
    #[serde(rename = "session.created")]
    SessionCreated {
        session: String,
        generation: u64,
        kind: String,
        worker: String,
        pid: Option<i32>,
    },
    /// A session that was created with `Prefer: respond-async` did not come about.
    #[serde(rename = "session.refused")]
    SessionRefused {
        session: String,
        code: String,
        detail: String,
    },
    /// A session was decided to end.
    #[serde(rename = "session.ended")]
    SessionEnded {
        session: String,
        generation: u64,
        kind: String,
        reason: String,
        detail: String,
        /// Its worker lives on in the warm pool; no `worker.gone` follows.
        recycled: bool,
    },
    /// A worker can serve.
    #[serde(rename = "worker.ready")]
    WorkerReady { worker: String, kind: String },
    /// A worker did not become ready.
    #[serde(rename = "worker.failed")]
    WorkerFailed {
        worker: String,
        kind: String,
        detail: String,
    },
    /// A ready worker has failed its liveness probes; it is killed.
    #[serde(rename = "worker.unwell")]
    WorkerUnwell {
        worker: String,
        kind: String,
        detail: String,
    },
    /// A worker's whole tree is gone and reaped.
    #[serde(rename = "worker.gone")]
    WorkerGone {
        worker: String,
        kind: String,
        session: Option<String>,
        generation: Option<u64>,
        death: Dead,
    },
    /// No new session is admitted any more.
    #[serde(rename = "herd.draining")]
    Draining { limit_ms: u64 },
    /// A new configuration is in force.
    #[serde(rename = "config.reloaded")]
    ConfigReloaded {
        /// What asked for it: `signal`, `watch` or `control`.
        cause: String,
        #[serde(flatten)]
        reloaded: Reloaded,
    },
    /// A new configuration cannot be had; the one before it is in force.
    #[serde(rename = "config.reload_failed")]
    ConfigReloadFailed { cause: String, detail: String },
    /// Somebody used the control API.
    #[serde(rename = "control.token")]
    ControlToken { session: String, by: By },
    #[serde(rename = "control.create")]
    ControlCreate { session: String, by: By },
    #[serde(rename = "control.stop")]
    ControlStop { session: String, by: By },
    #[serde(rename = "control.hold")]
    ControlHold {
        session: String,
        origin: HeldOrigin,
        by: By,
    },
    #[serde(rename = "control.drain")]
    ControlDrain { by: By },
    #[serde(rename = "control.reload")]
    ControlReload { by: By },
    /// Somebody runs a command in a session. Arguments beyond a kilobyte are left out.
    #[serde(rename = "control.exec")]
    ControlExec {
        session: String,
        command: Vec<String>,
        by: By,
    },
    /// That command is over.
    #[serde(rename = "exec.ended")]
    ExecEnded {
        session: String,
        generation: u64,
        command: Vec<String>,
        by: By,
        end: ExecEnd,
        lasted_ms: u64,
    },
    /// The reader was too slow, or away for too long, and has missed events; of a herd before this one, if it is not
    /// told how many.
    #[serde(rename = "events.lost")]
    EventsLost { missed: Option<u64> },
}

/// Who used the control API: a process of this host by its socket, or somebody with a key over TCP.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct By {
    pub uid: Option<u32>,
    pub pid: Option<i32>,
    /// The key's name.
    pub key: Option<String>,
}

impl What {
    pub fn name(&self) -> &'static str {
        match self {
            Self::SessionCreated { .. } => "session.created",
            Self::SessionRefused { .. } => "session.refused",
            Self::SessionEnded { .. } => "session.ended",
            Self::WorkerReady { .. } => "worker.ready",
            Self::WorkerFailed { .. } => "worker.failed",
            Self::WorkerUnwell { .. } => "worker.unwell",
            Self::WorkerGone { .. } => "worker.gone",
            Self::Draining { .. } => "herd.draining",
            Self::ControlToken { .. } => "control.token",
            Self::ControlCreate { .. } => "control.create",
            Self::ControlStop { .. } => "control.stop",
            Self::ControlHold { .. } => "control.hold",
            Self::ControlDrain { .. } => "control.drain",
            Self::ControlReload { .. } => "control.reload",
            Self::ConfigReloaded { .. } => "config.reloaded",
            Self::ConfigReloadFailed { .. } => "config.reload_failed",
            Self::ControlExec { .. } => "control.exec",
            Self::ExecEnded { .. } => "exec.ended",
            Self::EventsLost { .. } => "events.lost",
        }
    }

    pub fn session(&self) -> Option<&str> {
        match self {
            Self::SessionCreated { session, .. }
            | Self::SessionRefused { session, .. }
            | Self::SessionEnded { session, .. }
            | Self::ControlToken { session, .. }
            | Self::ControlCreate { session, .. }
            | Self::ControlStop { session, .. }
            | Self::ControlHold { session, .. }
            | Self::ControlExec { session, .. }
            | Self::ExecEnded { session, .. } => Some(session),
            Self::WorkerGone { session, .. } => session.as_deref(),
            Self::WorkerReady { .. }
            | Self::WorkerFailed { .. }
            | Self::WorkerUnwell { .. }
            | Self::Draining { .. }
            | Self::ConfigReloaded { .. }
            | Self::ConfigReloadFailed { .. }
            | Self::ControlDrain { .. }
            | Self::ControlReload { .. }
            | Self::EventsLost { .. } => None,
        }
    }

    pub fn kind(&self) -> Option<&str> {
        match self {
            Self::SessionCreated { kind, .. }
            | Self::SessionEnded { kind, .. }
            | Self::WorkerReady { kind, .. }
            | Self::WorkerFailed { kind, .. }
            | Self::WorkerUnwell { kind, .. }
            | Self::WorkerGone { kind, .. } => Some(kind),
            _ => None,
        }
    }
}

impl From<driver::By> for By {
    fn from(by: driver::By) -> Self {
        match by {
            driver::By::Peer { uid, pid } => Self {
                uid: Some(uid),
                pid,
                key: None,
            },
            driver::By::Key(name) => Self {
                key: Some(name.to_string()),
                ..Self::default()
            },
        }
    }
}

impl From<JournalEvent> for What {
    fn from(event: JournalEvent) -> Self {
        match event {
            JournalEvent::SessionCreated {
                session,
                kind,
                worker,
                pid,
            } => Self::SessionCreated {
                session: session.id.to_string(),
                generation: session.generation.0,
                kind,
                worker: worker.to_string(),
                pid,
            },
            JournalEvent::SessionRefused { id, code, detail } => Self::SessionRefused {
                session: id.to_string(),
                code: code.to_owned(),
                detail,
            },
            JournalEvent::SessionEnded {
                session,
                kind,
                reason,
                recycled,
            } => Self::SessionEnded {
                session: session.id.to_string(),
                generation: session.generation.0,
                kind,
                reason: reason.code().to_owned(),
                detail: reason.to_string(),
                recycled,
            },
            JournalEvent::WorkerReady { worker, kind } => Self::WorkerReady {
                worker: worker.to_string(),
                kind,
            },
            JournalEvent::WorkerFailed {
                worker,
                kind,
                failure,
            } => Self::WorkerFailed {
                worker: worker.to_string(),
                kind,
                detail: failure,
            },
            JournalEvent::WorkerUnwell { worker, kind, unwell } => Self::WorkerUnwell {
                worker: worker.to_string(),
                kind,
                detail: unwell,
            },
            JournalEvent::WorkerGone {
                worker,
                kind,
                session,
                death,
            } => Self::WorkerGone {
                worker: worker.to_string(),
                kind,
                generation: session.as_ref().map(|session| session.generation.0),
                session: session.map(|session| session.id.to_string()),
                death: death.into(),
            },
            JournalEvent::Draining { limit } => Self::Draining {
                limit_ms: millis(limit),
            },
            JournalEvent::ConfigReloaded { cause, reloaded } => Self::ConfigReloaded {
                cause: cause.to_owned(),
                reloaded: reloaded.into(),
            },
            JournalEvent::ConfigReloadFailed { cause, detail } => Self::ConfigReloadFailed {
                cause: cause.to_owned(),
                detail,
            },
            JournalEvent::CommandEnded {
                session,
                command,
                by,
                end,
                lasted,
            } => Self::ExecEnded {
                session: session.id.to_string(),
                generation: session.generation.0,
                command,
                by: by.into(),
                end: end.into(),
                lasted_ms: millis(lasted),
            },
            JournalEvent::Controlled { deed, by } => {
                let by = by.into();
                match deed {
                    Deed::Create { id } => Self::ControlCreate {
                        session: id.to_string(),
                        by,
                    },
                    Deed::Token { id } => Self::ControlToken {
                        session: id.to_string(),
                        by,
                    },
                    Deed::Stop { id } => Self::ControlStop {
                        session: id.to_string(),
                        by,
                    },
                    Deed::Hold { id, origin } => Self::ControlHold {
                        session: id.to_string(),
                        origin: origin.into(),
                        by,
                    },
                    Deed::Exec { id, command } => Self::ControlExec {
                        session: id.to_string(),
                        command,
                        by,
                    },
                    Deed::Drain => Self::ControlDrain { by },
                    Deed::Reload => Self::ControlReload { by },
                }
            }
        }
    }
}
