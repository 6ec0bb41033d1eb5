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
