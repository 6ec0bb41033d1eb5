//! What the next herd knows of the sessions of this one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::running::{Running, stderr, stdout};

/// Ends the herd, and starts another in its place.
fn restart(mut herd: Running, signal: Signal) -> Running {
    kill(Pid::from_raw(herd.pid()), signal).unwrap();
    herd.wait();
    // Its directory has to outlive it.
    let kept = tempfile::tempdir().unwrap();
    fs::rename(herd.dir.path().join("state"), kept.path().join("state")).unwrap();
    drop(herd);
    Running::start_in(kept)
}

fn run(herd: &Running, id: &str, script: &str) {
    let output = herd.herd(&["run", "runner", "--session", id, "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", stderr(&output));
    herd.until(id, "ended");
}

fn inspect(herd: &Running, id: &str) -> Value {
    serde_json::from_str(&stdout(&herd.herd(&["inspect", id, "-o", "json"]))).unwrap()
}

#[test]
fn a_session_that_has_ended_is_known_after_a_restart() {
    let herd = Running::start();
    run(&herd, "left", "true");
    let before = inspect(&herd, "left");
    assert_eq!(before["run"], Value::Null);
    let herd = restart(herd, Signal::SIGTERM);
    let after = inspect(&herd, "left");
    for same in [
        "id",
        "generation",
        "kind",
        "reason",
        "detail",
        "worker",
        "pid",
        "created",
        "ended",
        "death",
    ] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["state"], "ended");
    assert_eq!(after["death"]["signal"], 9);
    assert!(after["disconnect_to_dead_ms"].as_f64().unwrap() > 0.0, "{after}");
    assert!(after["run"].as_str().unwrap().ends_with('Z'), "{after}");
    let listed = stdout(&herd.herd(&["ps", "--all"]));
    assert!(listed.contains("disconnected (former herd)"), "{listed}");
    let told = stdout(&herd.herd(&["inspect", "left"]));
    assert!(
        told.contains("herd:        a former one, which started "),
        "{told}"
    );
    let output = stdout(&herd.herd(&["logs", "left"]));
    assert!(
        output.starts_with("[herd: of a herd before this one; its last lines are kept]\nherd runner: pid "),
        "{output}"
    );
    // And the same id anew: another incarnation, which knows of the former.
    run(&herd, "left", "true");
    let again = inspect(&herd, "left");
    assert_eq!(again["run"], Value::Null);
    assert!(
        again["generation"].as_u64() > after["generation"].as_u64(),
        "{again}"
    );
    assert_eq!(again["earlier"][0]["run"], after["run"]);
}

#[test]
fn even_a_herd_that_was_killed_has_left_what_had_ended_before() {
    let herd = Running::start();
    run(&herd, "before", "true");
    let file = herd.dir.path().join("state/history.jsonl");
    crate::running::poll("the line is written", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text.ends_with('\n') { Ok(()) } else { Err(text) }
    });
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let herd = restart(herd, Signal::SIGKILL);
    assert_eq!(inspect(&herd, "before")["reason"], "disconnected");
}

#[test]
fn a_session_that_was_alive_when_herd_was_killed_has_ended_with_it() {
    let herd = Running::start();
    run(&herd, "before", "true");
    let (mut hold, _) = herd.hold("alive");
    let before = herd.until("alive", "bound");
    let file = herd.dir.path().join("state/history.jsonl");
    crate::running::poll("its beginning is written", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match text
            .lines()
            .any(|line| line.starts_with("{\"began\"") && line.contains("\"alive\""))
        {
            true => Ok(()),
            false => Err(text),
        }
    });
    let herd = restart(herd, Signal::SIGKILL);
    hold.wait().unwrap();
    let after = inspect(&herd, "alive");
    for same in ["id", "generation", "kind", "worker", "pid", "created"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(
        (&after["state"], &after["reason"]),
        (&"ended".into(), &"herd_died".into())
    );
    assert_eq!((&after["ended"], &after["death"]), (&Value::Null, &Value::Null));
    let told = stdout(&herd.herd(&["inspect", "alive"]));
    assert!(
        told.contains("herd ended without an end of this session on record (it was killed, or crashed"),
        "{told}"
    );
    assert_eq!(inspect(&herd, "before")["reason"], "disconnected");
    let listed = stdout(&herd.herd(&["ps", "--all", "--usage"]));
    assert!(listed.contains("herd_died (former herd)"), "{listed}");
    let output = herd.herd(&["logs", "alive"]);
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (
            Some(1),
            "herd: session alive has ended, and its worker's output is not kept: it died with herd\n"
                .to_owned()
        )
    );
    // The same name anew is another session, and the next herd, which ends well, says nothing new of the former.
    run(&herd, "alive", "true");
    assert!(inspect(&herd, "alive")["generation"].as_u64() > before["generation"].as_u64());
    let herd = restart(herd, Signal::SIGTERM);
    let again = inspect(&herd, "alive");
    assert_eq!(again["reason"], "disconnected");
    assert_eq!(again["earlier"][0]["reason"], "herd_died");
    assert_eq!(again["earlier"][0]["detail"], after["detail"]);
}
