//! Workers that live and do not answer.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;
use crate::client::Client as Control;

const QUICK: &str = "liveness: {path: /health, interval: 100ms, timeout: 100ms, failures: 3}";

fn assert_lost(herd: &Herd, id: &str, probe: &str) {
    let ended = herd.running.until(id, "ended");
    assert_eq!(ended["reason"], "probe_failed");
    let detail = ended["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the worker failed 3 liveness probes in a row; the last: GET /health"),
        "{detail}"
    );
    assert!(detail.ends_with(probe), "{detail}");
    let problem = herd.get(id, "/").problem(410, "session_lost");
    assert!(self::detail(&problem).contains("liveness probes"), "{problem}");
}

#[test]
fn a_session_whose_worker_hangs_is_lost() {
    let herd = Herd::one("", QUICK);
    herd.get("a", "/").good();
    herd.running.hang("a");
    assert_lost(&herd, "a", "was not answered within 100ms");
    let metrics = Control::of(&herd.running).unwrap().text("/metrics").unwrap();
    assert!(
        metrics.contains("herd_sessions_ended_total{worker=\"w\",reason=\"probe_failed\"} 1"),
        "{metrics}"
    );
}

#[test]
fn a_request_under_way_is_told_that_its_worker_was_killed() {
    let herd = Herd::one("", QUICK);
    herd.get("a", "/").good();
    herd.running.hang("a");
    let problem = herd.get("a", "/").problem(502, "worker_crashed");
    assert!(
        detail(&problem).starts_with("the worker was killed: it failed 3 liveness probes"),
        "{problem}"
    );
}

#[test]
fn a_worker_that_hangs_in_a_sandbox_is_found_through_it() {
    let sandbox = "sandbox: {rootfs: host, mounts: [{source: DIR, target: /app}]}";
    let kind = format!(
        "  w:\n    cmd: [python3, /app/worker.py, \"{{{{.Port}}}}\"]\n    cwd: /app\n    {sandbox}\n    {QUICK}\n"
    );
    let herd = Herd::start(&kind);
    herd.get("a", "/").good();
    herd.running.hang("a");
    assert_lost(&herd, "a", "was not answered within 100ms");
}

#[test]
fn a_worker_that_got_its_port_at_the_second_try_is_asked_too() {
    let herd = Herd::one(", announce=DIR/port", &format!("start_timeout: 60s\n{QUICK}"));
    let mut client = herd.client();
    client.send(&get("a", "/", ""));
    let stranger = herd.stranger_on_the_port();
    client.answer().good();
    drop(stranger);
    herd.running.hang("a");
    assert_lost(&herd, "a", "was not answered within 100ms");
}

#[test]
fn a_warm_worker_that_is_unwell_is_replaced_and_the_next_session_starts_anew() {
    let herd = Herd::one(", \"health=503 No\"", &format!("min: 1\n{QUICK}"));
    let control = Control::of(&herd.running).unwrap();
    let unwell = poll("a worker that is unwell", || {
        let events = herd
            .running
            .herd(&["events", "-o", "json", "--no-follow", "--replay", "999"]);
        let text = crate::running::stdout(&events);
        let line = text.lines().find(|line| line.contains("worker.unwell"));
        line.map(str::to_owned).ok_or(text)
    });
    assert!(unwell.contains("GET /health answered 503"), "{unwell}");
    poll("another in its place", || {
        let workers = control.look("/v1/workers").unwrap();
        match workers["workers"][0]["warm"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(workers.to_string()),
        }
    });
}

#[test]
fn a_worker_is_not_asked_while_requests_flow_and_is_as_soon_as_they_do_not() {
    // Whoever is asked fails at once.
    let settings = "liveness: {path: /health, interval: 1s, failures: 1}";
    let herd = Herd::one(", \"health=503 No\"", settings);
    let mut client = herd.client();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3500) {
        client.get("a", "/").good();
    }
    assert_eq!(herd.running.until("a", "ended")["reason"], "probe_failed");
}

#[test]
fn a_probe_keeps_no_session_alive() {
    let settings = "ttl: 1s\nliveness: {path: /health, interval: 100ms}";
    let herd = Herd::one("", settings);
    herd.get("a", "/").good();
    assert_eq!(herd.running.until("a", "ended")["reason"], "ttl");
}

#[test]
fn a_reload_asks_the_workers_that_are_there() {
    let herd = Herd::one("", "");
    herd.get("a", "/").good();
    herd.running.hang("a");
    herd.reload("  w:\n", &format!("  w:\n    {QUICK}\n"));
    assert_lost(&herd, "a", "was not answered within 100ms");
}

#[test]
fn a_worker_that_hangs_in_its_second_session_is_replaced_and_the_command_in_it_is_told() {
    let herd = Herd::one("", &format!("max: 1\nreuse: true\n{QUICK}"));
    herd.get("a", "/").good();
    let first = herd.keeper_of("a");
    assert!(herd.running.herd(&["stop", "a"]).status.success());
    herd.get("b", "/").good();
    assert_eq!(herd.keeper_of("b"), first, "it serves again");
    let mut exec = herd
        .running
        .command(&["exec", "b", "--", "sh", "-c", "echo begun; exec sleep 1000"]);
    let mut exec = crate::running::spawn(exec.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut begun = [0; 6];
    exec.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    herd.running.hang("b");
    let output = exec.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = crate::running::stderr(&output);
    assert!(told.contains("failed 3 liveness probes in a row"), "{told}");
    assert_lost(&herd, "b", "was not answered within 100ms");
    // There is one slot, which the dead worker has given back.
    herd.get("c", "/").good();
    assert_ne!(herd.keeper_of("c"), first);
    let sound = herd.running.herd(&["exec", "c", "--", "true"]);
    assert!(sound.status.success(), "{sound:?}");
    let left = crate::leak::processes(herd.running.tag());
    assert!(
        !left.iter().any(|process| process.ends_with(" sleep")),
        "{left:?}"
    );
}

#[test]
fn a_worker_that_hangs_while_it_waits_for_its_next_session_is_replaced() {
    let herd = Herd::one("", &format!("max: 1\nreuse: true\n{QUICK}"));
    herd.get("a", "/").good();
    let (first, program) = (herd.keeper_of("a"), herd.running.program("a"));
    assert!(herd.running.herd(&["stop", "a"]).status.success());
    kill(program, Signal::SIGSTOP).unwrap();
    poll("it is gone", || {
        let there = std::fs::exists(format!("/proc/{first}")).unwrap();
        (!there).then_some(()).ok_or_else(|| first.to_string())
    });
    herd.get("b", "/").good();
}
