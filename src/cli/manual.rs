//! `herd manual`: the manual pages, from the same words as `--help`.
//!
//! clap's pages have one section for all that stands below the options in `--help`. Here it is taken apart into what manual
//! pages call DESCRIPTION, EXIT STATUS and EXAMPLES, so that it is written once.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;
use super::show;

/// Write the manual pages: one for herd and one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  herd manual /usr/local/share/man/man1

Exit codes: 0 written, 1 failed, 2 wrong usage")]
pub struct Manual {
    /// Directory to write to; it is created if need be
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl Manual {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let directory = &self.directory;
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        write_all(directory).with_context(|| format!("cannot write to {}", directory.display()))?;
        show::print(format!(
            "written to {}; try: man {}/herd.1\n",
            directory.display(),
            directory.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    let mut herd = Cli::command().disable_help_subcommand(true);
    herd.build();
    write_tree(&herd, None, directory)
}

/// The page of a command and those of the commands below it.
fn write_tree(command: &Command, parent: Option<&str>, directory: &Path) -> io::Result<()> {
    let name = page_name(command);
    fs::write(directory.join(format!("{name}.1")), page(command, parent)?)?;
    shown(command).try_for_each(|below| write_tree(below, Some(name), directory))
}

fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set())
}

fn page(command: &Command, parent: Option<&str>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let after = After::read(command);
    let mut out = Vec::new();
    // clap_mangen leaves an empty date out, and what follows then stands in the wrong place.
    let (name, version) = (roff(page_name(command)), env!("CARGO_PKG_VERSION"));
    writeln!(out, ".TH \"{name}\" 1 \"\" \"herd {version}\" \"herd\"")?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    for paragraph in &after.prose {
        writeln!(out, ".PP\n{}", roff(paragraph))?;
    }
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    if let Some(exit) = &after.exit {
        writeln!(out, ".SH EXIT STATUS\n{}", roff(exit))?;
    }
    environment(command, &mut out)?;
    files(command, &mut out)?;
    if !after.examples.is_empty() {
        writeln!(out, ".SH EXAMPLES")?;
    }
    for example in &after.examples {
        writeln!(out, ".PP\n.nf\n{}\n.fi", roff(example))?;
    }
    let pages = parent
        .map(str::to_owned)
        .into_iter()
        .chain(shown(command).map(|below| page_name(below).to_owned()));
    let pages: Vec<_> = pages.map(|page| format!("\\fB{}\\fR(1)", roff(&page))).collect();
    if !pages.is_empty() {
        writeln!(out, ".SH SEE ALSO\n{}", pages.join(", "))?;
    }
    Ok(out)
}

/// The variables that stand for options.
fn environment(command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let variables: Vec<_> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| Some((argument, argument.get_env()?.to_str()?)))
        .collect();
    if !variables.is_empty() {
        writeln!(out, ".SH ENVIRONMENT")?;
    }
    for (argument, variable) in variables {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", roff(variable), roff(&help))?;
    }
    Ok(())
}

/// What the command finds at a place that an option can change.
fn files(command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    const FILES: [(&str, &str, &str); 2] = [
        (
            "config",
            "herd.yaml",
            "The configuration, unless --config names another file.",
        ),
        (
            "control_socket",
            "/run/herd/control.sock",
            "The control socket of root's herd; another user's is herd/control.sock in $XDG_RUNTIME_DIR.",
        ),
    ];
    let has = |id: &str| command.get_arguments().any(|argument| argument.get_id() == id);
    let files: Vec<_> = FILES.iter().filter(|(id, ..)| has(id)).collect();
    if !files.is_empty() {
        writeln!(out, ".SH FILES")?;
    }
    for (_, path, about) in files {
        writeln!(out, ".TP\n\\fI{}\\fR\n{}", roff(path), roff(about))?;
    }
    Ok(())
}

/// What stands below the options in `--help`.
#[derive(Debug, Default)]
pub(super) struct After {
    pub(super) prose: Vec<String>,
    /// Each with its heading, as it stands.
    pub(super) examples: Vec<String>,
    pub(super) exit: Option<String>,
}

impl After {
    /// Its paragraphs are told apart by how they look: an exit status by its first word, an example by indented lines.
    pub(super) fn read(command: &Command) -> Self {
        let mut after = Self::default();
        let text = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
            if let Some(codes) = paragraph.strip_prefix("Exit codes: ") {
                after.exit = Some(codes.to_owned());
            } else if paragraph.lines().any(|line| line.starts_with("  ")) {
                // The section's own heading says as much.
                let example = paragraph
                    .trim_start_matches("Examples:\n")
                    .trim_start_matches("Example:\n");
                after.examples.push(example.to_owned());
            } else {
                after.prose.push(paragraph.to_owned());
            }
        }
        after
    }
}

/// As text that troff takes for nothing else.
fn roff(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line
            .replace('\\', "\\e")
            .replace('-', "\\-")
            .replace('`', "\\(ga");
        match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}"),
            false => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path()).unwrap();
        directory
    }

    #[test]
    fn every_command_has_a_page_with_the_usual_sections() {
        let directory = pages();
        for name in ["herd.1", "herd-run.1", "herd-bundle-pull.1"] {
            assert!(directory.path().join(name).exists(), "{name}");
        }
        let text = fs::read_to_string(directory.path().join("herd-ps.1")).unwrap();
        let sections: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .collect();
        let expected = "NAME SYNOPSIS DESCRIPTION OPTIONS EXIT_STATUS ENVIRONMENT FILES EXAMPLES SEE_ALSO";
        let sections: Vec<_> = sections
            .iter()
            .map(|name| name.trim_matches('"').replace(' ', "_"))
            .collect();
        assert_eq!(sections.join(" "), expected);
        assert!(text.contains("HERD_CONTROL_SOCKET"), "{text}");
        assert!(text.ends_with("\\fBherd\\fR(1)\n"), "{text}");
    }

    #[test]
    fn examples_keep_their_lines() {
        let directory = pages();
        let groff = std::process::Command::new("groff")
            .args(["-man", "-Tutf8", "-Kutf8", "-P-c", "-rLL=100n"])
            .arg(directory.path().join("herd-ps.1"))
            .output();
        let Ok(shown) = groff else {
            // Where there is no groff the request is looked for.
            let text = fs::read_to_string(directory.path().join("herd-ps.1")).unwrap();
            assert!(text.contains(".nf\n  $ herd ps\n  SESSION  KIND  "), "{text}");
            return;
        };
        let text = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(String::from_utf8_lossy(&shown.stderr), "");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let at = lines.iter().position(|line| *line == "$ herd ps").unwrap();
        assert_eq!(
            lines[at + 2],
            "user-42  browser  on       bound  w3      48211  1        2m05s  when released"
        );
        let footer = lines.last().unwrap();
        assert!(
            footer.starts_with(concat!("herd ", env!("CARGO_PKG_VERSION"), "  ")),
            "{footer}"
        );
    }

    #[test]
    fn what_troff_would_take_for_its_own_is_told_literally() {
        assert_eq!(roff("a\\b\n.nf\n'x\n--all"), "a\\eb\n\\&.nf\n\\&'x\n\\-\\-all");
    }
}
