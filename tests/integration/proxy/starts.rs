//! Workers that do not become ready as they should.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use super::*;

#[test]
fn a_missing_program_is_named() {
    let herd = Herd::start("  w:\n    cmd: [/no/such/program]\n");
    let problem = herd.get("a", "/").problem(502, "worker_start_failed");
    assert!(detail(&problem).contains("/no/such/program"), "{problem}");
    assert!(
        detail(&problem).to_lowercase().contains("no such file"),
        "{problem}"
    );
}

#[test]
fn a_worker_that_exits_at_once_is_quoted() {
    let herd =
        Herd::start("  w:\n    cmd: [sh, -c, \"echo first; echo cannot open the display >&2; exit 3\"]\n");
    let problem = herd.get("a", "/").problem(502, "worker_start_failed");
    assert!(detail(&problem).contains("exit status 3"), "{problem}");
    assert!(tail(&problem).contains("cannot open the display"), "{problem}");
    assert!(tail(&problem).contains("first"), "{problem}");
    let text = herd.client().get_with("b", "/", "Accept: text/plain\r\n");
    assert_eq!(
        (text.status, text.field("x-herd-error")),
        (502, "worker_start_failed")
    );
    let text = String::from_utf8(text.body).unwrap();
    assert!(text.contains("| cannot open the display\n"), "{text}");
}

#[test]
fn only_the_last_twenty_lines_are_quoted() {
    let herd = Herd::start(
        "  w:\n    cmd: [sh, -c, \"i=0; while [ $i -lt 50 ]; do echo line-$i-; i=$((i+1)); done; exit 1\"]\n",
    );
    let problem = herd.get("a", "/").problem(502, "worker_start_failed");
    let lines = problem["log_tail"].as_array().unwrap();
    assert_eq!(lines.len(), 20, "{problem}");
    assert!(
        tail(&problem).contains("line-30-") && tail(&problem).contains("line-49-"),
        "{problem}"
    );
}

#[test]
fn a_worker_that_never_listens_times_out() {
    let herd = Herd::one(", wait_for=/no/such/file", "start_timeout: 1500ms");
    let problem = herd.get("a", "/").problem(504, "worker_start_timeout");
    assert!(
        detail(&problem).contains("not ready within 1.5s; last probe: nothing listens on port "),
        "{problem}"
    );
    assert!(tail(&problem).contains("the worker has begun"), "{problem}");
}

#[test]
fn a_worker_that_listens_late_serves() {
    let herd = Herd::one(", wait_for=DIR/go", "start_timeout: 60s");
    let mut client = herd.client();
    client.send(&get("a", "/", ""));
    herd.running.until("a", "starting");
    std::fs::write(herd.path("go"), "").unwrap();
    let answer = client.answer();
    answer.good();
    assert_eq!(answer.field("x-herd-session-state"), "created");
}

#[test]
fn a_wrong_health_status_is_named() {
    let herd = Herd::one(
        ", health=500 Out of order",
        "health_path: /health\nstart_timeout: 1500ms",
    );
    let problem = herd.get("a", "/").problem(504, "worker_start_timeout");
    assert!(
        detail(&problem).contains("last probe: GET /health answered 500"),
        "{problem}"
    );
}

#[test]
fn a_stranger_on_the_port_gets_no_request() {
    let herd = Herd::one(", announce=DIR/port", "start_timeout: 60s");
    let mut client = herd.client();
    client.send(&get("a", "/", ""));
    let stranger = herd.stranger_on_the_port();
    let port = stranger.local_addr().unwrap().port();
    client.answer().good();
    let second = std::fs::read_to_string(herd.path("port")).unwrap();
    assert_ne!(second, port.to_string(), "the next worker has another port");
    stranger.set_nonblocking(true).unwrap();
    let visit = stranger.accept().map(|(_, from)| from);
    assert_eq!(
        visit.unwrap_err().kind(),
        io::ErrorKind::WouldBlock,
        "nobody knocked at the stranger's"
    );
}

#[test]
fn a_kind_that_keeps_failing_is_given_a_pause() {
    let herd = Herd::start("  w:\n    cmd: [sh, -c, \"exit 3\"]\n");
    let answer = poll("the kind is in backoff", || {
        let answer = herd.get("a", "/");
        match answer.field("x-herd-error") {
            "worker_start_failed" => Err(format!("{answer:?}")),
            _ => Ok(answer),
        }
    });
    let problem = answer.problem(503, "worker_backoff");
    assert!(
        answer.field("retry-after").parse::<u64>().unwrap() >= 1,
        "{answer:?}"
    );
    assert!(detail(&problem).contains("recent starts"), "{problem}");
}

#[test]
fn output_is_quoted_to_loopback_only() {
    let Some(own) = own_address() else {
        crate::skip::skipped("needs an address other than loopback");
        return;
    };
    let herd = Herd::start_with(
        "network: { data_bind: 0.0.0.0:0 }",
        "  w:\n    cmd: [sh, -c, \"echo a secret; exit 3\"]\n",
    );
    let port = herd.address().port();
    let far = Client::to(SocketAddr::new(own, port))
        .get("a", "/")
        .problem(502, "worker_start_failed");
    assert!(detail(&far).contains("exit status 3"), "{far}");
    assert!(!far.to_string().contains("a secret"), "{far}");
    let near = Client::to((Ipv4Addr::LOCALHOST, port).into())
        .get("a", "/")
        .problem(502, "worker_start_failed");
    assert!(tail(&near).contains("a secret"), "{near}");
}

#[test]
fn whom_a_proxy_on_this_host_speaks_for_is_not_loopback() {
    let worker = "  w:\n    cmd: [sh, -c, \"echo a secret; exit 3\"]\n  \
                  none:\n    cmd: [/srv/internal/server, \"{{.Port}}\"]\n";
    for trusted in ["", ", trusted_proxies: [127.0.0.1]"] {
        let herd = Herd::start_with(&format!("network: {{ data_bind: 127.0.0.1:0{trusted} }}"), worker);
        let ask = |id: &str, fields: &str| herd.client().get_with(id, "/", fields);
        let far = ask("a", "X-Forwarded-For: 203.0.113.9\r\n").problem(502, "worker_start_failed");
        assert!(detail(&far).contains("exit status 3"), "{far}");
        assert!(!far.to_string().contains("a secret"), "{far}");
        let fields = "X-Forwarded-For: 203.0.113.9\r\nX-Herd-Worker: none\r\n";
        let far = ask("b", fields).problem(502, "worker_start_failed");
        assert_eq!(detail(&far), "the worker's program could not be run");
    }
}

/// An address of this host that is not loopback: connections to it come from it.
fn own_address() -> Option<IpAddr> {
    // Connecting a datagram socket chooses a route and sends nothing; the address is documentation's own.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback()).then_some(ip)
}
