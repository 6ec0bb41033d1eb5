//! `herd completions`.

use std::process::ExitCode;

use clap::{Command, CommandFactory, ValueHint};

use super::Cli;
use super::show;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bash: herd completions bash > ~/.local/share/bash-completion/completions/herd
  zsh:  herd completions zsh > \"${fpath[1]}/_herd\"
  fish: herd completions fish > ~/.config/fish/completions/herd.fish

Exit codes: 0 printed, 2 wrong usage")]
pub struct Completions {
    shell: clap_complete::Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut hinted(Cli::command()), "herd", &mut text);
        show::print(text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Without this, shells offer the names of files for every value: only those whose type is a path are paths, and what says
/// otherwise itself.
pub(super) fn hinted(command: Command) -> Command {
    let hint = |argument: clap::Arg| match argument.get_value_hint() {
        ValueHint::Unknown if argument.get_action().takes_values() => argument.value_hint(ValueHint::Other),
        _ => argument,
    };
    command.mut_args(hint).mut_subcommands(hinted)
}
