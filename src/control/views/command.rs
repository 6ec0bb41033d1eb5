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
        let otherwise = |outcome, detail: String| Self {
            outcome,
            exit_code: None,
            signal: None,
            reason: None,
            detail,
        };
        match end {
            CommandEnd::Exited { code } => Self {
                exit_code: Some(code),
                ..otherwise(ExecOutcome::Exited, format!("exit code {code}"))
            },
            CommandEnd::Signalled { signal } => Self {
                exit_code: Some(128 + signal),
                signal: Some(signal),
                ..otherwise(ExecOutcome::Signalled, format!("killed by signal {signal}"))
            },
            CommandEnd::NotRun { message, code } => Self {
                exit_code: Some(code.into()),
                ..otherwise(ExecOutcome::NotRun, message)
            },
            CommandEnd::ClientLeft => otherwise(ExecOutcome::ClientLeft, "its client left".to_owned()),
            CommandEnd::SessionEnded { reason: None } => {
                otherwise(ExecOutcome::SessionEnded, "its worker has ended".to_owned())
            }
            CommandEnd::SessionEnded { reason: Some(reason) } => Self {
                reason: Some(reason.code().to_owned()),
                ..otherwise(ExecOutcome::SessionEnded, format!("the session ended: {reason}"))
            },
            CommandEnd::HerdEnds => otherwise(ExecOutcome::HerdEnds, "herd is ending".to_owned()),
            CommandEnd::Revoked => otherwise(
                ExecOutcome::Revoked,
                "the key that it was asked for with may not do this any more".to_owned(),
            ),
            CommandEnd::Misused { message } => otherwise(ExecOutcome::Misused, message),
        }
    }
}
