//! The control socket and the verbs that use it, against a real herd.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use crate::running::{HERD, Running, poll, spawn, start_command, stderr, stdout};
use crate::skip::skipped;

fn is_gone(pid: i64) -> Result<(), String> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => Ok(()),
        Ok(stat) => Err(stat),
    }
}

#[test]
fn a_session_is_listed_and_stopped_with_what_died() {
    let herd = Running::start();
    let empty = herd.herd(&["ps"]);
    assert_eq!(
        stdout(&empty),
        "SESSION  KIND  SANDBOX  STATE  WORKER  PID  HOLDERS  AGE  ENDS\n"
    );
    assert!(stderr(&empty).starts_with("no sessions"), "{}", stderr(&empty));

    let (mut hold, line) = herd.hold("user-42");
    assert!(
        line.starts_with("holding user-42: runner worker w1, created"),
        "{line}"
    );
    let listed = stdout(&herd.herd(&["ps"]));
    let row: Vec<_> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["user-42", "runner", "off", "bound", "w1"], "{listed}");
    assert_eq!(row[6], "1", "one holder: {listed}");
    assert!(listed.contains("when released"), "{listed}");
    let pid = herd.until("user-42", "bound")["pid"].as_i64().unwrap();

    let stopped = herd.herd(&["stop", "user-42"]);
    let text = stdout(&stopped);
    assert!(
        text.starts_with("stopped user-42: 2 processes, ") && text.contains(" freed, "),
        "{text}"
    );
    assert_eq!(is_gone(pid), Ok(()), "stop returns after the tree is reaped");
    assert_eq!(
        hold.wait().unwrap().code(),
        Some(1),
        "the session ended under its holder"
    );
    let mut told = String::new();
    hold.stderr.unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "herd: the session ended: stopped on request\n");

    let again = herd.herd(&["stop", "user-42"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).starts_with("herd: there is no session user-42"),
        "{}",
        stderr(&again)
    );
    assert_eq!(herd.until("user-42", "ended")["reason"], "stopped");
}

#[test]
fn killing_the_holder_kills_the_session() {
    let herd = Running::start();
    let (mut hold, _) = herd.hold("a");
    let pid = herd.until("a", "bound")["pid"].as_i64().unwrap();
    hold.kill().unwrap();
    hold.wait().unwrap();
    assert_eq!(herd.until("a", "ended")["reason"], "disconnected");
    poll("the worker is gone", || is_gone(pid));
}

#[test]
fn a_hold_can_end_with_its_standard_input() {
    let herd = Running::start();
    let mut command = herd.command(&["hold", "a", "--until-stdin-ends"]);
    let mut hold = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(hold.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("holding a"), "{line}");
    drop(hold.stdin.take());
    assert_eq!(hold.wait().unwrap().code(), Some(0));
    assert_eq!(herd.until("a", "ended")["reason"], "disconnected");
}

#[test]
fn logs_are_followed_until_the_worker_ends() {
    let herd = Running::start();
    let (mut hold, _) = herd.hold("a");
    let mut follower = spawn(herd.command(&["logs", "-f", "a"]).stdout(Stdio::piped()));
    let mut output = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.starts_with("herd runner: pid "), "{line}");
    assert!(herd.herd(&["stop", "a"]).status.success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(follower.wait().unwrap().code(), Some(0), "{rest}");
    hold.wait().unwrap();
    let after = herd.herd(&["logs", "--tail", "1", "a"]);
    assert!(
        stdout(&after).starts_with("herd runner: "),
        "an ended session's output: {}",
        stderr(&after)
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let herd = Running::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = herd
        .command(&["ps"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        !stderr(&output).contains("panicked") && !stderr(&output).contains("pipe"),
        "{output:?}"
    );
}

#[test]
fn a_verb_that_follows_ends_with_its_reader_also_where_nothing_happens() {
    let herd = Running::start();
    let (mut hold, _) = herd.hold("quiet");
    for verb in [
        &["events", "--replay", "1"][..],
        &["logs", "-f", "quiet"],
        &["ps", "--watch", "3600"],
    ] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut child = spawn(herd.command(verb).stdout(writer));
        reader.read_exact(&mut [0]).unwrap();
        drop(reader);
        poll(&format!("{verb:?} ends"), || match child.try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    hold.kill().unwrap();
    hold.wait().unwrap();
}

#[test]
fn without_a_herd_the_verbs_say_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    for verb in [&["ps"][..], &["stop", "a"], &["logs", "a"], &["hold", "a"]] {
        let output = std::process::Command::new(HERD)
            .args(verb)
            .arg("--control-socket")
            .arg(&socket)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb:?}");
        let expected = format!(
            "herd: herd is not running (no control socket at {}); start it with `herd start`\n",
            socket.display()
        );
        assert_eq!(stderr(&output), expected, "{verb:?}");
    }
}

#[test]
fn another_user_is_kept_out() {
    let herd = Running::start();
    let socket = herd.socket();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    if !nix::unistd::geteuid().is_root() {
        skipped("needs root to run as another user");
        return;
    }
    let copy = herd.dir.path().join("herd");
    std::fs::copy(HERD, &copy).unwrap();
    std::fs::set_permissions(herd.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(&copy)
        .args(["ps", "--control-socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("herd: not allowed to use "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_second_herd_on_the_same_socket_is_told_who_has_it() {
    let herd = Running::start();
    let second = start_command(herd.dir.path(), "other-state").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let expected = format!(
        "another herd (pid {}) uses {}",
        herd.child.id(),
        herd.socket().display()
    );
    assert!(stderr(&second).contains(&expected), "{}", stderr(&second));
    assert!(herd.herd(&["ps"]).status.success(), "the first is undisturbed");
}

#[test]
fn a_killed_herds_socket_is_replaced() {
    let mut herd = Running::start();
    herd.child.kill().unwrap();
    herd.child.wait().unwrap();
    let dead = herd.herd(&["ps"]);
    assert!(
        stderr(&dead).contains("it left its control socket at "),
        "{}",
        stderr(&dead)
    );
    let dir = std::mem::replace(&mut herd.dir, tempfile::tempdir().unwrap());
    let next = Running::start_in(dir);
    assert!(next.herd(&["ps"]).status.success());
}
