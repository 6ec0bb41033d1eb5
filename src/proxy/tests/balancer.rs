//! Connections that a balancer passes on with the PROXY protocol.

use std::io::Write as _;
use std::net::SocketAddr;

use ppp::v2::{Builder, Command, Protocol, Version};

use super::fake::Herd;

const ON: &str = "  proxy_protocol: required\n  trusted_proxies: [127.0.0.0/8]\n";

fn announcement(command: Command, client: &str) -> Vec<u8> {
    let (client, server): (SocketAddr, SocketAddr) =
        (client.parse().unwrap(), "127.0.0.1:80".parse().unwrap());
    Builder::with_addresses(Version::Two | command, Protocol::Stream, (client, server))
        .build()
        .unwrap()
}

/// What the worker was told, of a request after these bytes.
fn forwarded_for(herd: &Herd, before: &[u8], fields: &str) -> String {
    let mut client = herd.connect();
    client.reader.get_mut().write_all(before).unwrap();
    client.send(&format!(
        "GET /head HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{fields}\r\n"
    ));
    let answer = client.answer();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let told = answer.text().to_ascii_lowercase();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("x-forwarded-for: "));
    line.unwrap().to_owned()
}

#[test]
fn the_client_is_whom_the_balancer_names() {
    let herd = Herd::start(ON, "");
    let named = announcement(Command::Proxy, "192.0.2.7:4000");
    assert_eq!(forwarded_for(&herd, &named, ""), "192.0.2.7");
    let claim = "X-Forwarded-For: 10.0.0.1\r\n";
    assert_eq!(
        forwarded_for(&herd, &named, claim),
        "192.0.2.7",
        "the client itself is no trusted proxy"
    );
    let proxy = announcement(Command::Proxy, "127.0.0.9:4000");
    assert_eq!(forwarded_for(&herd, &proxy, claim), "10.0.0.1, 127.0.0.9");
    let own = announcement(Command::Local, "192.0.2.7:4000");
    assert_eq!(forwarded_for(&herd, &own, ""), "127.0.0.1");
}

#[test]
fn a_connection_without_the_head_or_from_elsewhere_is_closed() {
    let herd = Herd::start(ON, "");
    let mut client = herd.connect();
    client.send("GET /head HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert_eq!(client.rest().unwrap_or_default(), b"");
    let herd = Herd::start(
        "  proxy_protocol: required\n  trusted_proxies: [192.0.2.0/24]\n",
        "",
    );
    let mut client = herd.connect();
    // It may have been closed before this is written.
    let _ = client
        .reader
        .get_mut()
        .write_all(&announcement(Command::Proxy, "192.0.2.7:4000"));
    assert_eq!(client.rest().unwrap_or_default(), b"");
    assert_eq!(herd.starts(), 0);
}

#[test]
fn an_open_port_does_not_listen_to_the_head() {
    let herd = Herd::start("", "");
    let mut client = herd.connect();
    client
        .reader
        .get_mut()
        .write_all(&announcement(Command::Proxy, "192.0.2.7:4000"))
        .unwrap();
    client.send("GET /head HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n\r\n");
    assert_eq!(client.answer().status(), 400);
    assert_eq!(herd.starts(), 0);
}
