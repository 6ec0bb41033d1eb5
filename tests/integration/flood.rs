//! Crowds at the control socket: what they cost nobody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::client::Client;
use crate::leak;
use crate::running::{CAP, Running, poll, stdout};

const HOLDS: usize = 3000;
const READERS: usize = 200;

/// Sends a request and leaves the answer unread.
fn send(herd: &Running, line: &str) -> UnixStream {
    let mut stream = UnixStream::connect(herd.socket()).unwrap();
    stream.set_read_timeout(Some(CAP)).unwrap();
    write!(stream, "{line} HTTP/1.1\r\nhost: herd\r\n\r\n").unwrap();
    stream
}

fn open_files(herd: &Running) -> usize {
    leak::descriptors(herd.pid()).values().sum()
}

#[test]
fn thousands_of_holds_a_flood_of_questions_and_readers_that_do_not_read_disturb_nobody() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let herd = Running::start();
    let client = Client::of(&herd).unwrap();
    let kept = client.hold("kept").unwrap();
    client.ask("kept", "PUT /v1/value", "mine").unwrap();
    let before = open_files(&herd);

    let holds: Vec<_> = (0..HOLDS)
        .map(|_| send(&herd, "GET /v1/sessions/crowd/hold"))
        .collect();
    for hold in &holds {
        (&*hold).read_exact(&mut [0]).unwrap();
    }
    poll(
        "everybody holds it",
        || match herd.until("crowd", "bound")["holds"].as_u64() {
            Some(all) if all == HOLDS as u64 => Ok(()),
            held => Err(format!("{held:?}")),
        },
    );
    // Their answers have no end, and nobody takes any of them.
    let unread: Vec<_> = (0..READERS)
        .map(|at| match at % 2 {
            0 => send(&herd, "GET /v1/events?replay=4096"),
            _ => send(&herd, "GET /v1/sessions/kept/logs?follow=true"),
        })
        .collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let listed = client.look("/v1/sessions?all=true&usage=true").unwrap();
                    assert!(listed["sessions"].is_array(), "{listed}");
                }
            });
        }
        for _ in 0..100 {
            let answer = client.ask("kept", "GET /v1/value", "").unwrap();
            assert!(answer.ends_with("mine"), "{answer}");
        }
        // A session more can begin and be ended, and a person gets in.
        drop(client.hold("another").unwrap());
        let listed = stdout(&herd.herd(&["ps"]));
        assert!(listed.contains("crowd"), "{listed}");
        over.store(true, Ordering::Relaxed);
    });

    drop((holds, unread));
    assert_eq!(herd.until("crowd", "ended")["reason"], "disconnected");
    herd.until("another", "ended");
    poll("everything is let go of", || match open_files(&herd) {
        now if now <= before + 4 => Ok(()),
        now => Err(format!("{now} descriptors, {before} before")),
    });
    assert!(client.ask("kept", "GET /v1/value", "").unwrap().ends_with("mine"));
    drop(kept);
}
