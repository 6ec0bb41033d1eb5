//! Workers that die, and what their sessions' clients are told.

use super::*;

/// A session whose worker was killed while nothing was asked of it.
fn lost(herd: &Herd, id: &str) {
    herd.get(id, "/").good();
    herd.kill_worker_of(id);
    assert_eq!(herd.running.until(id, "ended")["reason"], "crashed");
}

#[test]
fn a_warm_worker_that_ends_is_told_of_and_counted() {
    let herd = Herd::one(", end_when=DIR/end", "min: 1");
    let control = crate::client::Client::of(&herd.running).unwrap();
    crate::running::poll("a warm worker", || {
        let workers = control.look("/v1/workers").unwrap();
        match workers["workers"][0]["warm"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(workers.to_string()),
        }
    });
    std::fs::write(herd.path("end"), "").unwrap();
    let failed = "a worker ended by itself before it was needed: exit status 5";
    herd.running.logged(failed);
    crate::running::poll("the event", || {
        let events = herd.running.herd(&["events", "--replay", "99", "--no-follow"]);
        let events = crate::running::stdout(&events);
        match events.contains("worker.failed ") && events.contains(failed) {
            true => Ok(()),
            false => Err(events),
        }
    });
    let metrics = control.text("/metrics").unwrap();
    assert!(
        !metrics.contains(r#"start_failures_total{worker="w",reason="unused"} 0"#),
        "{metrics}"
    );
}

#[test]
fn a_crash_before_the_answer_is_told_at_once_and_to_the_next_request() {
    let herd = Herd::one("", "");
    let problem = herd.get("a", "/die").problem(502, "worker_crashed");
    assert_eq!(detail(&problem), "the worker ended by itself: exit status 7");
    let next = herd.get("a", "/");
    let problem = next.problem(410, "session_lost");
    assert_eq!(next.field("x-session-id"), "a");
    assert!(detail(&problem).contains("exit status 7"), "{problem}");
    assert!(detail(&problem).contains("X-Herd-Session: new"), "{problem}");
}

#[test]
fn a_crash_in_an_answer_never_looks_like_its_end() {
    let herd = Herd::one("", "");
    for path in ["/half", "/half-chunked"] {
        let mut client = herd.client();
        let id = path.trim_matches('/');
        client.send(&get(id, path, ""));
        let (status, fields) = client.head();
        assert_eq!(status, 200, "{path}");
        if path == "/half" {
            let mut part = [0; 10];
            client.0.read_exact(&mut part).unwrap();
            assert_eq!(&part, b"0123456789");
        }
        herd.kill_worker_of(id);
        let rest = client.body(&fields);
        let error = rest.expect_err(path);
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
            ),
            "{path}: {error}"
        );
        // The connection can break before herd has been told of the death.
        assert_eq!(herd.running.until(id, "ended")["reason"], "crashed");
        herd.get(id, "/").problem(410, "session_lost");
    }
}

#[test]
fn an_answer_that_a_stop_cuts_never_looks_whole() {
    let herd = Herd::one("", "");
    for path in ["/half", "/half-chunked", "/half-without-length"] {
        let mut client = herd.client();
        let id = path.trim_matches('/');
        client.send(&get(id, path, ""));
        let (status, fields) = client.head();
        assert_eq!(status, 200, "{path}");
        assert!(herd.running.herd(&["stop", id]).status.success());
        client.body(&fields).expect_err(path);
    }
}

#[test]
fn a_killed_keeper_is_a_crash_too() {
    let herd = Herd::one("", "");
    herd.get("a", "/").good();
    kill(herd.keeper_of("a"), Signal::SIGKILL).unwrap();
    assert_eq!(herd.running.until("a", "ended")["reason"], "crashed");
    let problem = herd.get("a", "/").problem(410, "session_lost");
    assert!(detail(&problem).contains("its keeper was killed"), "{problem}");
}

#[test]
fn a_crash_while_idle_is_told_until_the_session_is_begun_anew() {
    let herd = Herd::one("", "");
    lost(&herd, "a");
    for _ in 0..2 {
        let problem = herd.get("a", "/").problem(410, "session_lost");
        assert!(detail(&problem).contains("killed by signal 9"), "{problem}");
    }
    let anew = herd.client().get_with("a", "/", "X-Herd-Session: new\r\n");
    anew.good();
    assert_eq!(anew.field("x-herd-session-state"), "created");
    let after = herd.get("a", "/");
    after.good();
    assert_eq!(after.field("x-herd-session-state"), "reused");
}

#[test]
fn stopping_a_lost_session_frees_its_id() {
    let herd = Herd::one("", "");
    lost(&herd, "a");
    let output = herd.running.herd(&["stop", "a"]);
    let said = crate::running::stdout(&output);
    assert!(said.starts_with("forgot a: "), "{said}{output:?}");
    let after = herd.get("a", "/");
    after.good();
    assert_eq!(after.field("x-herd-session-state"), "created");
}

#[test]
fn the_status_of_a_lost_session_can_be_404() {
    let herd = Herd::start_with("session: { lost_status: 404 }", &one("", ""));
    lost(&herd, "a");
    herd.get("a", "/").problem(404, "session_lost");
}

#[test]
fn a_kind_may_start_again_after_a_crash() {
    let herd = Herd::one("", "on_crash: respawn");
    herd.get("a", "/").good();
    herd.get("a", "/die").problem(502, "worker_crashed");
    let next = herd.get("a", "/");
    next.good();
    assert_eq!(next.field("x-herd-session-state"), "created");
}
