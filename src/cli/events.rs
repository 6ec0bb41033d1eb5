//! `herd events`.

use std::process::ExitCode;

use anyhow::Context;
use http::Method;

use super::client::{Control, Lines, kind_name, session_id, with_query};
use super::show::{self, Output};
use crate::control::views::{By, Event, What};
use crate::core::SessionId;

/// Watch what happens: sessions, workers, and what others do with this API
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd events --replay 2 --session user-42
  2026-01-31T12:00:00.000Z session.created user-42 browser w3 pid 48211
  2026-01-31T12:04:10.218Z session.ended user-42 browser: its client …

With -o json each line is one event, with -o yaml each document, as
docs/api.md describes it.

Exit codes: 0 herd has ended, 1 failed (herd is not running), 2 wrong usage")]
pub struct Events {
    /// Begin with the last N events, of at most 4096 that are kept
    #[arg(long, value_name = "N", default_value_t = 0)]
    replay: u32,
    /// End after those, instead of waiting for more
    #[arg(long)]
    no_follow: bool,
    /// Only of this session
    #[arg(long, value_name = "ID", value_parser = session_id)]
    session: Option<SessionId>,
    /// Only of workers of this kind
    #[arg(short, long, value_name = "KIND", value_parser = kind_name)]
    worker: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Events {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = with_query(
            "/v1/events",
            &[
                ("replay", Some(self.replay.to_string())),
                ("follow", Some((!self.no_follow).to_string())),
                ("session", self.session.map(|id| id.to_string())),
                ("worker", self.worker),
            ],
        );
        self.control.run_while_read(|mut client| async move {
            let mut lines = Lines::of(client.stream(Method::GET, &path).await?);
            while let Some(line) = lines.next().await? {
                // Of a server-sent event the data is all that is needed.
                let Some(data) = line.strip_prefix(b"data: ") else {
                    continue;
                };
                match self.output {
                    Output::Data(format) => format.print_line(data)?,
                    Output::Table => {
                        let event: Event =
                            serde_json::from_slice(data).context("herd's event is not understood")?;
                        show::print(sentence(&event))?;
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn sentence(event: &Event) -> String {
    let of_session = |session: &Option<String>| match session {
        Some(id) => format!(" of {id}"),
        None => String::new(),
    };
    let told = match &event.what {
        What::SessionCreated {
            session,
            kind,
            worker,
            pid,
            ..
        } => {
            let pid = pid.map(|pid| format!(" pid {pid}")).unwrap_or_default();
            format!("{session} {kind} {worker}{pid}")
        }
        What::SessionRefused { session, detail, .. } => format!("{session}: {detail}"),
        What::SessionEnded {
            session,
            kind,
            detail,
            ..
        } => format!("{session} {kind}: {detail}"),
        What::WorkerReady { worker, kind } => format!("{worker} {kind}"),
        What::WorkerFailed { worker, kind, detail } | What::WorkerUnwell { worker, kind, detail } => {
            format!("{worker} {kind}: {detail}")
        }
        What::WorkerGone {
            worker,
            kind,
            session,
            death,
            ..
        } => format!(
            "{worker} {kind}{}: {}, {} freed, {}",
            of_session(session),
            show::count(death.processes, "process", "processes"),
            show::size(death.memory_bytes),
            death.exit,
        ),
        What::Draining { limit_ms } => format!(
            "bound sessions have {}",
            show::duration(std::time::Duration::from_millis(*limit_ms))
        ),
        What::ControlToken { session, by }
        | What::ControlCreate { session, by }
        | What::ControlStop { session, by }
        | What::ControlHold { session, by, .. } => format!("{session} by {}", who(by)),
        What::ControlDrain { by } | What::ControlReload { by } => format!("by {}", who(by)),
        What::ConfigReloaded { cause, reloaded } => {
            format!("by {cause}: {}", super::reload::summary(reloaded))
        }
        What::ConfigReloadFailed { cause, detail } => format!("by {cause}: {detail}"),
        What::ControlExec { session, command, by } => {
            format!("{session} by {}: {}", who(by), command.join(" "))
        }
        What::ExecEnded {
            session,
            command,
            end,
            ..
        } => format!("{session}: {}: {}", command.join(" "), end.detail),
        What::EventsLost { missed: Some(missed) } => format!("{missed} events were missed"),
        What::EventsLost { missed: None } => "events of an earlier herd were missed".to_owned(),
    };
    let told = crate::worker::escape(told.as_bytes());
    format!("{} {} {told}\n", event.at, event.what.name())
}

fn who(by: &By) -> String {
    match (&by.key, by.uid) {
        (Some(key), _) => format!("key {key}"),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "nobody known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_cannot_drive_the_terminal() {
        let event = Event {
            id: None,
            at: "2026-01-31T12:00:00.000Z".to_owned(),
            what: What::WorkerFailed {
                worker: "w1".to_owned(),
                kind: "browser".to_owned(),
                detail: "no\n\x1b[2J".to_owned(),
            },
        };
        assert_eq!(
            sentence(&event),
            "2026-01-31T12:00:00.000Z worker.failed w1 browser: no\\n\\x1b[2J\n"
        );
    }
}
