//! `herd doctor` as a user runs it: on this host, and on hosts made worse than this one.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

#[path = "support/skip.rs"]
mod skip;

const HERD: &str = env!("CARGO_BIN_EXE_herd");

const NAMES: &[&str] = &[
    "kernel",
    "user-namespaces",
    "apparmor",
    "pid-namespaces",
    "proc",
    "tmpfs",
    "overlayfs",
    "network-namespaces",
    "seccomp",
    "no-new-privs",
    "pidfd",
    "clone3",
    "openat2",
    "subordinate-ids",
    "idmapped-mounts",
    "cgroups",
    "cgroup-memory",
    "cgroup-cpu",
    "cgroup-pids",
    "cgroup-kill",
];

fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program runs");
    assert_eq!(
        String::from_utf8_lossy(&stderr),
        "",
        "the findings are the result, not a log"
    );
    (status.code(), String::from_utf8(stdout).expect("UTF-8"))
}

/// The checks by name, and the exit code.
fn json(command: &mut Command) -> (Option<i32>, BTreeMap<String, Value>) {
    let (code, text) = run(command);
    let list: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let name = |check: &Value| check["name"].as_str().expect("a name").to_owned();
    (
        code,
        list.into_iter().map(|check| (name(&check), check)).collect(),
    )
}

/// Runs `script` where it may change what the kernel allows: `$0` is herd. `None` where there is no such place.
fn elsewhere(flags: &str, script: &str) -> Option<Command> {
    let unshare = || Command::new("unshare");
    let possible = unshare()
        .args([flags, "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        skip::skipped(&format!("`unshare {flags}` does not work here"));
        return None;
    }
    let mut command = unshare();
    command.args([flags, "sh", "-c", script, HERD]);
    Some(command)
}

#[test]
fn every_check_says_what_was_found_and_what_it_means() {
    let (code, checks) = json(Command::new(HERD).args(["doctor", "-o", "json"]));
    let mut names: Vec<_> = NAMES.to_vec();
    names.sort_unstable();
    assert_eq!(checks.keys().map(String::as_str).collect::<Vec<_>>(), names);
    for (name, check) in &checks {
        let keys: Vec<_> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["name", "ok", "required", "detail", "means", "fix"],
            "{name}"
        );
        assert!(!check["detail"].as_str().unwrap().is_empty(), "{name}");
        assert!(!check["means"].as_str().unwrap().is_empty(), "{name}");
        assert!(
            check["fix"].is_null() || check["ok"] == false,
            "{name}: nothing to fix"
        );
    }
    let fit = checks
        .values()
        .all(|check| check["ok"] == true || check["required"] == false);
    assert_eq!(code, Some(if fit { 0 } else { 1 }));
}

#[test]
fn people_get_a_table_and_what_to_do() {
    let (code, text) = run(Command::new(HERD).arg("doctor"));
    let mut lines = text.lines();
    let heading: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["CHECK", "OK", "FOUND"]);
    for name in NAMES {
        let words: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(words[0], *name);
        assert!(["yes", "no"].contains(&words[1]), "{words:?}");
        let explained = text.contains(&format!("\n{name}: no\n  means  "));
        assert_eq!(explained, words[1] == "no", "{name}");
    }
    let last = text.lines().last().unwrap();
    match code {
        Some(0) => assert_eq!(last, "Sandboxes can run here with all defaults."),
        _ => assert!(
            last.starts_with("Sandboxes cannot run here with all defaults, for lack of: "),
            "{last}"
        ),
    }
}

/// The limit counts per user namespace, so it can be set to nothing without a trace on the host.
#[test]
fn a_host_without_user_namespaces_is_told_which_setting_forbids_them() {
    let script = r#"echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" doctor -o json"#;
    let Some(mut command) = elsewhere("-Ur", script) else {
        return;
    };
    let (code, checks) = json(&mut command);
    assert_eq!(code, Some(1));
    for name in ["user-namespaces", "pid-namespaces"] {
        let check = &checks[name];
        assert_eq!(check["ok"], false, "{name}");
        assert_eq!(
            check["detail"],
            "the kernel refuses a new user namespace: ENOSPC: No space left on device; user.max_user_namespaces is 0"
        );
        assert_eq!(
            check["fix"],
            "echo 'user.max_user_namespaces = 10000' | sudo tee /etc/sysctl.d/60-herd-user.max_user_namespaces.conf && \
             sudo sysctl --system"
        );
    }
}

/// What a container's masked paths do to whoever nests in it.
#[test]
fn a_proc_that_is_covered_in_part_is_found() {
    let script = r#"mount -t tmpfs none /proc/fs && exec "$0" doctor -o json"#;
    let Some(mut command) = elsewhere("-Urm", script) else {
        return;
    };
    let (code, checks) = json(&mut command);
    let proc = &checks["proc"];
    assert_eq!((code, &proc["ok"]), (Some(1), &Value::Bool(false)));
    let detail = proc["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("a PID namespace's own /proc cannot be mounted: EPERM"),
        "{detail}"
    );
    assert_eq!(
        checks["pid-namespaces"]["ok"], true,
        "the namespace itself is possible"
    );
}

/// herd's own strict profile stands for a container's.
#[test]
fn under_a_filter_the_calls_that_it_hides_are_found() {
    let filtered = Path::new(HERD).parent().unwrap().join("examples/filtered");
    assert!(filtered.exists(), "first run `cargo build --example filtered`");
    let (code, checks) = json(Command::new(filtered).args(["strict", "exec", HERD, "doctor", "-o", "json"]));
    assert_eq!(code, Some(1));
    for name in [
        "user-namespaces",
        "pid-namespaces",
        "proc",
        "tmpfs",
        "overlayfs",
        "network-namespaces",
        "clone3",
    ] {
        assert_eq!(checks[name]["ok"], false, "{name}");
    }
    for name in ["kernel", "seccomp", "no-new-privs", "pidfd", "openat2"] {
        assert_eq!(checks[name]["ok"], true, "{name}");
    }
    assert_eq!(
        checks["clone3"]["detail"],
        "refused: Function not implemented (os error 38)"
    );
}

/// Probes mount over `/proc`, which nobody else does.
#[test]
fn nothing_is_left_on_the_host() {
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines()
            .filter(|line| line.contains(" /proc"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = mounts();
    assert!(!before.is_empty());
    run(Command::new(HERD).arg("doctor"));
    assert_eq!(mounts(), before);
}

#[test]
fn a_probe_that_does_not_exist_is_refused() {
    let output = Command::new(HERD)
        .args(["doctor", "--probe", "x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "herd: there is no probe `x`\n"
    );
}
