//! `herd ps`.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use crate::control::views::{Sandbox, Session, SessionList, State};

use super::client::Control;
use super::show::{self, Output};

/// List sessions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd ps
  SESSION  KIND     STATE  WORKER  PID    HOLDERS  AGE    ENDS
  user-42  browser  bound  w3      48211  1        2m05s  when released
  user-43  browser  bound  w4      48302  0        8s     in 14m52s

ENDS tells when a session ends if nothing changes, and why one ended.
Exit codes: 0 listed, 1 failed (herd is not running), 2 wrong usage")]
pub struct Ps {
    /// Also list sessions that ended, as far as they are remembered
    #[arg(short, long)]
    all: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Ps {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = if self.all {
            "/v1/sessions?all=true"
        } else {
            "/v1/sessions"
        };
        let list: SessionList = self
            .control
            .run(|mut client| async move { Ok(client.ask(Method::GET, path).await?) })?;
        match self.output {
            Output::Json => show::print_json(&list.sessions)?,
            Output::Table => {
                let rows: Vec<_> = list.sessions.iter().map(row).collect();
                let headings = [
                    "SESSION", "KIND", "SANDBOX", "STATE", "WORKER", "PID", "HOLDERS", "AGE", "ENDS",
                ];
                show::print(show::table(headings, &rows))?;
                if rows.is_empty() {
                    eprintln!("no sessions; the first request that carries an X-Session-ID header makes one");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(session: &Session) -> [String; 9] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = match session.state {
        State::Queued => "queued",
        State::Starting => "starting",
        State::Bound => "bound",
        State::Ending => "ending",
        State::Ended => "ended",
    };
    let ends = match (&session.reason, session.ends_in_ms) {
        (Some(reason), _) => reason.clone(),
        (None, Some(left)) => format!("in {}", show::duration(Duration::from_millis(left))),
        (None, None) if session.holders > 0 => "when released".to_owned(),
        (None, None) => "-".to_owned(),
    };
    [
        session.id.clone(),
        session.kind.clone(),
        match session.sandbox {
            Sandbox::Off => "off",
            Sandbox::On => "on",
            Sandbox::Weaker => "weaker",
        }
        .to_owned(),
        state.to_owned(),
        or_dash(session.worker.clone()),
        or_dash(session.pid.map(|pid| pid.to_string())),
        session.holders.to_string(),
        show::duration(Duration::from_millis(session.age_ms)),
        ends,
    ]
}
