//! Maps the command line to an exit code.

use std::process::ExitCode;

use clap::Parser;
use herd::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
