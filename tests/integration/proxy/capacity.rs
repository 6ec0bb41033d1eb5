//! More clients than workers, and clients that ask for what is not there.

use std::time::Instant;

use super::*;

#[test]
fn five_hundred_requests_at_once_for_a_new_id_start_one_worker() {
    let herd = Herd::one(", wait_for=DIR/go", "start_timeout: 60s\nmax: 3");
    let mut clients: Vec<Client> = (0..500).map(|_| herd.client()).collect();
    for client in &mut clients {
        client.send(&get("a", "/", ""));
    }
    // One start is under way; all requests are sent before it may end.
    herd.running.until("a", "starting");
    std::fs::write(herd.path("go"), "").unwrap();
    let answers: Vec<Answer> = clients.iter_mut().map(Client::answer).collect();
    let first = answers[0].good()["pid"].clone();
    for answer in &answers {
        assert_eq!(answer.good()["pid"], first);
    }
    let created = answers
        .iter()
        .filter(|a| a.field("x-herd-session-state") == "created")
        .count();
    assert_eq!(created, 1, "one of them created the session");
    assert_eq!(starts_of(&herd), 1);
    drop(clients);
}

/// How many sessions of this herd there have been.
fn starts_of(herd: &Herd) -> usize {
    let output = herd.running.herd(&["ps", "--all", "-o", "json"]);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        rows.iter().all(|row| row["worker"] == rows[0]["worker"]),
        "{rows:?}"
    );
    rows.len()
}

#[test]
fn who_may_not_wait_is_told_when_to_come_back() {
    let herd = Herd::one("", "max: 1");
    herd.get("a", "/").good();
    let answer = herd.client().get_with("b", "/", "X-Herd-Wait: 0\r\n");
    let problem = answer.problem(503, "at_capacity");
    assert!(detail(&problem).contains("may not wait"), "{problem}");
    assert!(
        answer.field("retry-after").parse::<u64>().unwrap() >= 1,
        "{answer:?}"
    );
    let bound = herd.client().get_with("a", "/", "X-Herd-Wait: 0\r\n");
    bound.good();
}

#[test]
fn a_full_queue_refuses_and_a_long_wait_ends() {
    let herd = Herd::one("", "max: 1\nqueue: { max: 1, timeout: 3s }");
    herd.get("a", "/").good();
    let begun = Instant::now();
    let mut waiting = herd.client();
    waiting.send(&get("b", "/", ""));
    herd.running.until("b", "queued");
    herd.get("c", "/").problem(503, "at_capacity");
    let answer = waiting.answer();
    let problem = answer.problem(503, "queue_timeout");
    assert!(begun.elapsed().as_secs_f32() >= 3.0, "not before its time");
    assert!(detail(&problem).contains("within 3"), "{problem}");
    assert!(
        answer.field("retry-after").parse::<u64>().unwrap() >= 1,
        "{answer:?}"
    );
}

#[test]
fn who_waits_gets_the_next_free_worker_in_order() {
    let herd = Herd::one("", "max: 1");
    herd.get("a", "/").good();
    let mut waiting: Vec<Client> = Vec::new();
    for id in ["b", "c"] {
        let mut client = herd.client();
        client.send(&get(id, "/", ""));
        herd.running.until(id, "queued");
        waiting.push(client);
    }
    assert!(herd.running.herd(&["stop", "a"]).status.success());
    let served = waiting[0].answer();
    served.good();
    let timing = served.field("server-timing");
    assert!(timing.starts_with("queue;dur="), "{timing}");
    herd.running.until("c", "queued");
    assert!(herd.running.herd(&["stop", "b"]).status.success());
    waiting[1].answer().good();
    drop(waiting);
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let herd = Herd::one("", "max: 1\nqueue: { max: 1, timeout: 60s }");
    herd.get("a", "/").good();
    let mut leaving = herd.client();
    leaving.send(&get("b", "/", ""));
    herd.running.until("b", "queued");
    drop(leaving);
    let mut next = poll("the place is free", || {
        let mut client = herd.client();
        client.send(&get("c", "/", ""));
        let queued = herd.running.herd(&["ps", "-o", "json"]);
        let rows: Vec<Value> = serde_json::from_slice(&queued.stdout).unwrap();
        match rows
            .iter()
            .find(|row| row["id"] == "c" && row["state"] == "queued")
        {
            Some(_) => Ok(client),
            None => Err(format!("{rows:?}")),
        }
    });
    assert!(herd.running.herd(&["stop", "a"]).status.success());
    next.answer().good();
    drop(next);
}

#[test]
fn the_kind_of_a_request_has_to_exist_and_to_be_its_sessions() {
    let herd = Herd::start(
        "  first:\n    cmd: [WORKER, \"{{.Port}}\"]\n  second:\n    cmd: [WORKER, \"{{.Port}}\"]\n",
    );
    let problem = herd
        .client()
        .get_with("a", "/", "X-Herd-Worker: third\r\n")
        .problem(404, "unknown_worker");
    assert_eq!(problem["workers"], serde_json::json!(["first", "second"]));
    assert!(
        detail(&problem).contains("\"third\"; there are: first, second"),
        "{problem}"
    );
    herd.get("a", "/").good();
    let problem = herd
        .client()
        .get_with("a", "/", "X-Herd-Worker: second\r\n")
        .problem(409, "worker_mismatch");
    assert!(
        detail(&problem).contains("bound to a worker of kind first"),
        "{problem}"
    );
    herd.client()
        .get_with("a", "/", "X-Herd-Worker: first\r\n")
        .good();
}

#[test]
fn a_drain_refuses_new_sessions_and_serves_bound_ones() {
    let mut herd = Herd::start_with("drain_timeout: 60s", &one("", ""));
    let mut open = herd.client();
    open.send(&get("a", "/wait", ""));
    let (status, fields) = open.head();
    assert_eq!(status, 200);
    herd.signal(Signal::SIGTERM);
    herd.running.logged("draining: new sessions are refused");
    let refused = herd.get("b", "/");
    refused.problem(503, "draining");
    assert!(
        refused.field("retry-after").parse::<u64>().unwrap() >= 1,
        "{refused:?}"
    );
    herd.get("a", "/release").good();
    assert_eq!(open.body(&fields).unwrap(), b".", "what was open ends in peace");
    herd.get("a", "/").good();
    let stopped = herd.running.herd(&["stop", "a"]);
    assert!(stopped.status.success(), "{}", crate::running::stderr(&stopped));
    let status = herd.running.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn workers_start_one_after_the_other_where_they_may_not_start_together() {
    // It starts until it is given up.
    let settings = "max: 5\nmax_starting: 1\nhealth_path: /health\nstart_timeout: 60s\nqueue: {timeout: 1s}";
    let herd = Herd::one(", \"health=503 No\"", settings);
    let mut first = herd.client();
    first.send(&get("a", "/", ""));
    herd.running.until("a", "starting");
    let problem = herd
        .client()
        .get_with("b", "/", "x-herd-wait: 0\r\n")
        .problem(503, "at_capacity");
    assert_eq!(
        detail(&problem),
        "as many workers are starting as may at a time, and this request may not wait"
    );
    let problem = herd.get("c", "/").problem(503, "queue_timeout");
    assert_eq!(
        detail(&problem),
        "no worker could be had within 1.0 s: as many workers are starting as may at a time"
    );
    let control = crate::client::Client::of(&herd.running).unwrap();
    let pressure = control.look("/v1/pressure").unwrap();
    let pool = &pressure["workers"][0];
    assert_eq!(
        (&pool["taken"], &pool["available"]),
        (&1.into(), &0.into()),
        "{pool}"
    );
}

#[test]
fn a_reload_lets_more_workers_start_at_a_time_and_fewer_end_none() {
    let settings = "max: 5\nmax_starting: 1\nstart_timeout: 60s\nqueue: {timeout: 60s}";
    let herd = Herd::one(", wait_for=DIR/go", settings);
    let ask = |id: &str, state: &str| {
        let mut client = herd.client();
        client.send(&get(id, "/", ""));
        herd.running.until(id, state);
        client
    };
    let mut asking = vec![ask("a", "starting"), ask("b", "queued"), ask("c", "queued")];
    let said = herd.reload("max_starting: 1", "max_starting: 2");
    assert_eq!(said, "configuration 2 is in force: w adjusted\n");
    herd.running.until("b", "starting");
    let worker = |id: &str| herd.running.until(id, "bound")["worker"].clone();
    herd.reload("max_starting: 2", "max_starting: 1");
    herd.running.until("b", "starting");
    herd.running.until("c", "queued");
    asking.push(ask("d", "queued"));
    std::fs::write(herd.path("go"), "").unwrap();
    for client in &mut asking {
        client.answer().good();
    }
    // Nobody was started twice.
    let mut workers: Vec<Value> = ["a", "b", "c", "d"].map(worker).into();
    workers.sort_by_key(|worker| worker.to_string());
    assert_eq!(workers, ["w1", "w2", "w3", "w4"]);
}
