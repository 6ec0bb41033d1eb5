//! `herd check`: what is wrong with a configuration file, without starting anything.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::show::{self, Output};
use super::surroundings::{Taker, judge};
use crate::config::paths::User;
use crate::config::{self, Config, ConfigFile, LoadError, Overrides};
use crate::launcher::sandbox::{self, PlanError};
use crate::sandbox::cgroup::{self, Controllers, Host};
use crate::worker::Plans;

/// Say everything that is wrong with a configuration file, without starting anything
///
/// It makes the checks of `herd start`, and changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  $ herd check --config herd.yaml
  herd.yaml: ok, 2 worker kinds
  $ herd check --config herd.yaml -o json | jq -r '.problems[].message'

Exit codes: 0 herd would start with it, 1 it would not, 2 wrong usage")]
pub struct Check {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    overrides: Overrides,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Check {
    /// Success if herd would start with this file. The findings are the command's result, so they go
    /// to standard output.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.config.path.display().to_string();
        let result = config::load(&self.config.path).and_then(|mut config| {
            self.overrides.apply(&mut config);
            let user = User::current();
            judge(&config, &self.config.path, Taker::Start(&user), plans(&config))?;
            Ok(config)
        });
        let code = if result.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        match self.output {
            // There is nothing to judge: no result, but a failure of this command.
            Output::Table => match result {
                Err(error) if !matches!(error, LoadError::Invalid(_)) => return Err(error.into()),
                result => show::print(as_text(&file, result) + "\n")?,
            },
            Output::Data(format) => format.print(&as_data(&file, result))?,
        }
        Ok(code)
    }
}

/// What `herd start` would plan for the sandboxes, as far as a look can tell.
fn plans(config: &Config) -> Result<Plans, Vec<PlanError>> {
    if config.kinds.iter().all(|kind| kind.sandbox.on().is_none()) {
        return Ok(Vec::new());
    }
    let (mut available, mut missing) = (Controllers::NONE, Vec::new());
    for (controller, offer) in cgroup::survey(Host::current()) {
        match offer {
            Ok(_) => available = available.union(controller.into()),
            Err(why) => missing.push(why),
        }
    }
    sandbox::prepare(config, available, &missing)
}

fn as_text(file: &str, result: Result<config::Config, LoadError>) -> String {
    match result {
        Ok(config) => {
            let kinds = config.kinds.len();
            let mut text = format!(
                "{file}: ok, {kinds} worker kind{}",
                if kinds == 1 { "" } else { "s" }
            );
            for warning in super::start::too_large(&config) {
                text.push_str("\nwarning: ");
                text.push_str(&warning);
            }
            text
        }
        Err(error) => complaint(file, &error),
    }
}

/// What is wrong, for people.
pub(super) fn complaint(file: &str, error: &LoadError) -> String {
    match error {
        LoadError::Invalid(problems) => {
            let count = problems.list.len();
            let noun = if count == 1 { "problem" } else { "problems" };
            format!("{problems}\n{file}: {count} {noun}")
        }
        error => error.to_string(),
    }
}

fn as_data(file: &str, result: Result<config::Config, LoadError>) -> serde_json::Value {
    match result {
        Ok(config) => {
            let kinds: Vec<&str> = config.kinds.iter().map(|kind| kind.name.as_str()).collect();
            let warnings = super::start::too_large(&config);
            json!({ "file": file, "ok": true, "workers": kinds, "problems": [], "warnings": warnings })
        }
        Err(LoadError::Invalid(problems)) => {
            json!({ "file": file, "ok": false, "problems": problems.list })
        }
        Err(error) => json!({ "file": file, "ok": false, "error": error.to_string(), "problems": [] }),
    }
}
