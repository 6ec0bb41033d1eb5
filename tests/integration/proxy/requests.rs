//! What workers see of requests, and which worker sees them.

use super::*;

#[test]
fn routes_lead_to_their_kinds() {
    let kind = |name: &str, routes: &str| {
        format!("  {name}:\n    cmd: [WORKER, \"{{{{.Port}}}}\", kind={name}]\n    {routes}\n")
    };
    let herd = Herd::start(&format!(
        "{}{}{}",
        kind("first", ""),
        kind("by-path", "routes: [{path_prefix: /p}]"),
        kind("by-host", "routes: [{host: notes.example.com}]"),
    ));
    let ask = |id: &str, host: &str, path: &str| {
        let mut client = herd.client();
        client.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Session-ID: {id}\r\n\r\n"
        ));
        client.answer().good()
    };
    for (id, host, path, kind) in [
        ("a", "localhost", "/", "first"),
        ("b", "localhost", "/p/x?y=1", "by-path"),
        ("c", "Notes.Example.com:8080", "/p", "by-host"),
        ("d", "localhost", "/px", "first"),
    ] {
        let seen = ask(id, host, path);
        assert_eq!(seen["kind"], kind, "{host}{path}");
        assert_eq!(seen["target"], path, "the target is not changed");
    }
}

fn seen<'a>(answer: &'a Value, name: &str) -> Vec<&'a str> {
    let fields = answer["fields"].as_array().unwrap();
    fields
        .iter()
        .filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name))
        .map(|field| field[1].as_str().unwrap())
        .collect()
}

const FORWARDED: &str =
    "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: example.com\r\n";

#[test]
fn strangers_are_not_believed_about_whom_they_forward_for() {
    let herd = Herd::one("", "");
    let answer = herd.client().get_with("a", "/", FORWARDED).good();
    assert_eq!(seen(&answer, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen(&answer, "x-forwarded-proto"), ["http"]);
    assert_eq!(seen(&answer, "x-forwarded-host"), ["localhost"]);
}

#[test]
fn trusted_proxies_are_believed_about_whom_they_forward_for() {
    let herd = Herd::start_with(
        "network: { data_bind: 127.0.0.1:0, trusted_proxies: [127.0.0.0/8] }",
        &one("", ""),
    );
    let answer = herd.client().get_with("a", "/", FORWARDED).good();
    assert_eq!(seen(&answer, "x-forwarded-for"), ["1.1.1.1, 127.0.0.1"]);
    assert_eq!(seen(&answer, "x-forwarded-proto"), ["https"]);
    assert_eq!(seen(&answer, "x-forwarded-host"), ["example.com"]);
}

#[test]
fn the_workers_own_host_is_told_and_its_debugger_url_leads_through_herd() {
    let herd = Herd::one("", "host_header: worker");
    let address = herd.address().to_string();
    let mut client = herd.client();
    client.send(&format!(
        "GET /json/version HTTP/1.1\r\nHost: {address}\r\nX-Session-ID: a\r\n\r\n"
    ));
    let answer = client.answer().good();
    let own = answer["host"].as_str().unwrap();
    assert!(own.starts_with("127.0.0.1:") && own != address, "{answer}");
    assert_eq!(
        answer["webSocketDebuggerUrl"],
        format!("ws://{address}/devtools/browser/1")
    );
}

#[test]
fn the_clients_host_and_the_workers_answer_are_left_alone_by_default() {
    let herd = Herd::one("", "");
    let answer = herd.get("a", "/json/version").good();
    assert_eq!(answer["host"], "localhost");
    assert_eq!(
        answer["webSocketDebuggerUrl"],
        "ws://localhost/devtools/browser/1"
    );
}

#[test]
fn a_worker_can_listen_on_a_socket() {
    let herd = Herd::start("  w:\n    cmd: [WORKER, \"{{.Socket}}\"]\n    health_path: /health\n");
    let mut client = herd.client();
    let first = client.get("a", "/").good();
    assert_eq!(client.get("a", "/").good()["pid"], first["pid"]);
}

#[test]
fn a_plain_clients_connection_can_be_its_sessions_life() {
    let herd = Herd::one("", "bind: connection");
    let mut one = herd.client();
    let mut other = herd.client();
    one.get("a", "/").good();
    other.get("a", "/").good();
    drop(one);
    let still = other.get("a", "/");
    still.good();
    assert_eq!(still.field("x-herd-session-state"), "reused");
    drop(other);
    assert_eq!(herd.running.until("a", "ended")["reason"], "disconnected");
    let anew = herd.get("a", "/");
    anew.good();
    assert_eq!(anew.field("x-herd-session-state"), "created");
}
