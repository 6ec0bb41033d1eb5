//! `herd manual`: the manual pages, from the same words as `--help`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use super::Cli;
use super::show;

/// Write the manual pages: one for herd and one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  herd manual /usr/local/share/man/man1")]
pub struct Manual {
    /// Directory to write to; it is created if need be
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Manual {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let directory = &self.directory;
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        clap_mangen::generate_to(Cli::command(), directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        show::print(format!(
            "written to {}; try: man {}/herd.1\n",
            directory.display(),
            directory.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_examples() {
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), directory.path()).unwrap();
        for name in ["herd.1", "herd-run.1", "herd-bundle-pull.1"] {
            assert!(directory.path().join(name).exists(), "{name}");
        }
        let text = fs::read_to_string(directory.path().join("herd-ps.1")).unwrap();
        assert!(text.contains("Exit codes"), "{text}");
    }
}
