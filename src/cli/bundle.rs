//! `herd bundle`.

use std::process::ExitCode;

/// Make worker root filesystems
#[derive(Debug, clap::Args)]
pub struct Bundle {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    FromHost(super::bundle_from_host::FromHost),
    Build(super::bundle_build::Build),
}

impl Bundle {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::FromHost(from_host) => from_host.run(),
            Verb::Build(build) => build.run(),
        }
    }
}
