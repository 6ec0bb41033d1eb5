//! `herd check` as a user runs it, and the configuration files that this repository ships.

#![allow(clippy::expect_used, reason = "a test's own set-up may fail loudly")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn herd(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.arg("check").current_dir(directory);
    for variable in [
        "HERD_CONFIG",
        "HERD_DATA_BIND",
        "HERD_CONTROL_SOCKET",
        "HERD_STATE_DIR",
    ] {
        command.env_remove(variable);
    }
    command
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("herd runs");
    assert_eq!(
        String::from_utf8_lossy(&stderr),
        "",
        "the findings are the result, not a log"
    );
    (status.code(), String::from_utf8(stdout).expect("UTF-8"))
}

fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("writable");
    }
    directory
}

const GOOD: &str = "workers:\n  a: {cmd: [x]}\n";

#[test]
fn a_good_file_is_ok_and_exits_with_0() {
    let directory = directory_with(&[
        ("herd.yaml", GOOD),
        ("two.yaml", "workers: {a: {cmd: [x]}, b: {cmd: [y]}}"),
    ]);
    assert_eq!(
        run(&mut herd(directory.path())),
        (Some(0), "herd.yaml: ok, 1 worker kind\n".to_owned())
    );
    let two = run(herd(directory.path()).args(["--config", "two.yaml"]));
    assert_eq!(two, (Some(0), "two.yaml: ok, 2 worker kinds\n".to_owned()));
}

#[test]
fn a_bad_file_shows_every_line_and_exits_with_1() {
    let directory = directory_with(&[(
        "herd.yaml",
        "workers:\n  a:\n    cmd: [x]\n    max: 0\n    tll: 5m\n",
    )]);
    let expected = "\
herd.yaml:4:10: workers.a.max: is 0, so no worker could ever start; write at least 1
 4 |     max: 0
   |          ^
herd.yaml:5:5: workers.a.tll: is not a key herd knows; did you mean `ttl`?
 5 |     tll: 5m
   |     ^
herd.yaml: 2 problems
";
    assert_eq!(run(&mut herd(directory.path())), (Some(1), expected.to_owned()));
}

#[test]
fn json_says_the_same_to_programs() {
    let directory = directory_with(&[
        ("herd.yaml", "workers:\n  a:\n    cmd: [x]\n    max: 0\n"),
        ("good.yaml", GOOD),
    ]);
    let parsed = |(code, text): (Option<i32>, String)| {
        (
            code,
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
        )
    };
    assert_eq!(
        parsed(run(herd(directory.path()).args(["-o", "json"]))),
        (
            Some(1),
            serde_json::json!({
                "file": "herd.yaml",
                "ok": false,
                "problems": [{
                    "line": 4,
                    "column": 10,
                    "path": "workers.a.max",
                    "message": "is 0, so no worker could ever start; write at least 1",
                    "source": "    max: 0",
                }],
            })
        )
    );
    assert_eq!(
        parsed(run(herd(directory.path()).args([
            "-o",
            "json",
            "--config",
            "good.yaml"
        ]))),
        (
            Some(0),
            serde_json::json!({ "file": "good.yaml", "ok": true, "workers": ["a"], "problems": [], "warnings": [] })
        )
    );
}

#[test]
fn a_missing_file_is_told_what_to_do() {
    let directory = directory_with(&[]);
    let expected = "there is no herd.yaml; write one (docs/configuration.md starts with a short example), or name \
                    another with --config FILE or HERD_CONFIG\n";
    assert_eq!(run(&mut herd(directory.path())), (Some(1), expected.to_owned()));
}

#[test]
fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
    let directory = directory_with(&[("herd.yaml", "~"), ("variable.yaml", GOOD), ("flag.yaml", GOOD)]);
    let by_variable = run(herd(directory.path()).env("HERD_CONFIG", "variable.yaml"));
    assert_eq!(by_variable.1, "variable.yaml: ok, 1 worker kind\n");
    let by_flag = run(herd(directory.path())
        .env("HERD_CONFIG", "variable.yaml")
        .args(["--config", "flag.yaml"]));
    assert_eq!(by_flag.1, "flag.yaml: ok, 1 worker kind\n");
}

/// Every `*.yaml` below `directory`.
fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.map(|entry| entry.expect("a readable entry").path()) {
        if path.is_dir() && !path.ends_with("node_modules") {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_configuration_in_the_repository_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    yaml_files(&root.join("examples"), &mut files);
    files.extend(Some(root.join("herd.yaml")).filter(|path| path.exists()));
    assert!(!files.is_empty(), "saw no file under examples/");
    for path in &files {
        if let Err(error) = herd::config::load(path) {
            panic!("{error}");
        }
    }

    // The examples in the documentation are copied by readers, so they count as shipped.
    let mut documented = 0;
    for name in ["README.md", "docs/configuration.md"] {
        let text = std::fs::read_to_string(root.join(name)).unwrap_or_default();
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            if block.lines().any(|line| line == "workers:") {
                documented += 1;
                if let Err(problems) = herd::config::parse(block, name) {
                    panic!("an example in {name} is wrong:\n{problems}");
                }
            }
        }
    }
    assert!(
        documented >= 3,
        "saw only {documented} examples in the documentation"
    );
}
