//! `herd bundle build`: a bundle from a recipe.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::bundle::Existing;
use crate::bundle::recipe::{self, Network, Progress, Recipe};
use crate::sys::interrupt;

/// Make a bundle from a recipe: a directory with a bundle.yaml
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  $ herd bundle build bundles/python --output /srv/bundles/python

Takes programs, files and Debian packages from this machine. The same machine and recipe give the same digest.
Exit codes: 0 made, 1 failed (nothing is left behind), 2 wrong usage")]
pub(super) struct Build {
    /// The directory that holds bundle.yaml
    #[arg(value_name = "RECIPE_DIR")]
    recipe: PathBuf,
    /// Download packages that are not installed, with apt; without this, nothing reaches the network
    #[arg(long)]
    fetch: bool,
    #[command(flatten)]
    target: Target,
}

/// Where a bundle goes.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The bundle to make
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace a bundle that is there
    #[arg(long)]
    force: bool,
}

impl Build {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = recipe::read(&self.recipe)?;
        let network = match self.fetch {
            true => Network::Fetch,
            false => Network::Offline,
        };
        Making::new(self.target, network).run(&recipe)
    }
}

/// One bundle being made, in front of a person.
pub(super) struct Making {
    target: Target,
    network: Network,
}

impl Making {
    pub(super) fn new(target: Target, network: Network) -> Self {
        Self { target, network }
    }

    pub(super) fn run(self, recipe: &Recipe) -> anyhow::Result<ExitCode> {
        interrupt::catch()?;
        let existing = match self.target.force {
            true => Existing::Replace,
            false => Existing::Refuse,
        };
        // Draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let progress = |progress: Progress<'_>| match progress {
            Progress::Fetching(name) => bar.set_message(format!("fetching {name}")),
            Progress::Writing(bytes) => {
                bar.set_length(bytes);
                if let Ok(style) = ProgressStyle::with_template("writing [{bar:30}] {bytes}/{total_bytes}") {
                    bar.set_style(style);
                }
            }
            Progress::Wrote(bytes) => bar.inc(bytes),
        };
        let built = recipe::build(recipe, &self.target.output, existing, self.network, &progress);
        bar.finish_and_clear();
        let built = built?;
        for note in &built.notes {
            eprintln!("herd: note: {note}");
        }
        let made = built.finished;
        writeln!(
            std::io::stdout().lock(),
            "{}: {}, {} entries, {}",
            made.output.display(),
            HumanBytes(made.size),
            made.entries,
            made.digest
        )?;
        Ok(ExitCode::SUCCESS)
    }
}
