//! `herd drain`.

use std::process::ExitCode;

use http::Method;
use http_body_util::BodyExt;

use super::client::Control;
use super::show::{self, Output};
use crate::control::views::Draining;

/// Drain: refuse new sessions, let bound ones finish, then end herd
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd drain
  draining: new sessions are refused, 3 sessions go on for at most drain_timeout

The same as SIGTERM to herd. With --wait it returns when herd has ended.

Exit codes: 0 drains, or with --wait has ended, 1 failed (herd is not
running), 2 wrong usage")]
pub struct Drain {
    /// Return when herd has ended
    #[arg(long)]
    wait: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Drain {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.control.run(|mut client| async move {
            // Before the drain: herd may end at once. Its streams end with it.
            let mut watched = match self.wait {
                true => Some(client.another().await?),
                false => None,
            };
            let events = match &mut watched {
                Some(other) => Some(other.stream(Method::GET, "/v1/events").await?),
                None => None,
            };
            let draining: Draining = client.ask(Method::POST, "/v1/drain").await?;
            match self.output {
                Output::Data(format) => format.print(&draining)?,
                Output::Table => show::print(sentence(&draining))?,
            }
            if let Some(mut events) = events {
                while let Some(Ok(_)) = events.frame().await {}
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn sentence(draining: &Draining) -> String {
    match draining.bound {
        0 => "draining: new sessions are refused, none is bound\n".to_owned(),
        bound => format!(
            "draining: new sessions are refused, {} for at most drain_timeout\n",
            show::count(bound, "session goes on", "sessions go on")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_drain_waits_for_is_told() {
        let told = |bound| {
            sentence(&Draining {
                draining: true,
                bound,
            })
        };
        assert_eq!(told(0), "draining: new sessions are refused, none is bound\n");
        assert_eq!(
            told(1),
            "draining: new sessions are refused, 1 session goes on for at most drain_timeout\n"
        );
    }
}
