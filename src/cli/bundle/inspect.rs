//! `herd bundle inspect`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::bundle::{ANNOTATIONS, Bundle, User, open};

use super::super::show::{self, Output};

/// Say what a bundle is and what runs in it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd bundle inspect bundles/busybox
  DIGEST        sha256:4a1f…
  ARGS          [\"sh\"]
  …
  $ herd bundle inspect bundles/busybox -o json | jq -r .digest

Reads config.json alone; `herd bundle verify` compares the files.

Exit codes: 0 shown, 1 not a bundle, 2 wrong usage")]
pub(super) struct Inspect {
    /// The bundle
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What is known of a bundle without reading its files. Bundles that herd did not make lack some of it.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub(super) path: String,
    pub(super) digest: Option<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) user: User,
    pub(super) labels: BTreeMap<String, String>,
    /// Bytes.
    pub(super) size: Option<u64>,
    pub(super) entries: Option<u64>,
    pub(super) architecture: Option<String>,
    pub(super) source: Option<String>,
}

impl Facts {
    pub(super) fn of(bundle: &Bundle) -> Self {
        let own = |name| bundle.annotation(name).map(str::to_owned);
        let number = |name| bundle.annotation(name).and_then(|text| text.parse().ok());
        let labels = bundle
            .annotations
            .iter()
            .filter(|(name, _)| !name.starts_with(ANNOTATIONS));
        Self {
            path: bundle.path.display().to_string(),
            digest: own("digest"),
            args: bundle.args.clone(),
            env: bundle.env.clone(),
            cwd: bundle.cwd.display().to_string(),
            user: bundle.user,
            labels: labels
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            size: number("size"),
            entries: number("entries"),
            architecture: own("architecture"),
            source: own("source"),
        }
    }
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let facts = Facts::of(&open(&self.bundle)?);
        match self.output {
            Output::Data(format) => format.print(&facts)?,
            Output::Table => {
                let unknown = || "unknown: herd did not make this bundle".to_owned();
                let list = |items: &[String]| serde_json::to_string(items).unwrap_or_default();
                let labels: Vec<_> = facts
                    .labels
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                let rows = [
                    ["digest".to_owned(), facts.digest.unwrap_or_else(unknown)],
                    ["source".to_owned(), facts.source.unwrap_or_else(unknown)],
                    [
                        "architecture".to_owned(),
                        facts.architecture.unwrap_or_else(unknown),
                    ],
                    ["size".to_owned(), facts.size.map_or_else(unknown, show::size)],
                    [
                        "entries".to_owned(),
                        facts.entries.map_or_else(unknown, |count| count.to_string()),
                    ],
                    ["args".to_owned(), list(&facts.args)],
                    ["env".to_owned(), list(&facts.env)],
                    ["cwd".to_owned(), facts.cwd],
                    [
                        "user".to_owned(),
                        format!("{}:{}", facts.user.uid, facts.user.gid),
                    ],
                    ["labels".to_owned(), list(&labels)],
                ];
                show::print(show::table(["BUNDLE", &facts.path], &rows))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
