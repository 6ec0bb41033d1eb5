//! Clients that leave while input of theirs lies unread in herd's socket.

use std::io::Write;
use std::time::Duration;

use super::fake::{Client, Herd};

/// How the client goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// An end behind the unread bytes.
    Close,
    Reset,
}

fn leave(client: Client, way: Way) {
    if let Way::Reset = way {
        socket2::SockRef::from(client.reader.get_ref())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    drop(client);
}

/// A request of which `sent` bytes of body are written, and more announced.
fn upload(herd: &Herd, path: &str, id: &str, sent: usize) -> Client {
    let mut client = herd.connect();
    client.send(&format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nX-Session-ID: {id}\r\nContent-Length: {}\r\n\r\n",
        1 << 30
    ));
    client.reader.get_mut().write_all(&vec![7; sent]).unwrap();
    client
}

/// Amounts around what herd reads ahead and the sockets keep; the last fills everything there is.
const AMOUNTS: [(usize, Way); 5] = [
    (70 << 10, Way::Close),
    (100 << 10, Way::Close),
    (150 << 10, Way::Close),
    (150 << 10, Way::Reset),
    (1 << 20, Way::Reset),
];

#[test]
fn a_client_that_leaves_the_queue_with_a_large_unread_body_frees_its_place() {
    let herd = Herd::start("", "    queue: {max: 9, timeout: 60s}");
    let _held = herd.filled();
    for (sent, way) in AMOUNTS {
        let waiting = upload(&herd, "/count", "w", sent);
        herd.until("one in the queue", |_| herd.queued() == 1);
        leave(waiting, way);
        herd.until(&format!("none in the queue after {sent} bytes, {way:?}"), |_| {
            herd.queued() == 0
        });
    }
}

#[test]
fn a_client_that_leaves_while_its_worker_does_not_read_releases_its_session() {
    let herd = Herd::start("", "");
    for (sent, way) in AMOUNTS {
        // The worker's socket takes a good deal before it is full.
        let client = upload(&herd, "/deaf", "s", sent);
        herd.until("one holder", |v| v.iter().any(|v| v.holders == 1));
        leave(client, way);
        herd.until(&format!("no holder after {sent} bytes, {way:?}"), |v| {
            v.iter().all(|v| v.holders == 0)
        });
    }
}

#[test]
fn a_client_that_leaves_with_many_requests_pipelined_releases_its_session() {
    let herd = Herd::start("", "");
    for way in [Way::Close, Way::Reset] {
        let mut client = herd.connect();
        client.send("GET /silent HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
        client.send(&"GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n".repeat(1000));
        herd.until("one holder", |v| v.iter().any(|v| v.holders == 1));
        leave(client, way);
        herd.until(&format!("no holder, {way:?}"), |v| {
            v.iter().all(|v| v.holders == 0)
        });
    }
}

#[test]
fn a_body_that_waited_unread_arrives_whole() {
    let herd = Herd::start("", "    queue: {max: 9, timeout: 60s}");
    let mut held = herd.filled();
    let mut waiting: Vec<Client> = [100 << 10, 150 << 10, 300 << 10]
        .into_iter()
        .map(|length: usize| {
            let mut client = herd.connect();
            client.send(&format!(
                "POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: w\r\nContent-Length: {length}\r\n\r\n"
            ));
            client.reader.get_mut().write_all(&vec![7; length]).unwrap();
            client
        })
        .collect();
    herd.until("them in the queue", |_| herd.queued() == 1);
    held.pop();
    herd.stop("s3");
    for (client, length) in waiting.iter_mut().zip([100 << 10, 150 << 10, 300 << 10]) {
        assert_eq!(client.answer().text(), format!("{length} "));
    }
}

#[test]
fn who_does_not_read_for_long_has_not_left() {
    let herd = Herd::start("  dead_peer_timeout: 500ms", "");
    let mut client = herd.connect();
    client.send("GET /large HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    // All buffers on the way are full by then, and the client's kernel says no more than that it has no room.
    std::thread::sleep(Duration::from_secs(4));
    let body = client.read(32 << 20);
    assert!(body.iter().all(|byte| *byte == b'x'));
}
