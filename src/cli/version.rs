//! `herd version`.

use std::process::ExitCode;

use http::Method;
use serde::Serialize;

use super::client::Control;
use super::show::{self, Output};
use crate::control::build::{Build, VERSION};
use crate::control::views;

/// Print the version of this command, and of the herd that runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd version
  herd 0.1.0 (0f8076aa4f12, x86_64-unknown-linux-gnu, rustc 1.95.0)
  running: herd 0.1.0 (…), pid 4711, up 2h03m, sessions at http://127.0.0.1:8080

Exit codes: 0 printed, whether herd runs or not, 2 wrong usage")]
pub struct Version {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Serialize)]
struct Versions {
    version: &'static str,
    build: Build,
    running: Option<views::Version>,
}

impl Version {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let asked = self.control.run(|mut client| async move {
            let version: views::Version = client.ask(Method::GET, "/v1/version").await?;
            Ok(version)
        });
        let (running, why) = match asked {
            Ok(running) => (Some(running), None),
            Err(error) => (None, Some(error)),
        };
        let (version, build) = (VERSION, Build::this());
        match self.output {
            Output::Data(format) => format.print(&Versions {
                version,
                build,
                running,
            })?,
            Output::Table => {
                show::print(format!("herd {version} ({build})\n"))?;
                if let Some(running) = running {
                    show::print(format!(
                        "running: herd {} ({}), pid {}, up {}, sessions at {}\n",
                        running.version,
                        running.build,
                        running.pid,
                        show::duration(std::time::Duration::from_millis(running.uptime_ms)),
                        running.data_url,
                    ))?;
                }
                if let Some(why) = why {
                    eprintln!("{why:#}");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
