//! `herd bundle`: one file per verb, and what those that make bundles share.

mod build;
mod from_host;
mod import;
mod inspect;
mod list;
mod pull;
mod remove;
mod verify;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::bundle::recipe::RecipeError;
use crate::bundle::{Config, Existing, Limits, Staging, escape};
use crate::config;
use crate::sys::interrupt;

use super::show::{self, Output};

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Make and look at bundles: root filesystems for sandboxed workers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A bundle is a directory with config.json and rootfs, as OCI runtimes want it:
`runc run` and `crun run` accept it, too. herd.yaml names it under a worker's
`sandbox: {bundle: DIR}`.

Examples:
  $ herd bundle build bundles/python --output /srv/bundles/python
  $ herd bundle from-host ./server --with ./models --output bundles/server
  $ herd bundle import python.tar --output bundles/python
  $ herd bundle pull docker.io/library/busybox:latest --output bundles/busybox
  $ herd bundle verify bundles/python

Exit codes: 0 done, 1 failed or drifted, 2 wrong usage, 130 interrupted")]
pub struct Bundle {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Build(build::Build),
    FromHost(from_host::FromHost),
    Import(import::Import),
    Pull(pull::Pull),
    Ls(list::List),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Rm(remove::Remove),
}

impl Bundle {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        interrupt::catch()?;
        let result = match self.verb {
            Verb::Build(build) => build.run(),
            Verb::FromHost(from_host) => from_host.run(),
            Verb::Import(import) => import.run(),
            Verb::Pull(pull) => pull.run(),
            Verb::Ls(list) => list.run(),
            Verb::Inspect(inspect) => inspect.run(),
            Verb::Verify(verify) => verify.run(),
            Verb::Rm(remove) => remove.run(),
        };
        match result {
            // Whatever failed then failed because of it.
            Err(_) if interrupt::check().is_err() => {
                eprintln!("herd: interrupted; nothing is left behind");
                Ok(ExitCode::from(INTERRUPTED))
            }
            Err(error) => Err(harmless(error)),
            result => result,
        }
    }
}

/// Messages quote images and registries, which must not drive the terminal that shows them.
fn harmless(error: anyhow::Error) -> anyhow::Error {
    // The mistakes of a recipe have lines of their own, and escape what they quote.
    if let Some(RecipeError::Invalid(_)) = error.downcast_ref() {
        return error;
    }
    let text = format!("{error:#}");
    match text.contains(char::is_control) {
        true => anyhow::anyhow!(escape(OsStr::new(&text))),
        false => error,
    }
}

/// Where a bundle goes.
#[derive(Debug, clap::Args)]
struct Target {
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace the bundle that is there, in one step
    #[arg(long)]
    force: bool,
    /// Most bytes that all files together may have, such as 500M or 16G
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = size)]
    max_size: u64,
    /// How to print the result; where the bundle goes is --output's to say
    #[arg(short = 'o', long, value_enum, default_value_t)]
    format: Output,
}

impl Target {
    fn stage(&self) -> anyhow::Result<Staging> {
        let existing = match self.force {
            true => Existing::Replace,
            false => Existing::Refuse,
        };
        let limits = Limits {
            bytes: self.max_size,
            ..Limits::default()
        };
        Ok(Staging::new(&self.output, existing, limits)?)
    }

    /// The bundle comes into being, and its user is told about it.
    fn finish(&self, staging: Staging, config: &Config, notes: &[String]) -> anyhow::Result<ExitCode> {
        let finished = staging.finish(config)?;
        let output = finished.output.display().to_string();
        match self.format {
            Output::Data(format) => format.print(&json!({
                "output": output,
                "digest": finished.digest,
                "entries": finished.entries,
                "size": finished.size,
                "notes": notes,
            }))?,
            Output::Table => {
                for note in notes {
                    eprintln!("note: {note}");
                }
                let entries = show::count(finished.entries, "entry", "entries");
                let size = show::size(finished.size);
                show::print(format!("{output}: {entries}, {size}, {}\n", finished.digest))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = config::size(text).and_then(|bytes| u64::try_from(bytes).ok());
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "write a number of bytes above 0, or one with K, M or G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::recipe;

    #[test]
    fn mistakes_of_a_recipe_keep_their_lines_and_strangers_get_none() {
        let dir = tempfile::Builder::new().prefix("a\x1b[31m").tempdir().unwrap();
        std::fs::write(
            dir.path().join(recipe::FILE),
            "programs: [sh]\nx\\e: 1\n\"y\\e\": 2\n",
        )
        .unwrap();
        let told = harmless(recipe::read(dir.path()).unwrap_err().into()).to_string();
        assert!(told.lines().count() > 3, "{told}");
        assert!(!told.contains(|c: char| c.is_control() && c != '\n'), "{told:?}");

        let told = harmless(anyhow::anyhow!("a registry\nsays \x1b[31m")).to_string();
        assert_eq!(told, "a registry\\x0asays \\x1b[31m");
    }

    #[test]
    fn sizes_are_written_as_in_herd_yaml() {
        for (text, bytes) in [("1", 1), ("2K", 2048), ("3MiB", 3 << 20), ("16G", 16 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for wrong in ["", "G", "-1", "1x", "0", "2k", "1B", "99999999999G", "1.5G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
