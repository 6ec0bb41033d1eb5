//! `herd stop`.

use std::process::ExitCode;

use http::Method;

use crate::control::views::{StopOutcome, StopReport, name};
use crate::core::SessionId;

use super::client::{Control, session_id, session_path};
use super::show::{self, Output};

/// End a session now and wait until its whole process tree is gone
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd stop user-42
  stopped user-42: 12 processes, 312 MB freed, 3 ms

Exit codes: 0 stopped, 1 failed (no such session, herd is not running), 2
wrong usage")]
pub struct Stop {
    /// The session: its id, with `auth` in herd.yaml as PRINCIPAL/ID
    #[arg(value_parser = session_id)]
    id: SessionId,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Stop {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = session_path(&self.id, "", &[]);
        let report: StopReport = self
            .control
            .run(|mut client| async move { Ok(client.ask(Method::DELETE, &path).await?) })?;
        match self.output {
            Output::Data(format) => format.print(&report)?,
            Output::Table => show::print(sentence(&report))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What came of it, as a line.
pub(super) fn sentence(report: &StopReport) -> String {
    let id = name(report.principal.as_deref(), &report.id);
    match (&report.outcome, &report.death) {
        (StopOutcome::Ended, Some(dead)) => format!(
            "stopped {id}: {}, {} freed, {:.0} ms\n",
            show::count(dead.processes, "process", "processes"),
            show::size(dead.memory_bytes),
            dead.took_ms.ceil(),
        ),
        (StopOutcome::Ended, None) => format!("stopped {id}: its worker is warm again\n"),
        (StopOutcome::NeverStarted, _) => format!("stopped {id}: its worker had not started yet\n"),
        (StopOutcome::Forgotten, _) => format!("forgot {id}: its worker had crashed; the id is free again\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::views::Dead;

    #[test]
    fn what_died_is_told_in_one_line() {
        let dead = Dead {
            processes: 12,
            pids: vec![],
            memory_bytes: 312_000_000,
            took_ms: 2.3,
            exit: "killed by signal 9".to_owned(),
            status: None,
            signal: Some(9),
            limit: None,
        };
        let report = StopReport {
            id: "user-42".into(),
            principal: None,
            outcome: StopOutcome::Ended,
            death: Some(dead),
        };
        assert_eq!(
            sentence(&report),
            "stopped user-42: 12 processes, 312 MB freed, 3 ms\n"
        );
    }
}
