//! `herd bundle verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::bundle::{Drift, DriftKind, escape, manifest, verify};

use super::super::show::{self, Output};

/// Compare a bundle with what was written into it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd bundle verify bundles/python
  changed  rootfs/etc/hosts: content
  added    rootfs/tmp/x
  bundles/python: 2 differences

Content, types, modes and link targets count; owners and times do not. It
finds accidents and drift; whoever can write to a bundle can also write what
it is compared with.

Exit codes: 0 as written, 1 drifted or not a bundle of herd's, 2 wrong usage,
130 interrupted")]
pub(super) struct Verify {
    /// The bundle
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let drifts = verify(&self.bundle)?;
        let digest = manifest(&self.bundle)?.digest;
        let bundle = self.bundle.display();
        match self.output {
            Output::Data(format) => {
                let drifts: Vec<_> = drifts.iter().map(as_json).collect();
                format.print(&json!({
                    "path": bundle.to_string(),
                    "ok": drifts.is_empty(),
                    "digest": digest,
                    "drift": drifts,
                }))?;
            }
            Output::Table => {
                let mut text: String = drifts.iter().map(|drift| format!("{drift}\n")).collect();
                text += &match drifts.len() {
                    0 => format!("{bundle}: as written, {digest}\n"),
                    count => format!("{bundle}: {}\n", show::count(count, "difference", "differences")),
                };
                show::print(text)?;
            }
        }
        Ok(match drifts.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn as_json(drift: &Drift) -> serde_json::Value {
    let path = escape(drift.path.as_os_str());
    match &drift.kind {
        DriftKind::Added => json!({ "path": path, "kind": "added" }),
        DriftKind::Removed => json!({ "path": path, "kind": "removed" }),
        DriftKind::Changed(what) => json!({ "path": path, "kind": "changed", "what": what }),
    }
}
