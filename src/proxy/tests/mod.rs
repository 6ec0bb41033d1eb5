//! The whole data plane over real sockets, with the real driver and fake workers.

mod access;
mod balancer;
mod bulk;
mod fake;
mod http2;
mod leaving;
mod tls;

use crate::core::EndReason;
use crate::driver::SessionState;
use fake::Herd;

fn herd() -> Herd {
    Herd::start("", "")
}

const WS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn the_first_request_creates_a_session_and_the_next_reuses_it() {
    let herd = herd();
    let first = herd.get("/worker", "");
    assert_eq!(first.status(), 200, "{first:?}");
    assert_eq!(first.field("x-herd-session-state"), Some("created"));
    assert_eq!(first.field("x-session-id"), Some("s"));
    assert!(
        first.field("server-timing").unwrap().contains("start;dur="),
        "{first:?}"
    );
    assert_eq!(
        first.code(),
        "",
        "a worker's answer never carries a code of herd's"
    );
    let second = herd.get("/worker", "");
    assert_eq!(second.field("x-herd-session-state"), Some("reused"));
    assert_eq!(second.body, first.body);
    assert_eq!(herd.starts(), 1);
}

#[test]
fn five_hundred_requests_at_once_for_a_new_id_start_one_worker() {
    let herd = herd();
    let mut clients: Vec<_> = (0..500).map(|_| herd.connect()).collect();
    for client in &mut clients {
        client.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    }
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text()), (200, "w1"), "{answer:?}");
    }
    assert_eq!(herd.starts(), 1);
}

#[test]
fn ids_are_refused_with_their_own_codes() {
    let herd = herd();
    for (fields, status, code) in [
        ("", 400, "session_id_required"),
        ("X-Session-ID: a b\r\n", 400, "session_id_invalid"),
        (
            "X-Session-ID: a\r\nX-Session-ID: a\r\n",
            400,
            "session_id_conflict",
        ),
        (
            "X-Session-ID: a\r\nX_Session_ID: a\r\n",
            400,
            "session_id_conflict",
        ),
        (
            "X-Session-ID: a\r\nX-Herd-Worker: nope\r\n",
            404,
            "unknown_worker",
        ),
    ] {
        let mut client = herd.connect();
        client.send(&format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.code()), (status, code), "{fields:?}");
    }
    assert_eq!(herd.starts(), 0);
}

#[test]
fn smuggling_attempts_are_refused_and_the_connection_closed() {
    let herd = herd();
    for fields in [
        "Host: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Host: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        "Host: h\r\nTransfer-Encoding: identity, chunked\r\n",
        "Host: h\r\nHost: h\r\n",
        "",
        "Host: h\r\nX: 1\r\n folded\r\n",
    ] {
        let mut client = herd.connect();
        client.send(&format!(
            "POST /count HTTP/1.1\r\nX-Session-ID: s\r\n{fields}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!(
            (answer.status(), answer.code()),
            (400, "bad_request"),
            "{fields:?}"
        );
        client.shutdown_write();
        assert_eq!(
            client.rest().unwrap(),
            b"",
            "nothing may follow the refusal of {fields:?}"
        );
    }
    let mut client = herd.connect();
    client.send("GET http://other/ HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert_eq!(client.answer().code(), "bad_request");
    assert_eq!(herd.starts(), 0);
}

#[test]
fn a_target_that_is_only_a_fragment_is_the_root() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("GET http://h#part HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    let answer = client.answer();
    assert!(answer.text().starts_with("GET / HTTP/1.1\r\n"), "{answer:?}");
}

#[test]
fn a_refusal_after_a_good_request_leaves_the_good_one_alone() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\nGET /worker HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
    assert_eq!(client.answer().code(), "bad_request");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let herd = herd();
    let mut client = herd.connect();
    client.send(
        &"POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nContent-Length: 3\r\n\r\nabc".repeat(20),
    );
    for _ in 0..20 {
        assert_eq!(client.answer().text(), "3 ");
    }
}

#[test]
fn a_header_flood_is_refused() {
    let herd = herd();
    let mut client = herd.connect();
    let flood: String = (0..5000).map(|i| format!("X-{i}: 1\r\n")).collect();
    client.send(&format!("GET / HTTP/1.1\r\nHost: h\r\n{flood}\r\n"));
    let answer = client.answer();
    assert_eq!(
        (answer.status(), answer.code()),
        (431, "request_header_too_large")
    );
}

#[test]
fn a_head_that_never_ends_times_out() {
    let herd = Herd::start("  header_timeout: 300ms", "");
    let mut client = herd.connect();
    client.send("GET / HTTP/1.1\r\nHost:");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.code()), (408, "request_timeout"));
    let mut silent = herd.connect();
    assert_eq!(
        silent.rest().unwrap(),
        b"",
        "a connection that says nothing is closed without a word"
    );
}

#[test]
fn the_worker_sees_a_clean_request() {
    let herd = herd();
    let answer = herd.get(
        "/head?a=1",
        "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nX-Herd-Wait: 0\r\nTE: trailers\r\nX-Forwarded-For: 1.1.1.1\r\nAccept: a\r\n",
    );
    let seen = answer.text().to_ascii_lowercase();
    assert!(seen.starts_with("get /head?a=1 http/1.1\r\n"), "{seen}");
    for gone in ["x-mine", "x-herd", "keep-alive", "1.1.1.1"] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    for there in [
        "host: h\r\n",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "accept: a",
    ] {
        assert!(seen.contains(there), "{there} missing in {seen}");
    }
}

#[test]
fn trailers_pass_both_ways() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nTransfer-Encoding: chunked\r\nTrailer: X-Up\r\n\r\n2\r\nhi\r\n0\r\nX-Up: 1\r\n\r\n");
    let answer = client.answer();
    assert!(
        answer.text().to_ascii_lowercase().starts_with("2 x-up: 1"),
        "{answer:?}"
    );
    let answer = herd.get("/trailers", "TE: trailers\r\n");
    assert_eq!(answer.text(), "hi");
    assert_eq!(answer.trailers.to_ascii_lowercase(), "x-sum: 7\r\n\r\n");
}

#[test]
fn a_client_is_told_to_continue_only_when_the_worker_wants_the_body() {
    let herd = herd();
    let mut client = herd.connect();
    let expect = "Host: h\r\nX-Session-ID: s\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.send(&format!("POST /ask HTTP/1.1\r\n{expect}"));
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("hi");
    assert_eq!(client.answer().text(), "hi");
    let mut client = herd.connect();
    client.send(&format!("POST /decline HTTP/1.1\r\n{expect}"));
    assert_eq!(client.answer().status(), 417);
}

#[test]
fn large_bodies_pass_both_ways() {
    let herd = herd();
    let answer = herd.get("/large", "");
    assert_eq!(answer.body.len(), 32 << 20);
    let mut client = herd.connect();
    client.send(&format!(
        "POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nContent-Length: {}\r\n\r\n",
        32 << 20
    ));
    client.send(&"x".repeat(32 << 20));
    assert_eq!(client.answer().text(), format!("{} ", 32 << 20));
}

#[test]
fn events_arrive_while_the_answer_is_open() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("GET /events HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    assert_eq!(client.read(14), b"9\r\ndata: 1\n\n\r\n");
}

#[test]
fn a_crash_is_told_from_a_worker_that_hung_up() {
    let herd = herd();
    let answer = herd.get("/hang-up", "");
    assert_eq!((answer.status(), answer.code()), (502, "worker_connection_lost"));
    let answer = herd.get("/garbage", "");
    assert_eq!((answer.status(), answer.code()), (502, "worker_answer_invalid"));
    let answer = herd.get("/crash", "");
    assert_eq!((answer.status(), answer.code()), (502, "worker_crashed"));
    let answer = herd.get("/worker", "");
    assert_eq!((answer.status(), answer.code()), (410, "session_lost"));
    let answer = herd.get("/worker", "X-Herd-Session: new\r\n");
    assert_eq!(
        (answer.status(), answer.field("x-herd-session-state")),
        (200, Some("created"))
    );
}

#[test]
fn a_broken_answer_never_ends_cleanly() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("GET /until-close HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert_eq!(client.answer().text(), "whole");
    client.send("GET /crash-at-close HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert!(
        client.try_answer().is_err(),
        "the end of a crashed worker's answer looked clean"
    );
}

#[test]
fn a_session_stopped_under_way_says_so() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("GET /silent HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    herd.until("one holder", |v| v.iter().any(|v| v.holders == 1));
    herd.stop("s");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.code()), (503, "session_ended"));
}

#[test]
fn a_client_that_leaves_releases_its_session_at_once() {
    let herd = herd();
    let mut client = herd.connect();
    client.send("GET /silent HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\nGET /pipelined HTTP/1.1\r\n");
    herd.until("one holder", |v| v.iter().any(|v| v.holders == 1));
    drop(client);
    herd.until("no holder", |v| v.iter().all(|v| v.holders == 0));
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let herd = Herd::start("", "    queue: {max: 1, timeout: 20s}");
    let _held = herd.filled();
    let mut waiting = herd.connect();
    waiting.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: w\r\n\r\n");
    herd.until("one in the queue", |_| herd.queued() == 1);
    let full = herd.get("/worker", "");
    assert_eq!((full.status(), full.code()), (503, "at_capacity"));
    assert!(full.field("retry-after").is_some(), "{full:?}");
    drop(waiting);
    herd.until("none in the queue", |_| herd.queued() == 0);
}

#[test]
fn a_client_that_leaves_the_queue_with_an_unread_body_frees_its_place() {
    let herd = Herd::start("", "    queue: {max: 9, timeout: 20s}");
    let mut held = herd.filled();
    let mut whole = herd.connect();
    whole.send("POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: w\r\nContent-Length: 2\r\n\r\nhi");
    let mut part = herd.connect();
    part.send(
        "POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: p\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    );
    herd.until("two in the queue", |_| herd.queued() == 2);
    drop(part);
    herd.until("one in the queue", |_| herd.queued() == 1);
    // A body that was read ahead arrives whole.
    held.pop();
    herd.stop("s3");
    assert_eq!(whole.answer().text(), "2 ");
}

#[test]
fn no_more_connections_are_accepted_than_allowed() {
    let herd = Herd::start("  max_connections: 2", "");
    let mut first = herd.connect();
    let mut second = herd.connect();
    for client in [&mut first, &mut second] {
        client.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
        assert_eq!(client.answer().status(), 200);
    }
    let mut third = herd.connect();
    third.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    let socket = third.reader.get_ref();
    socket
        .set_read_timeout(Some(std::time::Duration::from_millis(50)))
        .unwrap();
    assert!(socket.peek(&mut [0]).is_err(), "the third connection was served");
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    drop(first);
    assert_eq!(third.answer().status(), 200);
}

#[test]
fn a_websocket_is_tunnelled_and_its_end_ends_the_session() {
    let herd = herd();
    let mut client = herd.connect();
    client.send(&format!(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{WS}\r\nearly"
    ));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(fake::field(&head, "upgrade"), Some("websocket"));
    assert_eq!(fake::field(&head, "x-herd-session-state"), Some("created"));
    assert_eq!(client.read(5), b"early");
    client.send("hello");
    assert_eq!(client.read(5), b"hello");
    herd.until("one stream", |v| {
        v.iter().any(|v| v.streams == 1 && v.holders == 1)
    });
    drop(client);
    herd.until("the end", |v| v.iter().all(|v| v.ended.is_some()));
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let herd = herd();
    let answer = herd.get("/nothing", WS);
    assert_eq!((answer.status(), answer.code()), (404, ""));
}

/// Whatever the configuration has named it, and whichever way it is spelled.
#[test]
fn a_trailer_names_no_session() {
    let herd = Herd::start_with("", "", "session: {header: X-Run, aliases: [Mcp-Session-Id]}");
    let mut client = herd.connect();
    client.send(
        "POST /count HTTP/1.1\r\nHost: h\r\nX-Run: s\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Sum, X-Run, X_Run, Mcp-Session-Id, X_Forwarded_For\r\n\r\n0\r\nX-Sum: 7\r\n\
         X-Run: other\r\nX_Run: other\r\nMcp-Session-Id: other\r\nX_Forwarded_For: 1.1.1.1\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(answer.text().trim_end(), "0 x-sum: 7");
    client.send("GET /trailers HTTP/1.1\r\nHost: h\r\nX-Run: s\r\nTE: trailers\r\n\r\n");
    // Named otherwise, it is one of the worker's.
    assert!(client.answer().trailers.contains("x-session-id"));
}

#[test]
fn only_a_101_for_what_was_asked_opens_a_tunnel() {
    let herd = herd();
    let ws = WS.replace("Upgrade: websocket", "Upgrade: h3, WebSocket");
    let no_key = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let raw = "Connection: Upgrade\r\nUpgrade: raw\r\n";
    let right = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let wrong = "Sec-WebSocket-Accept: AAAALMBiTxaQ9kYGzzhZRbK+xOo=";
    for (asked, answered, opens) in [
        (WS, format!("Upgrade: websocket|{right}"), true),
        (WS, format!("Upgrade: WebSocket|{right}"), true),
        (&*ws, format!("Upgrade: websocket|{right}"), true),
        (raw, "Upgrade: RAW".to_owned(), true),
        (no_key, "Upgrade: websocket".to_owned(), true),
        (WS, format!("Upgrade: websocket|{wrong}"), false),
        (WS, "Upgrade: websocket".to_owned(), false),
        (WS, format!("Upgrade: websocket|{right}|{wrong}"), false),
        (WS, right.to_owned(), false),
        (WS, format!("Upgrade: raw|{right}"), false),
        (WS, format!("Upgrade: websocket, raw|{right}"), false),
        (
            WS,
            format!("Upgrade: websocket|Upgrade: websocket|{right}"),
            false,
        ),
        (raw, format!("Upgrade: websocket|{right}"), false),
        (raw, "Upgrade: ".to_owned(), false),
        (&*raw.replace("raw", "raw,"), "Upgrade: ".to_owned(), false),
    ] {
        let mut client = herd.connect();
        client.send(&format!(
            "GET /switch HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nX-Answer: Connection: upgrade|{answered}\r\n{asked}\r\n"
        ));
        let head = client.head();
        if opens {
            assert!(head.starts_with("HTTP/1.1 101"), "{asked} {answered}: {head}");
            assert_eq!(client.read(7), b"through");
        } else {
            let code = fake::field(&head, "x-herd-error");
            assert_eq!(code, Some("worker_answer_invalid"), "{asked} {answered}: {head}");
        }
    }
}

/// Nothing had upgraded yet, so no stream ever closed; the worker would stay until the ttl.
#[test]
fn a_client_that_dies_during_its_handshake_takes_its_session_along() {
    let herd = herd();
    let mut client = herd.connect();
    client.send(&format!(
        "GET /silent HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{WS}\r\n"
    ));
    herd.until("a session under way", |v| v.iter().any(|v| v.holders == 1));
    drop(client);
    herd.until("its end", |v| {
        v.iter()
            .all(|v| v.state == SessionState::Ended(EndReason::Disconnected))
    });
}

#[test]
fn a_crash_closes_a_websocket_with_1011() {
    let herd = herd();
    let mut client = herd.connect();
    client.send(&format!(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{WS}\r\n"
    ));
    client.head();
    client.send("\u{2}\u{5}hello");
    assert_eq!(client.read(7), b"\x02\x05hello");
    client.send("crash");
    assert_eq!(client.read(4), [0x88, 2 + 18, 0x03, 0xf3]);
}

#[test]
fn a_stop_closes_a_websocket_with_1001() {
    let herd = herd();
    let mut client = herd.connect();
    client.send(&format!(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{WS}\r\n"
    ));
    client.head();
    herd.stop("s");
    let close = client.read(4);
    assert_eq!((close[0], &close[2..]), (0x88, &[0x03, 0xe9][..]));
}

#[test]
fn what_is_open_is_cut_where_the_worker_outlives_its_session() {
    let herd = Herd::start("", "    reuse: true");
    let mut events = herd.connect();
    events.send("GET /events HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    events.head();
    events.read(14);
    let mut silent = herd.connect();
    silent.send("GET /silent HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    let mut socket = herd.connect();
    socket.send(&format!(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{WS}\r\n"
    ));
    socket.head();
    herd.until("three holders", |v| v.iter().any(|v| v.holders == 3));
    herd.stop("s");
    assert_eq!(silent.answer().code(), "session_ended");
    let close = socket.read(4);
    assert_eq!((close[0], &close[2..]), (0x88, &[0x03, 0xe9][..]));
    let rest = events.rest();
    assert!(
        !matches!(&rest, Ok(bytes) if bytes.ends_with(b"0\r\n\r\n")),
        "the cut answer ended cleanly: {rest:?}"
    );
}

#[test]
fn another_protocol_keeps_its_half_close() {
    let herd = herd();
    let mut client = herd.connect();
    client.send(
        "GET /echo HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n",
    );
    assert!(client.head().starts_with("HTTP/1.1 101"));
    client.send("x");
    client.shutdown_write();
    assert_eq!(client.rest().unwrap(), b"xbye");
}

#[test]
fn a_connection_holds_its_session_where_the_kind_says_so() {
    let herd = Herd::start("", "    bind: connection");
    let mut client = herd.connect();
    client.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
    herd.until("the connection's hold", |v| v.iter().any(|v| v.holders == 1));
    drop(client);
    herd.until("the end", |v| v.iter().all(|v| v.ended.is_some()));
}

#[test]
fn a_second_listener_on_the_address_is_refused() {
    let herd = herd();
    let text = format!(
        "network: {{data_bind: \"{}\"}}\nworkers: {{a: {{cmd: [a, \"{{{{.Port}}}}\"]}}}}\n",
        herd.addr
    );
    let config = crate::config::parse(&text, "herd.yaml").unwrap();
    let error = super::Server::bind(&config).unwrap_err().to_string();
    assert!(
        error.contains(&herd.addr.to_string()) && error.contains("in use"),
        "{error}"
    );
}

#[test]
fn finishing_waits_for_what_is_open_and_closes_what_idles() {
    let mut herd = herd();
    let mut idle = herd.connect();
    idle.send("GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert_eq!(idle.answer().status(), 200);
    let mut open = herd.connect();
    open.send("POST /count HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\nContent-Length: 2\r\n\r\na");
    herd.until("one holder", |v| v.iter().any(|v| v.holders == 1));
    let proxy = herd.proxy();
    proxy.stop_accepting();
    assert_eq!(idle.rest().unwrap(), b"", "the idle connection was to be closed");
    open.send("b");
    assert_eq!(open.answer().text(), "2 ");
    Herd::block_on(async {
        proxy
            .finish(tokio::time::Instant::now() + std::time::Duration::from_secs(20))
            .await
    });
}

#[test]
fn a_request_that_has_begun_is_answered_before_the_end() {
    let mut herd = herd();
    let mut begun: Vec<_> = (0..10).map(|_| herd.connect()).collect();
    for client in &mut begun {
        client.send("GET /worker HTTP/1.1\r\nHo");
    }
    // Accepted after the others.
    assert_eq!(herd.get("/worker", "").status(), 200);
    let proxy = herd.proxy();
    proxy.stop_accepting();
    for client in &mut begun {
        client.send("st: h\r\nX-Session-ID: s\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.text(), "w1", "{answer:?}");
        assert_eq!(client.rest().unwrap(), b"", "nothing follows it");
    }
    Herd::block_on(async {
        proxy
            .finish(tokio::time::Instant::now() + std::time::Duration::from_secs(20))
            .await
    });
}

#[test]
fn an_answer_that_breaks_off_does_not_look_whole_to_http_1_0() {
    let herd = herd();
    for (number, path) in ["/crash-mid-body", "/crash-at-close"].into_iter().enumerate() {
        let mut client = herd.connect();
        client.send(&format!("GET {path} HTTP/1.0\r\nX-Session-ID: s{number}\r\n\r\n"));
        let answer = client.try_answer();
        match path {
            // Its length tells.
            "/crash-mid-body" => assert!(answer.is_err(), "{answer:?}"),
            _ => assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    let mut client = herd.connect();
    client.send("GET /until-close HTTP/1.0\r\nX-Session-ID: whole\r\n\r\n");
    assert_eq!(client.answer().text(), "whole");
}

#[test]
fn an_answer_that_breaks_off_before_it_can_be_rewritten_is_an_error_as_any_other() {
    let herd = Herd::start("", "    host_header: worker");
    let answer = herd.get("/json-cut", "Accept: text/plain\r\n");
    assert_eq!(
        (answer.status(), answer.code()),
        (502, "worker_connection_lost"),
        "{answer:?}"
    );
    assert_eq!(answer.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.field("x-session-id"), Some("s"));
    assert!(
        answer
            .text()
            .contains("the worker lives, but its answer broke off"),
        "{answer:?}"
    );
    let answer = herd.get("/json-crash", "");
    assert_eq!(
        (answer.status(), answer.code()),
        (502, "worker_crashed"),
        "{answer:?}"
    );
}

#[test]
fn a_host_that_is_none_is_refused() {
    let herd = herd();
    for host in ["bad host", "user@h", "h/path", "h?x", "h\\x", "h\u{e4}"] {
        let mut client = herd.connect();
        client.send(&format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nX-Session-ID: s\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!(
            (answer.status(), answer.code()),
            (400, "bad_request"),
            "{host}: {answer:?}"
        );
    }
    assert_eq!(herd.starts(), 0);
    for host in ["h", "", "h:80", "[::1]:80", "a-b_c.example."] {
        let mut client = herd.connect();
        client.send(&format!(
            "GET /head HTTP/1.1\r\nHost: {host}\r\nX-Session-ID: s\r\n\r\n"
        ));
        assert_eq!(client.answer().status(), 200, "{host}");
    }
}
