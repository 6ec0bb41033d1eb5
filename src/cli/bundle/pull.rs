//! `herd bundle pull`.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use crate::bundle::escape;
use crate::bundle::image::Platform;
use crate::bundle::registry::{Cache, CredentialsError, Plain, Progress, Pulled, Reference, pull};

use super::Target;
use super::import::layers;

/// Make a bundle from an image in a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  $ herd bundle pull busybox --output bundles/busybox
  $ herd bundle pull ghcr.io/me/worker@sha256:4a1f… --output bundles/worker
  $ herd bundle pull localhost:5000/worker:dev --output bundles/worker --force

Logins are taken from Docker's configuration ($DOCKER_CONFIG/config.json, by
default ~/.docker/config.json), its credential helpers included. Blobs are
kept by digest in $XDG_CACHE_HOME/herd (by default ~/.cache/herd); an
interrupted download goes on where it was. Registries on localhost are spoken
to over plain http.

Exit codes: 0 pulled, 1 refused or failed, 2 wrong usage, 130 interrupted;
without 0 nothing was made")]
pub(super) struct Pull {
    /// The image: [HOST[:PORT]/]NAME[:TAG][@DIGEST]
    #[arg(value_name = "REFERENCE")]
    reference: Reference,
    /// Which of its platforms [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Speak plain http to this registry although it is not on this machine; logins travel readable, too
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    target: Target,
}

impl Pull {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut staging = self.target.stage()?;
        let platform = self.platform.unwrap_or_else(Platform::host);
        let cache =
            Cache::default_directory().context("neither XDG_CACHE_HOME nor HOME says where the cache is")?;
        let plain = match self.insecure {
            true => Plain::Allowed,
            false => Plain::Loopback,
        };
        let cannot = || format!("cannot pull {}", self.reference);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let bar = bytes();
        let limits = staging.root().limits();
        let shown = |progress| show(&bar, progress);
        let pulled = runtime.block_on(pull(&self.reference, &platform, plain, cache, limits, shown));
        bar.finish_and_clear();
        let Pulled { image, lost_login } = pulled.with_context(cannot)?;
        let bar = layers(image.layers());
        let unpacked = image.unpack(staging.root(), |index| bar.set_position(index as u64));
        bar.finish_and_clear();
        let (config, notes) = unpacked.with_context(cannot)?;
        let notes: Vec<_> = lost_login
            .map(without_login)
            .into_iter()
            .chain(notes.lines())
            .collect();
        self.target.finish(staging, &config, &notes)
    }
}

/// What it quotes of a helper must not drive the terminal.
fn without_login(why: CredentialsError) -> String {
    escape(OsStr::new(&format!(
        "pulled without a login: {:#}",
        anyhow::Error::from(why)
    )))
}

/// Shown on a terminal only.
fn bytes() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg} {wide_bar} {bytes} of {total_bytes} {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Begins { digest, size, have } => {
            bar.set_length(size);
            bar.set_position(have);
            bar.set_message(digest.hex()[..12].to_owned());
            bar.reset_eta();
        }
        Progress::At(bytes) => bar.set_position(bytes),
        Progress::Done => {}
    }
}
