//! `herd run`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use http::Method;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, ClientError, Control, Lines, kind_name, principal, session_id, session_path};
use crate::control::views::{Held, HeldOrigin, HoldEnded, NewToken, Token, Version};
use crate::core::SessionId;
use crate::worker::escape;

/// Run a command with a session of its own, which ends with it
///
/// The command finds in its environment: HERD_SESSION_ID, the session's id; HERD_SESSION_HEADER, the header to send
/// it in; HERD_URL, where to send it; with --principal HERD_TOKEN, good for a day, to send as
/// `Authorization: Bearer`. However this command ends, also by kill -9, the session's whole tree dies.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  herd run browser -- node test.js
  herd run runner -- sh -c \\
    'curl -sH \"$HERD_SESSION_HEADER: $HERD_SESSION_ID\" \"$HERD_URL\"'
  herd run runner                    # a shell

SIGTERM and SIGHUP are passed on to the command. SIGINT and SIGQUIT are not:
Ctrl-C at a terminal reaches the command itself, which decides what comes of
it. To end a `herd run` from elsewhere, send SIGTERM.

Exit codes: the command's; 128 and the signal's number if one killed it; 1 if
herd has no session for it, 2 for wrong usage, 126 or 127 if the command
cannot be run or found.")]
pub struct Run {
    /// The kind of worker
    #[arg(value_parser = kind_name)]
    worker: String,
    /// The session's id, also of one that is there: it ends with this command then [default: a new one]
    #[arg(long, value_name = "ID", value_parser = session_id)]
    session: Option<SessionId>,
    /// Whose the session is, where herd.yaml has `auth`
    #[arg(long, value_name = "NAME", value_parser = principal)]
    principal: Option<String>,
    /// The command and its arguments [default: $SHELL, or /bin/sh]
    #[arg(last = true, value_name = "COMMAND", value_hint = clap::ValueHint::AnyPath)]
    command: Vec<OsString>,
    #[command(flatten)]
    control: Control,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let id = match self.session {
            Some(id) => id,
            None => new_id()?,
        };
        let id = match &self.principal {
            Some(principal) if id.principal().is_some_and(|other| other != principal) => {
                anyhow::bail!("--session names another principal than --principal; leave one out")
            }
            Some(principal) => id.of(principal),
            None => id,
        };
        let mut command = self.command.into_iter();
        let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        let program = command.next().unwrap_or_else(shell);
        let path = session_path(&id, "/hold", &[("worker", Some(self.worker))]);
        let token_path = session_path(&id, "/token", &[]);
        let has_principal = id.principal().is_some();
        self.control.run(|mut client| async move {
            let herd: Version = client.ask(Method::GET, "/v1/version").await?;
            let hold = client.stream(Method::GET, &path).await.map_err(in_words_of_run)?;
            let mut hold = Lines::of(hold);
            let first = hold.next().await?.context("herd is shutting down")?;
            let held: Held = serde_json::from_slice(&first).context("herd's answer is not understood")?;
            if held.origin == HeldOrigin::Reused {
                eprintln!(
                    "herd: session {} was there already; it ends with this command, unless others hold it",
                    held.id
                );
            }
            let token: Option<Token> = match has_principal {
                true => Some(token(&mut client.another().await?, &token_path).await?),
                false => None,
            };

            // Those of the terminal reach the command, too, and it decides.
            let mut ignored = [signal(SignalKind::interrupt())?, signal(SignalKind::quit())?];
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hang_up = signal(SignalKind::hangup())?;
            #[expect(clippy::disallowed_methods, reason = "this command is no herd")]
            let child = tokio::process::Command::new(&program)
                .args(command)
                .env("HERD_SESSION_ID", &held.id)
                .env("HERD_SESSION_HEADER", &herd.session_header)
                .env("HERD_URL", &herd.data_url)
                .envs(token.map(|token| ("HERD_TOKEN", token.token)))
                .spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(error) => {
                    eprintln!("herd: cannot run {}: {error}", program.display());
                    let missing = error.kind() == std::io::ErrorKind::NotFound;
                    return Ok(ExitCode::from(if missing { 127 } else { 126 }));
                }
            };
            let [interrupt, quit] = &mut ignored;
            let mut held = true;
            loop {
                tokio::select! {
                    status = child.wait() => return Ok(exit_code(status?)),
                    _ = interrupt.recv() => {}
                    _ = quit.recv() => {}
                    _ = terminate.recv() => pass_on(&child, nix::sys::signal::Signal::SIGTERM),
                    _ = hang_up.recv() => pass_on(&child, nix::sys::signal::Signal::SIGHUP),
                    line = hold.next(), if held => match line {
                        Ok(Some(line)) if line.is_empty() => {}
                        Ok(Some(line)) => tell_end(&line),
                        // Told already, or herd is gone; the command may still have something to do.
                        Ok(None) | Err(_) => held = false,
                    },
                }
            }
        })
    }
}

fn in_words_of_run(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused(problem) if problem.code == "principal_required" => {
            anyhow::anyhow!("with `auth` in herd.yaml a session is a principal's; add --principal NAME")
        }
        error => error.into(),
    }
}

async fn token(client: &mut Client, path: &str) -> anyhow::Result<Token> {
    // The session ends with the command, so the longest life there is does no harm.
    let new = NewToken {
        ttl_ms: Some(24 * 60 * 60 * 1000),
        worker: None,
    };
    let body = serde_json::to_vec(&new).context("a token cannot be asked for")?;
    Ok(client.ask_with(Method::POST, path, body.into()).await?)
}

fn tell_end(line: &[u8]) {
    if let Ok(ended) = serde_json::from_slice::<HoldEnded>(line) {
        eprintln!("herd: the session ended: {}", escape(ended.detail.as_bytes()));
    }
}

/// The child is this process's own and not waited for yet, so its number is nobody else's.
fn pass_on(child: &tokio::process::Child, signal: nix::sys::signal::Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// As a shell tells it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

fn new_id() -> anyhow::Result<SessionId> {
    let mut bits = [0; 8];
    getrandom::fill(&mut bits).map_err(|error| anyhow::anyhow!("no randomness for a session id: {error}"))?;
    Ok(SessionId::parse(
        format!("run-{}", data_encoding::HEXLOWER.encode(&bits)).as_bytes(),
    )?)
}
