//! `herd bundle rm`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::bundle::remove;

/// Remove bundles
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd bundle rm bundles/python

What is not a bundle is refused. Running workers keep what they have open, but
can start nothing from it any more.

Exit codes: 0 all removed, 1 one was not, 2 wrong usage")]
pub(super) struct Remove {
    /// The bundles
    #[arg(value_name = "DIR", required = true)]
    bundles: Vec<PathBuf>,
}

impl Remove {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for bundle in &self.bundles {
            if let Err(error) = remove(bundle) {
                eprintln!("herd: {:#}", anyhow::Error::from(error));
                code = ExitCode::FAILURE;
            }
        }
        Ok(code)
    }
}
