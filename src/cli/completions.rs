//! `herd completions`.

use std::process::ExitCode;

use clap::CommandFactory;

use super::Cli;
use super::show;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bash: herd completions bash > ~/.local/share/bash-completion/completions/herd
  zsh:  herd completions zsh > \"${fpath[1]}/_herd\"
  fish: herd completions fish > ~/.config/fish/completions/herd.fish")]
pub struct Completions {
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "herd", &mut text);
        show::print(text)?;
        Ok(ExitCode::SUCCESS)
    }
}
