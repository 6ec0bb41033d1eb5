//! How commands in sessions end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::driver::CommandEnd;

/// How a command ended: the last message of its WebSocket, and the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecEnd {
    pub outcome: ExecOutcome,
    /// As a shell tells it: the command's own, 128 and the signal's number, 126 or 127 if it could not be run or found;
    /// null if it had to end for another reason.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Why the session ended, if the command ended for that.
    pub reason: Option<String>,
    /// For people.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecOutcome {
    Exited,
    Signalled,
    NotRun,
    SessionEnded,
    HerdEnds,
    /// A reload has taken away the key that it was asked for with.
    Revoked,
    ClientLeft,
    /// A message was none that this protocol has.
    Misused,
}

impl From<CommandEnd> for ExecEnd {
    fn from(end: CommandEnd) -> Self {
        let told = |outcome| Self {
            outcome,
            exit_code: None,
            signal: None,
            reason: None,
            detail: end.to_string(),
        };
        match &end {
            CommandEnd::Exited { code } => Self {
                exit_code: Some(*code),
                ..told(ExecOutcome::Exited)
            },
            CommandEnd::Signalled { signal } => Self {
                exit_code: Some(128 + signal),
                signal: Some(*signal),
                ..told(ExecOutcome::Signalled)
            },
            CommandEnd::NotRun { code, .. } => Self {
                exit_code: Some((*code).into()),
                ..told(ExecOutcome::NotRun)
            },
            CommandEnd::ClientLeft => told(ExecOutcome::ClientLeft),
            CommandEnd::SessionEnded { reason } => Self {
                reason: reason.as_ref().map(|reason| reason.code().to_owned()),
                ..told(ExecOutcome::SessionEnded)
            },
            CommandEnd::HerdEnds => told(ExecOutcome::HerdEnds),
            CommandEnd::Revoked => told(ExecOutcome::Revoked),
            CommandEnd::Misused { .. } => told(ExecOutcome::Misused),
        }
    }
}
