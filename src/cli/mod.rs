//! The command line: one file per verb. A verb's `run` answers with its exit code; an error is printed
//! here, once, and means exit code 1.

mod bundle;
mod check;
mod client;
mod completions;
mod dashboard;
mod doctor;
mod drain;
mod events;
mod exec;
mod hold;
mod init;
mod inspect;
mod key;
mod logs;
mod manual;
mod ps;
mod raw;
mod reload;
mod reloader;
mod run;
mod runner;
mod service;
mod show;
mod signals;
mod start;
mod stop;
mod surroundings;
mod token;
mod top;
mod traces;
mod version;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use crate::causes;
use crate::telemetry;

/// One session, one worker: stateful processes behind a proxy, dead with their client
#[derive(Debug, clap::Parser)]
#[command(name = "herd", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub log: telemetry::LogArgs,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    #[command(visible_alias = "serve")]
    Start(start::Start),
    Init(init::Init),
    Check(check::Check),
    Doctor(doctor::Doctor),
    Ps(ps::Ps),
    Top(top::Top),
    Inspect(inspect::Inspect),
    Stop(stop::Stop),
    Logs(logs::Logs),
    Run(run::Run),
    Exec(exec::Exec),
    Hold(hold::Hold),
    Events(events::Events),
    Dashboard(dashboard::Dashboard),
    Drain(drain::Drain),
    Reload(reload::Reload),
    Key(key::Key),
    Token(token::Token),
    Runner(runner::Runner),
    Bundle(bundle::Bundle),
    Completions(completions::Completions),
    Manual(manual::Manual),
    Version(version::Version),
}

impl Cli {
    pub fn run(self) -> ExitCode {
        let result = match self.verb {
            Verb::Start(start) => start.run(&self.log),
            Verb::Init(init) => init.run(),
            Verb::Check(check) => check.run(),
            Verb::Doctor(doctor) => doctor.run(),
            Verb::Ps(ps) => ps.run(),
            Verb::Top(top) => top.run(),
            Verb::Inspect(inspect) => inspect.run(),
            Verb::Stop(stop) => stop.run(),
            Verb::Logs(logs) => logs.run(),
            Verb::Run(run) => run.run(),
            Verb::Exec(exec) => exec.run(),
            Verb::Hold(hold) => hold.run(),
            Verb::Events(events) => events.run(),
            Verb::Dashboard(dashboard) => dashboard.run(),
            Verb::Drain(drain) => drain.run(),
            Verb::Reload(reload) => reload.run(),
            Verb::Key(key) => key.run(),
            Verb::Token(token) => token.run(),
            Verb::Runner(runner) => runner.run(),
            Verb::Bundle(bundle) => bundle.run(),
            Verb::Completions(completions) => completions.run(),
            Verb::Manual(manual) => manual.run(),
            Verb::Version(version) => version.run(),
        };
        let code = result.unwrap_or_else(|error| {
            let wrote = error.downcast_ref::<std::io::Error>();
            if wrote.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
                // Whoever reads our output has read enough.
                return ExitCode::SUCCESS;
            }
            telemetry::say(&format!("herd: {}", causes::told(error.as_ref())));
            ExitCode::FAILURE
        });
        telemetry::flush();
        code
    }
}
