//! `herd inspect`.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use super::client::{Control, session_id, session_path};
use super::show::{self, Output};
use crate::control::views::{EndsFor, Session, SessionHistory, State};
use crate::core::SessionId;
use crate::worker::escape;

/// Show all that is known of a session: what keeps it alive, when it ends, why it ended
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd inspect user-42
  session:     user-42 (generation 7)
  state:       bound, w3 of kind browser (pid 48211, 127.0.0.1:20003)
  alive:       2m05s, held by 1 stream
  uses:        12 processes, 312 MB, 4s of processor time

Exit codes: 0 shown, 1 failed (no such session, herd is not running), 2 wrong
usage")]
pub struct Inspect {
    /// The session: its id, with `auth` in herd.yaml as PRINCIPAL/ID
    #[arg(value_parser = session_id)]
    id: SessionId,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Inspect {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = session_path(&self.id, "", &[]);
        let history: SessionHistory = self
            .control
            .run(|mut client| async move { Ok(client.ask(Method::GET, &path).await?) })?;
        match self.output {
            Output::Data(format) => format.print(&history)?,
            Output::Table => show::print(text(&history))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(history: &SessionHistory) -> String {
    let session = &history.session;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // A String takes everything.
        let _ = writeln!(text, "{:<12} {}", format!("{name}:"), escape(value.as_bytes()));
    };
    line(
        "session",
        format!("{} (generation {})", session.name(), session.generation),
    );
    line("state", state(session));
    if session.outdated
        && let Some(generation) = session.config_generation
    {
        line(
            "outdated",
            format!("of configuration {generation}; its worker ends with it"),
        );
    }
    line("since", session.created.clone());
    line("alive", alive(session));
    if let Some(used) = session.usage {
        line(
            "uses",
            format!(
                "{}, {}, {} of processor time",
                show::count(used.processes, "process", "processes"),
                show::size(used.memory_bytes),
                show::duration(Duration::from_secs_f64(used.cpu_seconds))
            ),
        );
    }
    if let Some(run) = &session.run {
        line("herd", format!("a former one, which started {run}"));
    }
    if let Some(detail) = &session.detail {
        line(
            "ended",
            match (&session.ended, session.state) {
                (Some(at), _) => format!("{detail} ({at})"),
                // It is told with the rest: between two moments.
                (None, State::Ended) => detail.clone(),
                (None, _) => format!("{detail} (now)"),
            },
        );
    }
    if let Some(death) = &session.death {
        line(
            "died",
            format!(
                "{}, {} freed, {:.1} ms; {}",
                show::count(death.processes, "process", "processes"),
                show::size(death.memory_bytes),
                death.took_ms,
                death.exit
            ),
        );
    }
    if let Some(took) = session.disconnect_to_dead_ms {
        let since = "after its client had left, disconnect_grace not counted";
        line("all gone", format!("{took:.1} ms {since}"));
    }
    for earlier in &history.earlier {
        let why = earlier.detail.as_deref().unwrap_or("-");
        let run = if earlier.run.is_some() {
            " (former herd)"
        } else {
            ""
        };
        line(
            "earlier",
            format!("generation {}: {why}{run}", earlier.generation),
        );
    }
    text
}

fn state(session: &Session) -> String {
    let mut text = session.state.word().to_owned();
    if let Some(worker) = &session.worker {
        let _ = write!(text, ", {worker} of kind {}", session.kind);
    } else {
        let _ = write!(text, ", of kind {}", session.kind);
    }
    let pid = session.pid.map(|pid| format!("pid {pid}"));
    let places: Vec<String> = pid.into_iter().chain(session.endpoint.clone()).collect();
    if !places.is_empty() {
        let _ = write!(text, " ({})", places.join(", "));
    }
    text
}

fn alive(session: &Session) -> String {
    let mut text = show::duration(Duration::from_millis(session.age_ms));
    if session.state == State::Ended {
        // Of one that died with its herd nobody knows when.
        return match session.ended {
            Some(_) => text,
            None => format!("at least {text}"),
        };
    }
    let held: Vec<String> = [
        (session.requests as usize, "request", "requests"),
        (session.streams as usize, "stream", "streams"),
        (usize::from(session.holds), "hold", "holds"),
    ]
    .into_iter()
    .filter(|(count, _, _)| *count > 0)
    .map(|(count, one, many)| show::count(count, one, many))
    .collect();
    if !held.is_empty() {
        let _ = write!(text, ", held by {}", held.join(" and "));
    }
    if let Some(left) = session.ends_in_ms {
        let left = show::duration(Duration::from_millis(left));
        let why = match session.ends_for {
            Some(EndsFor::Disconnected) => "its client has gone",
            Some(EndsFor::Ttl) => "its ttl",
            Some(EndsFor::MaxLifetime) => "its max_lifetime",
            Some(EndsFor::Forgotten) => "the id is new again then",
            None => "-",
        };
        let _ = write!(text, ", ends in {left} ({why})");
    }
    text
}
