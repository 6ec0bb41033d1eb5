//! What holds for every command: names, help, completions.

use clap::{CommandFactory, Parser};

use super::{Cli, Verb};

#[test]
fn serve_is_another_word_for_start() {
    let cli = Cli::try_parse_from(["herd", "serve", "--config", "x.yaml"]).unwrap();
    assert!(matches!(cli.verb, Verb::Start(_)));
    let help = Cli::command().render_help().to_string();
    assert!(help.contains("[alias: serve]"), "{help}");
}

/// What clap says of wrong usage; it ends with exit code 2.
fn refused(words: &[&str]) -> String {
    let error = Cli::try_parse_from([&["herd"], words].concat()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn values_that_herd_would_refuse_are_wrong_usage() {
    for (words, said) in [
        (
            &["token", "a/b", "--ttl", "2d"][..],
            "'--ttl <TIME>': a token is good for 1s to 1day",
        ),
        (
            &["token", "a/b", "--ttl", "999ms"],
            "a token is good for 1s to 1day",
        ),
        (
            &["exec", "a", "-w", "tmp"],
            "'--workdir <DIR>': it has to be an absolute path",
        ),
        (
            &["logs", "a", "--since", "5"],
            "'--since <WHEN>': write a time with its unit",
        ),
    ] {
        let text = refused(words);
        assert!(text.contains(said), "{words:?}: {text}");
    }
    for words in [
        &["token", "a/b", "--ttl", "1day"][..],
        &["exec", "a", "-w", "/tmp"],
        &["logs", "a", "--since", "1h30m"],
        &["logs", "a", "--since", "2026-01-31T12:00:00Z"],
        &["check", "-o", "table"],
        &["check", "-o", "text"],
    ] {
        let whole = [&["herd"], words].concat();
        assert!(Cli::try_parse_from(whole).is_ok(), "{words:?}");
    }
}

/// Every command, with its whole name.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(name: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        found.push((name.to_owned(), command.clone()));
        for below in command.get_subcommands() {
            walk(&format!("{name} {}", below.get_name()), below, found);
        }
    }
    let mut found = Vec::new();
    walk("herd", &Cli::command(), &mut found);
    assert!(found.len() > 25);
    found
}

#[test]
fn what_help_adds_fits_a_terminal_of_80_columns() {
    // clap fills the other texts; these it breaks again where they are wider than the terminal.
    for (name, command) in commands() {
        let text = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}

#[test]
fn every_verb_tells_its_exit_codes_and_shows_an_example() {
    for (name, command) in commands() {
        if name == "herd" {
            continue;
        }
        let after = super::manual::After::read(&command);
        assert!(after.exit.is_some(), "{name} tells no exit codes");
        assert!(!after.examples.is_empty(), "{name} shows no example");
    }
}

#[test]
fn only_paths_are_completed_with_files() {
    for (name, command) in commands() {
        let command = super::completions::hinted(command);
        for argument in command.get_arguments() {
            if !argument.get_action().takes_values() {
                continue;
            }
            let hint = argument.get_value_hint();
            assert!(hint != clap::ValueHint::Unknown, "{name}: {argument}");
        }
    }
    let mut text = Vec::new();
    clap_complete::generate(
        clap_complete::Shell::Bash,
        &mut super::completions::hinted(Cli::command()),
        "herd",
        &mut text,
    );
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("--workdir)\n                    COMPREPLY=(\"${cur}\")\n"),
        "{text}"
    );
}

#[test]
fn a_directory_given_as_the_format_is_refused_by_that_name() {
    let text = refused(&["bundle", "build", "recipe", "--output", "x", "-o", "out"]);
    assert!(
        text.contains("invalid value 'out' for '--format <FORMAT>'"),
        "{text}"
    );
}
