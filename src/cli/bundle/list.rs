//! `herd bundle ls`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::bundle::{is_bundle, open};

use super::super::show::{self, Output};
use super::inspect::Facts;

/// List the bundles in a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd bundle ls
  BUNDLE          ARCH   SIZE    DIGEST               SOURCE
  bundles/python  amd64  151 MB  sha256:4a1f09c2d8e3  python.tar.gz

Exit codes: 0 listed, 1 failed, 2 wrong usage")]
pub(super) struct List {
    /// Where to look [default: bundles and the current directory]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl List {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut found = Vec::new();
        match &self.directory {
            Some(directory) => {
                find(directory, &mut found).with_context(|| format!("cannot list {}", directory.display()))?
            }
            None => {
                for directory in ["bundles", "."]
                    .map(Path::new)
                    .into_iter()
                    .filter(|path| path.is_dir())
                {
                    find(directory, &mut found)
                        .with_context(|| format!("cannot list {}", directory.display()))?;
                }
            }
        }
        let mut facts = Vec::new();
        for path in found {
            match open(&path) {
                Ok(bundle) => facts.push(Facts::of(&bundle)),
                Err(error) => eprintln!("herd: {:#}", anyhow::Error::from(error)),
            }
        }
        match self.output {
            Output::Data(format) => format.print(&facts)?,
            Output::Table => {
                let rows: Vec<_> = facts.iter().map(row).collect();
                show::print(show::table(["BUNDLE", "ARCH", "SIZE", "DIGEST", "SOURCE"], &rows))?;
                if rows.is_empty() {
                    eprintln!("no bundles; `herd bundle --help` says how to make one");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The directory itself if it is a bundle, and those right below it.
fn find(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if is_bundle(directory) {
        found.push(directory.to_owned());
    }
    let mut children = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        // Hidden ones are being made, or are what a killed herd left.
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = match directory == Path::new(".") {
            true => PathBuf::from(name),
            false => directory.join(name),
        };
        if is_bundle(&path) {
            children.push(path);
        }
    }
    children.sort();
    found.append(&mut children);
    Ok(())
}

fn row(facts: &Facts) -> [String; 5] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let digest = or_dash(&facts.digest);
    [
        facts.path.clone(),
        or_dash(&facts.architecture),
        facts.size.map_or_else(|| "-".to_owned(), show::size),
        // As many digits as anybody compares by eye.
        digest.chars().take("sha256:".len() + 12).collect(),
        or_dash(&facts.source),
    ]
}
