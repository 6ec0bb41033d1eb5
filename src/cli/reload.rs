//! `herd reload`.

use std::process::ExitCode;

use http::Method;

use super::client::{ClientError, Control};
use super::show::{self, Output};
use crate::control::views::{Problem, Reloaded};

/// Have herd read its herd.yaml again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd reload
  configuration 4 is in force: browser renewed; shell adjusted

The same as SIGHUP to herd, and it tells what has come of it. The file is
judged as `herd check` does; if anything is wrong, herd goes on with the
configuration that it has. Bound sessions keep their workers until they end.

Exit codes: 0 the file is in force, 1 it is not (it is wrong, or needs a
restart, or herd is not running), 2 wrong usage")]
pub struct Reload {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Reload {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { output, control } = self;
        control.run(|mut client| async move {
            match client.ask::<Reloaded>(Method::POST, "/v1/reload").await {
                Ok(reloaded) => {
                    match output {
                        Output::Data(format) => format.print(&reloaded)?,
                        Output::Table => show::print(sentence(&reloaded))?,
                    }
                    Ok(ExitCode::SUCCESS)
                }
                // The findings are the command's result, as those of `herd check` are.
                Err(ClientError::Refused(problem)) if is_about_the_file(&problem) => {
                    match output {
                        Output::Data(format) => format.print(&problem)?,
                        // herd has escaped what comes from the file.
                        Output::Table => show::print(format!("{}\n", problem.detail))?,
                    }
                    Ok(ExitCode::FAILURE)
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}

fn is_about_the_file(problem: &Problem) -> bool {
    matches!(problem.code.as_str(), "config_invalid" | "restart_required")
}

fn sentence(reloaded: &Reloaded) -> String {
    format!(
        "configuration {} is in force: {}\n",
        reloaded.config_generation,
        summary(reloaded)
    )
}

/// `a, b renewed, c added`
pub(super) fn summary(reloaded: &Reloaded) -> String {
    let parts = [
        (&reloaded.added, "added"),
        (&reloaded.renewed, "renewed"),
        (&reloaded.adjusted, "adjusted"),
        (&reloaded.removed, "removed"),
    ];
    let told: Vec<String> = parts
        .into_iter()
        .filter(|(kinds, _)| !kinds.is_empty())
        .map(|(kinds, what)| format!("{} {what}", kinds.join(", ")))
        .collect();
    match told.is_empty() {
        true => "every kind of worker is as it was".to_owned(),
        false => told.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_become_of_the_kinds_is_told() {
        let kinds = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut reloaded = Reloaded {
            config_generation: 4,
            added: kinds(&[]),
            renewed: kinds(&["a", "b"]),
            adjusted: kinds(&["c"]),
            removed: kinds(&[]),
        };
        assert_eq!(
            sentence(&reloaded),
            "configuration 4 is in force: a, b renewed; c adjusted\n"
        );
        reloaded.renewed.clear();
        reloaded.adjusted.clear();
        assert_eq!(
            sentence(&reloaded),
            "configuration 4 is in force: every kind of worker is as it was\n"
        );
    }
}
