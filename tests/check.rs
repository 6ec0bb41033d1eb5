//! `herd check` as a user runs it, and the configuration files that this repository ships.

#![allow(clippy::expect_used, reason = "a test's own set-up may fail loudly")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn herd(directory: &Path, verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.arg(verb).current_dir(directory);
    for variable in ["HERD_CONFIG", "HERD_DATA_BIND"] {
        command.env_remove(variable);
    }
    // Whatever this user's own directories are like.
    command
        .env("HERD_CONTROL_SOCKET", directory.join("run/control.sock"))
        .env("HERD_STATE_DIR", directory.join("run"));
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
        run(&mut herd(directory.path(), "check")),
        (Some(0), "herd.yaml: ok, 1 worker kind\n".to_owned())
    );
    let two = run(herd(directory.path(), "check").args(["--config", "two.yaml"]));
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
    assert_eq!(
        run(&mut herd(directory.path(), "check")),
        (Some(1), expected.to_owned())
    );
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
        parsed(run(herd(directory.path(), "check").args(["-o", "json"]))),
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
        parsed(run(herd(directory.path(), "check").args([
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
    let expected = "herd: there is no herd.yaml; `herd init` writes one for what is installed here, or name another with \
                    --config FILE or HERD_CONFIG\n";
    let output = herd(directory.path(), "check").output().expect("herd runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(1), expected));
    assert!(output.stdout.is_empty(), "there is no result");
}

/// Names nothing outside itself that is there and right.
const ALONE: &str = r#"network:
  tls: { cert: DIR/no.crt, key: DIR/no.key }
control:
  socket: DIR/open/control.sock
  tcp: "127.0.0.1:0"
  keys: { m: { file: DIR/no.m } }
auth:
  keys:
    b: { file: DIR/no.b }
    c: { env: HERD_TEST_UNSET }
    d: { file: DIR/short }
  tokens: { secrets: [{ file: DIR/no.s }] }
history: { dir: /proc/nope }
access_log: { path: DIR/no/log }
traces:
  endpoint: "http://127.0.0.1:1/v1/traces"
  headers: { Authorization: { file: DIR/no.a } }
state_dir: DIR/short/state
workers:
  w: { cmd: [x], sandbox: { bundle: DIR/no.bundle } }
"#;

#[test]
fn all_that_the_file_names_is_looked_at_in_one_run_and_nothing_is_made() {
    let directory = directory_with(&[("short", "abc")]);
    let path = directory.path();
    let dir = path.display().to_string();
    std::fs::create_dir(path.join("open")).expect("writable");
    for (name, mode) in [("short", 0o600), ("open", 0o755)] {
        std::fs::set_permissions(path.join(name), Permissions::from_mode(mode)).expect("ours");
    }
    std::fs::write(path.join("herd.yaml"), ALONE.replace("DIR", &dir)).expect("writable");
    let expected = "\
2: network.tls.cert: DIR/no.crt: cannot be read: No such file or directory (os error 2)
2: network.tls.key: DIR/no.key: cannot be read: No such file or directory (os error 2)
4: control.socket: the control socket's directory DIR/open has mode 0755, so that others can reach into it; run `chmod 700 DIR/open` or name another one with --control-socket
6: control.keys.m.file: cannot read DIR/no.m: No such file or directory (os error 2)
9: auth.keys.b.file: cannot read DIR/no.b: No such file or directory (os error 2)
10: auth.keys.c.env: the variable HERD_TEST_UNSET is not set, or not text
11: auth.keys.d.file: a key has at least 16 characters; `herd key` makes one
12: auth.tokens.secrets[0].file: cannot read DIR/no.s: No such file or directory (os error 2)
13: history.dir: cannot use the directory /proc/nope: /proc is the kernel's and takes no files
14: access_log.path: cannot be opened to add lines: No such file or directory (os error 2); the directory has to be there already
17: traces.headers.Authorization.file: cannot read DIR/no.a: No such file or directory (os error 2)
18: state_dir: cannot use the state directory DIR/short/state: Not a directory (os error 20)
20: workers.w.sandbox.bundle: DIR/no.bundle does not exist; make the bundle with `herd bundle`, or correct the path
"
    .replace("DIR", &dir);
    let here = |verb: &str| {
        let mut command = herd(path, verb);
        command
            .env_remove("HERD_CONTROL_SOCKET")
            .env_remove("HERD_STATE_DIR");
        command
    };
    let (code, text) = run(&mut here("check"));
    let lines = |text: &str| -> String {
        let places = text.lines().filter_map(|line| {
            let (line, rest) = line.split_once("herd.yaml:")?.1.split_once(':')?;
            Some(format!("{line}:{}\n", rest.split_once(':')?.1))
        });
        places.collect()
    };
    assert_eq!((code, lines(&text)), (Some(1), expected.clone()));
    assert!(text.ends_with("\nherd.yaml: 13 problems\n"), "{text}");

    // And herd does not start, for the same reasons.
    let started = here("start").output().expect("herd runs");
    let told = String::from_utf8_lossy(&started.stderr);
    assert_eq!(
        (started.status.code(), lines(&told)),
        (Some(1), expected),
        "{told}"
    );

    let there = std::fs::read_dir(path).expect("readable");
    let mut there: Vec<_> = there.map(|entry| entry.expect("readable").file_name()).collect();
    there.sort();
    assert_eq!(there, ["herd.yaml", "open", "short"]);
}

#[test]
fn flags_and_variables_count_as_they_do_for_a_start() {
    let directory = directory_with(&[("herd.yaml", GOOD), ("file", "")]);
    let told = run(herd(directory.path(), "check").args(["--state-dir", "/proc/nope"]));
    let expected = "herd.yaml:1:1: state_dir: cannot use the state directory /proc/nope: /proc is the kernel's and takes no \
                    files\nherd.yaml: 1 problem\n";
    assert_eq!(told, (Some(1), expected.to_owned()));
    let socket = directory.path().join("file/control.sock");
    let (code, told) = run(herd(directory.path(), "check").env("HERD_CONTROL_SOCKET", socket));
    assert!(
        code == Some(1)
            && told.starts_with("herd.yaml:1:1: control.socket: cannot use the control socket's directory "),
        "{told}"
    );
}

#[test]
fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
    let directory = directory_with(&[("herd.yaml", "~"), ("variable.yaml", GOOD), ("flag.yaml", GOOD)]);
    let by_variable = run(herd(directory.path(), "check").env("HERD_CONFIG", "variable.yaml"));
    assert_eq!(by_variable.1, "variable.yaml: ok, 1 worker kind\n");
    let by_flag = run(herd(directory.path(), "check")
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
