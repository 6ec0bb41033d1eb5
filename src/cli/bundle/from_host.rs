//! `herd bundle from-host`: a bundle of programs that this machine has.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::bundle::recipe::{Network, Recipe};

use super::Target;
use super::build::make;

/// Make a bundle of programs of this machine, with all they need to run: no registry, no network, no root
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  $ herd bundle from-host python3 --output bundles/mine
  $ herd bundle from-host ./server --with ./models --output /srv/server
  $ herd bundle from-host chromium --with-package fonts-noto --output browser

A program comes with its loader and shared libraries, a script with its
interpreter, Python, Perl, Ruby and Node with their standard libraries. What a
program starts or opens by a name of its own cannot be known: add it as a
further PROGRAM, or with --with. The first PROGRAM is what runs unless
herd.yaml names another.

Exit codes: 0 made, 1 failed, 2 wrong usage, 130 interrupted; without 0
nothing was made")]
pub(super) struct FromHost {
    /// Names in PATH, or paths
    #[arg(required = true, value_name = "PROGRAM", value_hint = clap::ValueHint::ExecutablePath)]
    programs: Vec<String>,
    /// A file, with all it needs, or a directory, with all that is in it; at its own path in the bundle
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    /// The files of an installed Debian package and of those it depends on
    #[arg(long, value_name = "NAME")]
    with_package: Vec<String>,
    #[command(flatten)]
    target: Target,
}

impl FromHost {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let with: std::io::Result<Vec<_>> = self.with.iter().map(std::path::absolute).collect();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let recipe = Recipe::from_host(&path, self.programs, with?, self.with_package);
        make(&recipe, Network::Offline, &self.target)
    }
}
