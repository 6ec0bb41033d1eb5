//! Starts a described command in its own process group and owns that group until its end.
//!
//! The group is signalled by number, which is safe only while its leader is not reaped: the number
//! cannot be given away before. So a leader that ended is seen with `WNOWAIT` first, then the rest of
//! its group is killed, and only then is it reaped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use super::output::Running;

/// The body of `POST /v1/run`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandLine {
    cmd: Vec<String>,
    /// Added to the runner's own environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    stdin: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("{place}: {message}; write e.g. {{\"cmd\": [\"echo\", \"hello\"]}}")]
    Body { place: String, message: String },
    #[error("{place}: {message}")]
    Invalid { place: String, message: &'static str },
    #[error("cwd: {} is not a directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("cmd: cannot start {program:?}: {source}")]
    Start { program: String, source: io::Error },
    #[error("the runner cannot prepare the command: {0}")]
    Runner(#[source] io::Error),
}

impl CommandError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Runner(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl CommandLine {
    pub(super) fn parse(body: &[u8]) -> Result<Self, CommandError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let command: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let place = match error.path().to_string() {
                path if path == "." => "the body".to_owned(),
                path => path,
            };
            CommandError::Body {
                place,
                message: error.inner().to_string(),
            }
        })?;
        json.end().map_err(|error| CommandError::Body {
            place: "the body".to_owned(),
            message: error.to_string(),
        })?;
        command.check()?;
        Ok(command)
    }

    fn check(&self) -> Result<(), CommandError> {
        let invalid = |place: String, message| Err(CommandError::Invalid { place, message });
        if self.cmd.first().is_none_or(String::is_empty) {
            return invalid("cmd".to_owned(), "the program to run is missing");
        }
        if let Some(at) = self.cmd.iter().position(|word| word.contains('\0')) {
            return invalid(
                format!("cmd[{at}]"),
                "contains a NUL character, which no argument can",
            );
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return invalid(
                    format!("env[{name:?}]"),
                    "is not a variable name: empty, or has = or NUL",
                );
            }
            if value.contains('\0') {
                return invalid(
                    format!("env[{name:?}]"),
                    "contains a NUL character, which no variable can",
                );
            }
        }
        match &self.cwd {
            Some(cwd) if !cwd.is_dir() => Err(CommandError::NoDirectory(cwd.clone())),
            _ => Ok(()),
        }
    }

    pub(super) fn start(self, graveyard: &Graveyard) -> Result<Running, CommandError> {
        // Before the child exists, so that its end cannot be missed.
        let children = signal(SignalKind::child()).map_err(CommandError::Runner)?;
        let program = &self.cmd[0];
        let mut command = Command::new(program);
        command.args(&self.cmd[1..]).envs(&self.env).process_group(0);
        command.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the runner is a worker: processes are its purpose"
        )]
        let child = command.spawn().map_err(|source| CommandError::Start {
            program: program.clone(),
            source,
        })?;
        // From here on, an early return kills the group.
        let mut group = Group {
            child: Some(child),
            graveyard: graveyard.clone(),
        };
        let pipes = group.pipes().map_err(CommandError::Runner)?;
        let stdin = self.stdin.map(Bytes::from).unwrap_or_default();
        Ok(Running::new(group, children, pipes, stdin))
    }
}

/// The runner's ends of the command's standard streams.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: Option<pipe::Receiver>,
    pub(super) stderr: Option<pipe::Receiver>,
}

/// A process group and its unreaped leader; dropping it kills the group.
#[derive(Debug)]
pub(super) struct Group {
    /// Taken when it was handed to be reaped.
    child: Option<Child>,
    graveyard: Graveyard,
}

/// How the leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Code(i32),
    Signal(i32),
}

impl Group {
    fn pipes(&mut self) -> io::Result<Pipes> {
        let Some(child) = &mut self.child else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let receiver = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd);
        Ok(Pipes {
            stdin: child
                .stdin
                .take()
                .map(|fd| pipe::Sender::from_owned_fd(fd.into()))
                .transpose()?,
            stdout: child.stdout.take().map(|fd| receiver(fd.into())).transpose()?,
            stderr: child.stderr.take().map(|fd| receiver(fd.into())).transpose()?,
        })
    }

    /// `None`: it still runs. The leader stays unreaped, so that its number stays its own.
    pub(super) fn ended(&self) -> Option<Ended> {
        let pid = self.pid()?;
        match waitid(
            Id::Pid(pid),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG,
        ) {
            Ok(WaitStatus::Exited(_, code)) => Some(Ended::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Ended::Signal(signal as i32)),
            _ => None,
        }
    }

    fn pid(&self) -> Option<Pid> {
        self.child
            .as_ref()
            .and_then(|child| i32::try_from(child.id()).ok())
            .map(Pid::from_raw)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // Fails only where the whole group is gone already.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        if let Some(child) = self.child.take() {
            self.graveyard.bury(child);
        }
    }
}

/// Killed leaders that are not reaped yet: death takes a moment, and nobody waits for it here.
#[derive(Debug, Clone, Default)]
pub(super) struct Graveyard(Rc<RefCell<Vec<Child>>>);

impl Graveyard {
    fn bury(&self, child: Child) {
        self.0.borrow_mut().push(child);
        self.sweep();
    }

    /// Reaps who is dead; called whenever a child of the runner has ended.
    pub(super) fn sweep(&self) {
        self.0
            .borrow_mut()
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_is_told_where_it_is_wrong() {
        for (body, part) in [
            ("", "EOF while parsing"),
            ("{}", "the body: missing field `cmd`"),
            ("{\"cmd\": []}", "cmd: the program to run is missing"),
            (
                "{\"cmd\": [1]}",
                "cmd[0]: invalid type: integer `1`, expected a string",
            ),
            ("{\"cmd\": [\"a\"], \"shell\": true}", "unknown field `shell`"),
            (
                "{\"cmd\": [\"a\"], \"env\": {\"A=B\": \"\"}}",
                "env[\"A=B\"]: is not a variable name",
            ),
            ("{\"cmd\": [\"a\", \"\\u0000\"]}", "cmd[1]: contains a NUL"),
            (
                "{\"cmd\": [\"a\"], \"cwd\": \"/nowhere\"}",
                "cwd: /nowhere is not a directory",
            ),
            ("{\"cmd\": [\"a\"]} x", "the body: trailing characters"),
        ] {
            let error = CommandLine::parse(body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(part), "{body}: {error}");
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        }
    }
}
