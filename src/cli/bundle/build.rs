//! `herd bundle build`: a bundle from a recipe.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use crate::bundle::recipe::{self, Network, Progress, Recipe};

use super::Target;

/// Make a bundle from a recipe: a directory with a bundle.yaml
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd bundle build bundles/python --output /srv/bundles/python

Takes programs, files and Debian packages from this machine. The same machine
and recipe give the same digest.

Exit codes: 0 made, 1 failed, 2 wrong usage, 130 interrupted; without 0
nothing was made")]
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

impl Build {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = recipe::read(&self.recipe)?;
        let network = match self.fetch {
            true => Network::Fetch,
            false => Network::Offline,
        };
        make(&recipe, network, &self.target)
    }
}

/// Makes the bundle of a recipe in front of a person.
pub(super) fn make(recipe: &Recipe, network: Network, target: &Target) -> anyhow::Result<ExitCode> {
    // First: an output that cannot be made is known before the work.
    let mut staging = target.stage()?;
    // Shown on a terminal only.
    let bar = ProgressBar::no_length();
    let style =
        |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style("gathering {msg} {elapsed}"));
    let progress = |progress: Progress<'_>| match progress {
        Progress::Fetching(name) => bar.set_message(format!("(fetching {name})")),
        Progress::Writing(bytes) => {
            bar.set_length(bytes);
            bar.set_style(style("writing {bytes} of {total_bytes} {wide_bar} {elapsed}"));
        }
        Progress::Wrote(bytes) => bar.inc(bytes),
    };
    let built = recipe::build(recipe, &mut staging, network, &progress);
    bar.finish_and_clear();
    let (config, notes) = built?;
    target.finish(staging, &config, &notes)
}
