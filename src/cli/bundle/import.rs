//! `herd bundle import`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use crate::bundle::image::{Image, Platform};

use super::Target;

/// Make a bundle from an image in a file or directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
IMAGE is what `docker save`, `podman save`, `skopeo copy` or `umoci` write: a
Docker archive, or an OCI layout as directory or tar; plain, gzip or zstd.

Examples:
  $ docker save python:3.13-slim | gzip > python.tar.gz
  $ herd bundle import python.tar.gz --output bundles/python
  $ herd bundle import layout/ --platform linux/arm64 --output bundles/arm

Whatever would leave the root filesystem refuses the whole image. Setuid bits,
device nodes and extended attributes are left out, with a note.

Exit codes: 0 imported, 1 refused or failed, 2 wrong usage, 130 interrupted;
without 0 nothing was made")]
pub(super) struct Import {
    /// The image: a file or an OCI layout directory
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Which of several images in it, by its name or tag
    #[arg(long = "image", alias = "tag", value_name = "NAME")]
    name: Option<String>,
    /// Which of its platforms [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[command(flatten)]
    target: Target,
}

impl Import {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut staging = self.target.stage()?;
        let platform = self.platform.unwrap_or_else(Platform::host);
        let scratch = staging.scratch()?;
        let limits = staging.root().limits();
        let cannot = || format!("cannot import {}", self.image.display());
        let image = Image::open(&self.image, self.name.as_deref(), &platform, &scratch, limits)
            .with_context(cannot)?;
        let bar = layers(image.layers());
        let unpacked = image.unpack(staging.root(), |index| bar.set_position(index as u64));
        bar.finish_and_clear();
        let (config, notes) = unpacked.with_context(cannot)?;
        self.target.finish(staging, &config, &notes.lines())
    }
}

/// Shown on a terminal only.
pub(super) fn layers(count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template("unpacking layer {pos} of {len} {wide_bar} {elapsed}") {
        bar.set_style(style);
    }
    bar
}
