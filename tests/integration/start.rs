//! `herd start` as a whole: who may run it, what it leaves, and what it keeps open.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::client::Client;
use crate::leak;
use crate::running::{Running, poll, start_command_as, stderr};
use crate::supervised::Mode;

const UNPRIVILEGED: [Mode; 2] = [Mode::Unprivileged, Mode::UnprivilegedWeak];

/// As user 65534, with and without namespaces.
fn unprivileged() -> impl Iterator<Item = (Mode, Running)> {
    let able = Mode::all();
    UNPRIVILEGED
        .into_iter()
        .filter(move |mode| able.contains(mode))
        .map(|mode| (mode, Running::start_as(mode)))
}

fn is_gone(herd: &Running, pid: i64) {
    poll("the worker's tree is gone", || {
        let listed = leak::processes(herd.tag());
        match listed.iter().any(|p| p.starts_with(&format!("{pid} "))) {
            true => Err(format!("{listed:?}")),
            false => Ok(()),
        }
    });
}

#[test]
fn an_unprivileged_herd_binds_sessions_and_leaves_nothing() {
    for (mode, herd) in unprivileged() {
        let client = Client::of(&herd).unwrap();
        assert!(
            client
                .ask("a", "PUT /v1/value", "mine")
                .unwrap()
                .starts_with("HTTP/1.1 204"),
            "{mode:?}"
        );
        let kept = client.ask("a", "GET /v1/value", "").unwrap();
        assert!(kept.ends_with("\r\n\r\nmine"), "{mode:?}: {kept}");
        let other = client.ask("b", "GET /v1/value", "").unwrap();
        assert!(other.starts_with("HTTP/1.1 404"), "{mode:?}: {other}");
        // Two sessions are bound when it ends; dropping it asserts that it ends cleanly.
    }
}

#[test]
fn an_unprivileged_herd_kills_with_the_disconnect() {
    for (mode, herd) in unprivileged() {
        let client = Client::of(&herd).unwrap();
        let socket = client.websocket("a").unwrap();
        let pid = herd.until("a", "bound")["pid"].as_i64().unwrap();
        drop(socket);
        assert_eq!(herd.until("a", "ended")["reason"], "disconnected", "{mode:?}");
        is_gone(&herd, pid);
    }
}

#[test]
fn nothing_survives_an_unprivileged_herd_that_is_killed() {
    for (_, herd) in unprivileged() {
        let client = Client::of(&herd).unwrap();
        let mut orphans = client
            .send(
                "a",
                "POST /v1/run",
                "",
                r#"{"cmd": ["sh", "-c", "trap '' TERM HUP; setsid sh -c 'setsid sleep 1000 & sleep 1000' & echo on; sleep 1000"]}"#,
            )
            .unwrap();
        let mut answer = String::new();
        while !answer.contains("on\\n") {
            let mut part = [0; 256];
            let read = orphans.read(&mut part).unwrap();
            assert_ne!(read, 0, "ended after {answer}");
            answer.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        let _socket = client.websocket("b").unwrap();
        let _hold = client.hold("c").unwrap();
        herd.kill_and_assert_nothing_survives();
    }
}

#[test]
fn the_weak_guard_is_warned_of_and_strict_refuses_it() {
    for mode in Mode::all() {
        let herd = Running::start_as(mode);
        let said = herd.logged("herd is ready");
        let warning =
            "WEAKER GUARANTEE: workers run without PID namespaces, because HERD_FORCE_WEAK_GUARD is set.";
        assert_eq!(said.contains(warning), mode.is_weak(), "{mode:?}: {said}");
        assert_eq!(
            said.contains("the kernel ends every worker with herd"),
            !mode.is_weak(),
            "{mode:?}: {said}"
        );
        let config = herd.dir.path().join("herd.yaml");
        let mut file = std::fs::OpenOptions::new().append(true).open(config).unwrap();
        writeln!(file, "lifetime: strict").unwrap();
        if mode.is_weak() {
            let strict = start_command_as(mode, herd.dir.path(), "strict")
                .output()
                .unwrap();
            assert_eq!(strict.status.code(), Some(1), "{mode:?}");
            let why = stderr(&strict);
            assert!(
                why.contains("HERD_FORCE_WEAK_GUARD is set") && why.contains("lifetime"),
                "{mode:?}: {why}"
            );
        }
    }
}

/// What herd keeps open, by kind, and its threads.
fn held(herd: &Running) -> BTreeMap<String, usize> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", herd.pid())).unwrap();
    let mut held = leak::descriptors(herd.pid());
    held.insert("threads".to_owned(), tasks.count());
    held
}

/// Lets this thread, and what it starts, use one processor only: herd then has one thread for data.
fn use_one_processor() {
    let own = Pid::from_raw(0);
    let able = sched_getaffinity(own).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| able.is_set(*cpu).unwrap());
    let mut one = CpuSet::new();
    one.set(first.expect("this runs somewhere")).unwrap();
    sched_setaffinity(own, &one).unwrap();
}

#[test]
fn after_many_sessions_herd_holds_no_more_than_after_the_first() {
    const SESSIONS: usize = 200;
    use_one_processor();
    let herd = Running::start();
    let client = Client::of(&herd).unwrap();
    let ways: [fn(&Client, &str); 5] = [stopped, disconnected, released, crashed, given_up];
    // What is opened once, when it is first needed, is open now.
    for (number, way) in ways.iter().enumerate() {
        way(&client, &format!("first{number}"));
    }
    let before = held(&herd);
    assert!(
        before["threads"] > 1 && before["socket:"] > 0 && before["pipe:"] > 0,
        "{before:?}"
    );
    // As many at a time as there are workers.
    std::thread::scope(|scope| {
        for first in 0..3 {
            let client = &client;
            scope.spawn(move || {
                for number in (first..SESSIONS).step_by(3) {
                    ways[number % ways.len()](client, &format!("s{number}"));
                }
            });
        }
    });
    poll("herd holds no more than before", || {
        let now = held(&herd);
        let more = |(kind, count): (&String, &usize)| *count > before.get(kind).copied().unwrap_or(0);
        match now.iter().any(more) {
            true => Err(format!("{now:?}; before {before:?}")),
            false => Ok(()),
        }
    });
}

fn stopped(client: &Client, id: &str) {
    let answer = client.ask(id, "GET /", "").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let told = client.stop(id).unwrap();
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
}

fn disconnected(client: &Client, id: &str) {
    let mut socket = client.websocket(id).unwrap();
    // A final text frame of 2 bytes, masked with zeroes.
    socket.write_all(b"\x81\x82\0\0\0\0hi").unwrap();
    let mut frame = [0; 4];
    socket.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x02hi");
}

fn released(client: &Client, id: &str) {
    client.hold(id).unwrap();
}

fn crashed(client: &Client, id: &str) {
    // However far the answer comes: the worker is the shell's parent.
    let _ = client.ask(
        id,
        "POST /v1/run",
        r#"{"cmd": ["sh", "-c", "kill -9 $PPID; sleep 1000"]}"#,
    );
    // Until the worker is reaped, a request still reaches for it and is told of the crash itself.
    poll("the session is lost", || {
        let answer = client.ask(id, "GET /", "").map_err(|e| e.to_string())?;
        match answer.contains("x-herd-error: session_lost") {
            true => Ok(()),
            false => Err(answer),
        }
    });
}

/// The client leaves in the middle of an answer, and the session is stopped.
fn given_up(client: &Client, id: &str) {
    let mut stream = client
        .send(
            id,
            "POST /v1/run",
            "",
            r#"{"cmd": ["sh", "-c", "echo here; sleep 1000"]}"#,
        )
        .unwrap();
    stream.read_exact(&mut [0; 20]).unwrap();
    drop(stream);
    let told = client.stop(id).unwrap();
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
}
