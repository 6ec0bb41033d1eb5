//! `herd key`.

use std::process::ExitCode;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::show::{self, Output};

/// Make a key: for the control API over TCP, or for the data plane
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd key
  key:    herd_5f0c8e1b7a2d4c6e9f3b5a7d1c8e0f24
  sha256: 9b3c…

  control:
    tcp: 127.0.0.1:9190
    keys:
      grafana: { sha256: 9b3c…, may: metrics }
  auth:
    keys:
      alice: { sha256: 9b3c…, sessions: 5 }

Only the second line is for herd.yaml. The key itself is for its user; herd
keeps no copy.

Exit codes: 0 made, 1 failed (no randomness), 2 wrong usage")]
pub struct Key {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Made {
    key: String,
    sha256: String,
}

impl Key {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|error| anyhow::anyhow!("no randomness for a key: {error}"))?;
        let key = format!("herd_{}", data_encoding::HEXLOWER.encode(&bits));
        let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(&key));
        let made = Made { key, sha256 };
        match self.output {
            Output::Data(format) => format.print(&made)?,
            Output::Table => show::print(format!("key:    {}\nsha256: {}\n", made.key, made.sha256))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
