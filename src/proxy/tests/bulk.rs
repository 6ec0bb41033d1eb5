//! Tunnels that carry more than a buffer's worth: spliced where that pays, exact everywhere.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::WS;
use super::fake::{Client, Herd};

const RAW: &str = "Connection: upgrade\r\nUpgrade: raw\r\n";

fn tunnel(herd: &Herd, upgrade: &str) -> Client {
    let mut client = herd.connect();
    client.send(&format!(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{upgrade}\r\n"
    ));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client
}

/// 251 is prime, so no shift by a buffer's size goes unnoticed.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i % 251) as u8).collect()
}

/// Sends `head` and `len` bytes of the pattern, and reads them back meanwhile in pieces of odd sizes.
fn echo(client: &mut Client, head: &[u8], len: usize) {
    const PIECE: usize = 1 << 20;
    let mut socket = client.reader.get_ref().try_clone().unwrap();
    let sent = head.to_vec();
    let sender = std::thread::spawn(move || {
        socket.write_all(&sent).unwrap();
        for from in (0..len).step_by(PIECE) {
            socket.write_all(&pattern(from, PIECE.min(len - from))).unwrap();
        }
    });
    assert_eq!(client.read(head.len()), head);
    let mut got = 0;
    let mut buffer = vec![0; 100_003];
    while got < len {
        let odd = (1 + got % 100_003).min(len - got);
        let n = client.reader.read(&mut buffer[..odd]).unwrap();
        assert!(n > 0, "the tunnel ended after {got} of {len} bytes");
        assert!(buffer[..n] == pattern(got, n), "other bytes after {got}");
        got += n;
    }
    sender.join().unwrap();
}

fn frame_head(len: usize) -> Vec<u8> {
    let mut head = vec![0x82, 127];
    head.extend_from_slice(&(len as u64).to_be_bytes());
    head
}

#[test]
fn bulk_passes_both_ways_exactly_and_its_half_close_after_it() {
    let herd = Herd::start("", "");
    let mut client = tunnel(&herd, RAW);
    echo(&mut client, b"", 64 << 20);
    client.send("x");
    client.shutdown_write();
    assert_eq!(client.rest().unwrap(), b"xbye");
}

#[test]
fn bulk_that_comes_before_the_upgrade_is_decided_passes() {
    let herd = Herd::start("", "");
    let mut client = herd.connect();
    client.send(&format!(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{RAW}\r\n"
    ));
    let early = pattern(0, 100_000);
    client.reader.get_mut().write_all(&early).unwrap();
    assert!(client.head().starts_with("HTTP/1.1 101"));
    assert!(
        client.read(early.len()) == early,
        "other bytes than were sent early"
    );
}

#[test]
fn a_crash_after_large_frames_closes_the_websocket_at_the_boundary() {
    let herd = Herd::start("", "");
    let mut client = tunnel(&herd, WS);
    for len in [8 << 20, 1_000_003, 5, 16 << 20] {
        echo(&mut client, &frame_head(len), len);
    }
    client.send("crash");
    assert_eq!(client.read(4), [0x88, 2 + 18, 0x03, 0xf3]);
    assert_eq!(client.rest().unwrap(), b"the worker crashed");
}

#[test]
fn a_crash_inside_a_large_frame_never_looks_like_a_clean_end() {
    let herd = Herd::start("", "");
    let mut client = tunnel(&herd, WS);
    client.send(std::str::from_utf8(&[2, 127, 0, 0, 0, 0, 2, 0, 0, 0]).unwrap());
    client.read(10);
    echo(&mut client, b"", 16 << 20);
    client.send("crash");
    let error = client.rest().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_leaves_amid_bulk_it_does_not_read_ends_the_session() {
    let herd = Herd::start("", "");
    let client = tunnel(&herd, WS);
    client.reader.get_ref().write_all(&frame_head(1 << 30)).unwrap();
    flood(client.reader.get_ref());
    drop(client);
    herd.until("the end", |v| v.iter().all(|v| v.ended.is_some()));
}

/// Writes until neither the sockets nor herd nor the worker take any more.
fn flood(mut socket: &TcpStream) {
    socket
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let piece = vec![7; 1 << 20];
    while socket.write_all(&piece).is_ok() {}
}
