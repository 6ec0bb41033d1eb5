//! `herd hold`.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use http::Method;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::control::views::{Held, HeldOrigin, HoldEnded, name};
use crate::core::SessionId;

use super::client::{Control, Lines, kind_name, session_id, session_path};
use super::show::{self, Output};

/// Keep a session alive until this command ends, creating it if need be
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd hold user-42 --worker browser
  holding user-42: browser worker w3, created; Ctrl-C lets go

The hold is authoritative: when the last one of a session goes, by Ctrl-C or
by kill -9, the session ends after its disconnect_grace.

Exit codes: 0 let go, 1 failed or the session ended first, 2 wrong usage")]
pub struct Hold {
    /// The session: its id, with `auth` in herd.yaml as PRINCIPAL/ID
    #[arg(value_parser = session_id)]
    id: SessionId,
    /// The kind of worker a new session gets, and an existing one must have [default: the first kind]
    #[arg(short, long, value_name = "KIND", value_parser = kind_name)]
    worker: Option<String>,
    /// Also let go when standard input ends: the script that feeds it has died
    #[arg(long)]
    until_stdin_ends: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Hold {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = session_path(&self.id, "/hold", &[("worker", self.worker)]);
        let output = self.output;
        self.control.run(|mut client| async move {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let stdin_ended = async {
                if self.until_stdin_ends {
                    stdin_end().await
                } else {
                    std::future::pending().await
                }
            };
            let holding = async {
                let mut body = Lines::of(client.stream(Method::GET, &path).await?);
                let mut lines = 0;
                while let Some(line) = body.next().await? {
                    if !line.is_empty() {
                        lines += 1;
                        tell(&line, lines, output)?;
                    }
                }
                match lines {
                    // The last line told why.
                    2.. => Ok(ExitCode::FAILURE),
                    _ => anyhow::bail!("herd is shutting down; the session ends with it"),
                }
            };
            tokio::select! {
                ended = holding => ended,
                _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
                _ = terminate.recv() => Ok(ExitCode::SUCCESS),
                () = stdin_ended => Ok(ExitCode::SUCCESS),
            }
        })
    }
}

fn tell(line: &[u8], number: usize, output: Output) -> anyhow::Result<()> {
    let unexpected = "herd's answer is not understood";
    match (output, number) {
        (Output::Data(format), _) => format.print_line(line)?,
        (Output::Table, 1) => {
            let held: Held = serde_json::from_slice(line).context(unexpected)?;
            let origin = match held.origin {
                HeldOrigin::Created => "created",
                HeldOrigin::Reused => "it was there already",
            };
            let id = name(held.principal.as_deref(), &held.id);
            let Held { kind, worker, .. } = held;
            show::print(format!(
                "holding {id}: {kind} worker {worker}, {origin}; Ctrl-C lets go\n"
            ))?;
        }
        (Output::Table, _) => {
            let ended: HoldEnded = serde_json::from_slice(line).context(unexpected)?;
            eprintln!("herd: the session ended: {}", ended.detail);
        }
    }
    Ok(())
}

async fn stdin_end() {
    let (ended, end) = oneshot::channel();
    // A thread, because a terminal or a file cannot be waited for without changing it for others too.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(1..)) {}
        // Nobody listens if the command has ended already.
        let _ = ended.send(());
    });
    // Dropped by a thread that panicked: as good as ended.
    let _ = end.await;
}
