//! `herd ps`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use crate::control::views::{EndsFor, Sandbox, Session, SessionList, Version};
use crate::worker::escape;

use super::client::{Control, kind_name, principal, with_query};
use super::show::{self, Output};

/// List sessions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd ps
  SESSION  KIND     SANDBOX  STATE  WORKER  PID    HOLDERS  AGE    ENDS
  user-42  browser  on       bound  w3      48211  1        2m05s  when released
  user-43  browser  on       bound  w4      48302  0        8s     in 14m52s

ENDS tells when a session ends if nothing changes, and why one ended. A worker
of an earlier configuration, which a reload has replaced for new sessions, is
shown with its number. With `auth` in herd.yaml, SESSION is PRINCIPAL/ID, as
the other commands take it.

Exit codes: 0 listed, 1 failed (herd is not running), 2 wrong usage")]
pub struct Ps {
    /// Also list sessions that ended, as far as they are remembered
    #[arg(short, long)]
    all: bool,
    /// Only of workers of these kinds
    #[arg(short, long, value_name = "KIND", value_parser = kind_name, value_delimiter = ',')]
    worker: Vec<String>,
    /// Only of this principal
    #[arg(short, long, value_name = "NAME", value_parser = principal)]
    principal: Option<String>,
    /// Only in these states; ended needs --all
    #[arg(short, long, value_name = "STATE", value_parser = STATES, value_delimiter = ',')]
    state: Vec<String>,
    /// Also what their processes use: number, memory, processor time
    #[arg(short, long)]
    usage: bool,
    /// List again and again, every SECONDS [default: 2], until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

/// Which sessions were asked for.
#[derive(Debug, Clone, Copy)]
enum Among {
    All,
    Chosen,
}

const STATES: [&str; 5] = ["queued", "starting", "bound", "ending", "ended"];

const HEADINGS: [&str; 9] = [
    "SESSION", "KIND", "SANDBOX", "STATE", "WORKER", "PID", "HOLDERS", "AGE", "ENDS",
];
const WITH_USAGE: [&str; 12] = [
    "SESSION", "KIND", "SANDBOX", "STATE", "WORKER", "PID", "PROCS", "MEMORY", "CPU", "HOLDERS", "AGE",
    "ENDS",
];

impl Ps {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let list = |words: &[String]| (!words.is_empty()).then(|| words.join(","));
        let flag = |on: bool| on.then(|| "true".to_owned());
        let path = with_query(
            "/v1/sessions",
            &[
                ("all", flag(self.all)),
                ("worker", list(&self.worker)),
                ("principal", self.principal.clone()),
                ("state", list(&self.state)),
                ("usage", flag(self.usage)),
            ],
        );
        let among = match self.worker.is_empty() && self.state.is_empty() && self.principal.is_none() {
            true => Among::All,
            false => Among::Chosen,
        };
        let Self {
            output, usage, watch, ..
        } = self;
        self.control.run_while_read(|mut client| async move {
            // On a terminal each list takes the place of the one before.
            let clear = watch.is_some() && output == Output::Table && std::io::stdout().is_terminal();
            loop {
                let list: SessionList = client.ask(Method::GET, &path).await?;
                if clear {
                    show::print("\x1b[H\x1b[2J")?;
                }
                match (output, watch) {
                    (Output::Data(format), None) => format.print(&list.sessions)?,
                    (Output::Data(format), Some(_)) => format.print_next(&list.sessions)?,
                    (Output::Table, _) if usage => show::print(table_with_usage(&list.sessions))?,
                    (Output::Table, _) => show::print(table(&list.sessions))?,
                }
                if output == Output::Table && list.sessions.is_empty() {
                    match among {
                        Among::Chosen => eprintln!("no session is of this kind, principal and state"),
                        Among::All => {
                            let herd: Version = client.ask(Method::GET, "/v1/version").await?;
                            let header = escape(herd.session_header.as_bytes()).into_owned();
                            eprintln!(
                                "no sessions; the first request that carries the header {header} makes one"
                            );
                        }
                    }
                }
                let Some(seconds) = watch else {
                    return Ok(ExitCode::SUCCESS);
                };
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        })
    }
}

fn table(sessions: &[Session]) -> String {
    show::table(HEADINGS, &sessions.iter().map(row).collect::<Vec<_>>())
}

fn table_with_usage(sessions: &[Session]) -> String {
    let rows: Vec<_> = sessions.iter().map(row_with_usage).collect();
    show::table(WITH_USAGE, &rows)
}

fn row_with_usage(session: &Session) -> [String; 12] {
    let [id, kind, sandbox, state, worker, pid, holders, age, ends] = row(session);
    let (processes, memory, cpu) = match session.usage {
        None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        Some(used) => (
            used.processes.to_string(),
            show::size(used.memory_bytes),
            show::duration(Duration::from_secs_f64(used.cpu_seconds)),
        ),
    };
    [
        id, kind, sandbox, state, worker, pid, processes, memory, cpu, holders, age, ends,
    ]
}

fn row(session: &Session) -> [String; 9] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        session.name(),
        session.kind.clone(),
        match session.sandbox {
            Sandbox::Off => "off",
            Sandbox::On => "on",
            Sandbox::Weaker => "weaker",
        }
        .to_owned(),
        session.state.word().to_owned(),
        or_dash(
            session
                .worker
                .as_ref()
                .map(|worker| match (session.outdated, session.config_generation) {
                    (true, Some(generation)) => format!("{worker} (config {generation})"),
                    _ => worker.clone(),
                }),
        ),
        or_dash(session.pid.map(|pid| pid.to_string())),
        session.holders.to_string(),
        show::duration(Duration::from_millis(session.age_ms)),
        ends(session),
    ]
}

/// When a session ends, or why it has.
pub(super) fn ends(session: &Session) -> String {
    match (&session.reason, session.ends_in_ms) {
        (Some(reason), _) if session.run.is_some() => format!("{reason} (former herd)"),
        (Some(reason), _) => reason.clone(),
        (None, Some(left)) => {
            let left = show::duration(Duration::from_millis(left));
            match session.ends_for {
                Some(EndsFor::MaxLifetime) => format!("in {left} (max_lifetime)"),
                Some(EndsFor::Disconnected) => format!("in {left} (disconnected)"),
                Some(EndsFor::Ttl | EndsFor::Forgotten) | None => format!("in {left}"),
            }
        }
        (None, None) if session.holders > 0 => "when released".to_owned(),
        (None, None) => "-".to_owned(),
    }
}
