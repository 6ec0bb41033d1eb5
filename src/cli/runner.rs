//! `herd runner`.

use std::process::ExitCode;

use crate::runner::{self, Listen};

/// The worker that comes with herd: keeps a value, runs commands, echoes WebSockets
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, in herd.yaml:
  workers:
    runner:
      cmd: [\"herd\", \"runner\", \"--listen\", \"{{.Port}}\"]
      health_path: /healthz

By hand:
  herd runner --listen 9000 & curl http://127.0.0.1:9000/

It runs whatever it is asked to: let it listen only where its session can
reach it.

Exit codes: 0 told to stop, 1 failed, 2 wrong usage")]
pub struct Runner {
    /// Where to listen: PORT (of 127.0.0.1), tcp:HOST:PORT or unix:PATH; port 0 lets the kernel choose
    #[arg(long, value_name = "WHERE", env = "PORT")]
    listen: Listen,
}

impl Runner {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        runner::run(&self.listen)?;
        Ok(ExitCode::SUCCESS)
    }
}
