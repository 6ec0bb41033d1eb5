//! Keys, tokens, quotas and origins on the data plane.

use std::time::Duration;

use super::WS;
use super::fake::{Answer, Herd};
use crate::core::{HolderKind, KindId, SessionId};
use crate::driver::{Among, KindChoice, Remains, Request, Wait};

const ALICE: &str = "herd_alice_0123456789";
const BOB: &str = "herd_bob_0123456789";

/// With two keys; `alice` and `bob` are further settings of each.
fn herd(network: &str, alice: &str, bob: &str) -> Herd {
    let digest = |key: &str| {
        let digest = crate::access::keys::digest_of(key);
        data_encoding::HEXLOWER.encode(&digest)
    };
    let other =
        "  other:\n    cmd: [\"fake\", \"{{.Socket}}\"]\n  last:\n    cmd: [\"fake\", \"{{.Socket}}\"]\n";
    let auth = format!(
        "auth:\n  keys:\n    alice: {{sha256: {}{alice}}}\n    bob: {{sha256: {}{bob}}}\n",
        digest(ALICE),
        digest(BOB)
    );
    Herd::start_with(network, other, &auth)
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

fn ask(herd: &Herd, path: &str, fields: &str) -> Answer {
    let mut client = herd.connect();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
    client.answer()
}

/// Each asks for session `s`.
fn ask_s(herd: &Herd, path: &str, fields: &str) -> Answer {
    ask(herd, path, &format!("X-Session-ID: s\r\n{fields}"))
}

fn token(herd: &Herd, session: &str, worker: Option<&str>) -> String {
    let session = SessionId::parse(session.as_bytes()).unwrap();
    let access = herd.access.as_ref().unwrap();
    let hour = Duration::from_secs(3600);
    access.mint(session, worker.map(str::to_owned), hour).0
}

#[test]
fn the_same_id_of_two_principals_is_two_sessions() {
    let herd = herd("", "", "");
    let alice = ask_s(&herd, "/worker", &bearer(ALICE));
    let bob = ask_s(&herd, "/worker", &bearer(BOB));
    assert_eq!((alice.status(), bob.status()), (200, 200));
    assert_eq!(alice.field("x-session-id"), Some("s"), "as the client knows it");
    assert_eq!(bob.field("x-herd-session-state"), Some("created"));
    assert_ne!(alice.text(), bob.text());
    let again = ask_s(&herd, "/worker", &format!("X-Herd-Key: {ALICE}\r\n"));
    assert_eq!(again.field("x-herd-session-state"), Some("reused"));
    assert_eq!(again.text(), alice.text());
    assert_eq!(herd.starts(), 2);
}

#[test]
fn without_a_known_key_nothing_is_told_and_nothing_started() {
    let herd = herd("", "", "");
    for (fields, code, challenge) in [
        (String::new(), "unauthorized", "Bearer realm=\"herd\""),
        (
            bearer("herd_nobody_0123456789"),
            "unauthorized",
            "Bearer realm=\"herd\"",
        ),
        (bearer(""), "unauthorized", "Bearer realm=\"herd\""),
        (
            format!("Authorization: Basic {ALICE}\r\n"),
            "unauthorized",
            "Bearer realm=\"herd\"",
        ),
        (
            format!("X-Herd-Key: herd_nobody\r\n{}", bearer(ALICE)),
            "unauthorized",
            "Bearer realm=\"herd\"",
        ),
        (
            bearer("herd1.YQ.Yg"),
            "token_invalid",
            "Bearer realm=\"herd\", error=\"invalid_token\"",
        ),
        (
            "Cookie: herd_token=x\r\n".to_owned(),
            "token_invalid",
            "Bearer realm=\"herd\", error=\"invalid_token\"",
        ),
    ] {
        // Not even what is wrong with the rest.
        let answer = ask(&herd, "/", &format!("X-Herd-Worker: nope\r\n{fields}"));
        assert_eq!((answer.status(), answer.code()), (401, code), "{fields}");
        assert_eq!(answer.field("www-authenticate"), Some(challenge));
    }
    for fields in [
        format!("{}{}", bearer(ALICE), bearer(ALICE)),
        format!("X-Herd-Key: {ALICE}\r\nX-Herd-Key: {ALICE}\r\n"),
    ] {
        let answer = ask_s(&herd, "/", &fields);
        assert_eq!((answer.status(), answer.code()), (400, "bad_request"));
    }
    let upgrade = ask_s(&herd, "/echo", WS);
    assert_eq!(upgrade.code(), "unauthorized");
    assert_eq!(herd.starts(), 0);
}

#[test]
fn a_worker_sees_its_own_authorization_and_none_of_herds_credentials() {
    let herd = herd("", "", "");
    let token = token(&herd, "alice/s", None);
    for (path, fields) in [
        ("/head?x=1", bearer(ALICE)),
        ("/head?x=1", format!("X-Herd-Key: {ALICE}\r\n")),
        ("/head?x=1", format!("X-Herd-Key: {ALICE}\r\n{}", bearer(BOB))),
        (
            "/head?x=1",
            format!("Connection: Authorization, X-Herd-Key\r\n{}", bearer(ALICE)),
        ),
        ("/head?x=1", bearer(&token)),
        ("/head?x=1", format!("Cookie: a=1; herd_token={token}; b=2\r\n")),
        (&format!("/head?herd_token={token}&x=1"), String::new()),
        (
            &format!("/head?x=1&herd_token={token}"),
            format!("{}Cookie: herd_token={token}\r\n", bearer(ALICE)),
        ),
    ] {
        let answer = ask_s(&herd, path, &fields);
        assert_eq!(answer.status(), 200, "{path} {fields} {answer:?}");
        let seen = answer.text();
        assert!(seen.starts_with("GET /head?x=1 HTTP/1.1"), "{seen}");
        for secret in [ALICE, BOB, &token, "herd_token", "uthorization:"] {
            assert!(!seen.contains(secret), "{secret} in {seen}");
        }
        assert!(!fields.contains("a=1") || seen.contains("a=1; b=2"), "{seen}");
    }
    let own = format!("Authorization: Basic eDp5\r\nX-Herd-Key: {ALICE}\r\n");
    assert!(ask_s(&herd, "/head", &own).text().contains("Basic eDp5"));
    let own = format!("Authorization: Bearer the-workers\r\nCookie: herd_token={token}\r\n");
    assert!(ask_s(&herd, "/head", &own).text().contains("Bearer the-workers"));
    assert_eq!(herd.starts(), 1, "all of them alice's s");
}

#[test]
fn a_key_opens_the_kinds_it_may_and_begins_with_the_first_of_them() {
    let herd = herd("", ", workers: [other]", ", workers: [fake, other]");
    let named = |kind: &str| format!("X-Herd-Worker: {kind}\r\n");
    let refused = ask_s(&herd, "/", &format!("{}{}", bearer(ALICE), named("fake")));
    assert_eq!((refused.status(), refused.code()), (403, "worker_not_allowed"));
    assert_eq!(herd.starts(), 0);
    assert_eq!(ask_s(&herd, "/worker", &bearer(ALICE)).status(), 200);
    let kinds = |herd: &Herd| {
        let views = Herd::block_on(herd.handle.list(Among::Live)).unwrap();
        views.into_iter().map(|view| view.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&herd), ["other"]);
    let mismatch = ask_s(&herd, "/", &format!("{}{}", bearer(BOB), named("other")));
    assert_eq!(mismatch.status(), 200, "bob's s is another");
    let mismatch = ask_s(&herd, "/", &format!("{}{}", bearer(BOB), named("fake")));
    assert_eq!(mismatch.code(), "worker_mismatch");
}

/// As of a request that was read just before a reload, and reaches the driver just after it.
#[test]
fn who_was_told_a_kind_that_is_gone_gets_another_that_the_key_may_use() {
    const LAST: &str = "  last:\n    cmd: [\"fake\", \"{{.Socket}}\"]\n";
    let herd = herd("", ", workers: [other, last]", "");
    let request = |id: &str| Request {
        id: SessionId::parse(id.as_bytes()).unwrap(),
        // `other`.
        kind: KindChoice::Fallback(KindId(1)),
        holder: HolderKind::Request,
        wait: Wait::Queue,
        remains: Remains::Respect,
    };
    let kind = |id: &str| {
        let attached = Herd::block_on(herd.handle.attach(request(id))).unwrap();
        attached.session().kind.name.clone()
    };
    assert_eq!(kind("alice/before"), "other");
    herd.reload(|text| {
        let (top, rest) = text.split_once("  other:\n").unwrap();
        let auth = rest.find("auth:").unwrap();
        format!("{top}{LAST}{}", rest[auth..].replace("[other, last]", "[last]"))
    });
    assert_eq!(kind("alice/after"), "last");
    assert_eq!(kind("bob/after"), "fake");
}

#[test]
fn a_session_of_a_kind_that_the_key_may_not_use_stays_closed_to_it() {
    let herd = herd("", ", workers: [other]", "");
    // Made for alice by somebody who may: the control API.
    let request = crate::driver::Request {
        id: SessionId::parse(b"alice/s").unwrap(),
        kind: crate::driver::KindChoice::Fallback(crate::core::KindId(0)),
        holder: crate::core::HolderKind::Request,
        wait: crate::driver::Wait::Queue,
        remains: crate::driver::Remains::Respect,
    };
    drop(Herd::block_on(herd.handle.attach(request)).unwrap());
    // On the way by the driver, and once the thread knows it.
    for _ in 0..3 {
        let answer = ask_s(&herd, "/", &bearer(ALICE));
        assert_eq!((answer.status(), answer.code()), (403, "worker_not_allowed"));
    }
}

#[test]
fn a_token_is_for_its_session_and_kind_and_needs_no_id() {
    let herd = herd("", "", ", workers: [fake]");
    let of = |token: &str| format!("/worker?herd_token={token}");
    let plain = of(&token(&herd, "alice/s", None));
    let first = ask(&herd, &plain, "");
    assert_eq!(first.field("x-session-id"), Some("s"), "{first:?}");
    assert_eq!(
        ask_s(&herd, &plain, "").text(),
        first.text(),
        "the same id may be named"
    );
    let other = ask(&herd, &plain, "X-Session-ID: t\r\n");
    assert_eq!((other.status(), other.code()), (400, "session_id_conflict"));

    let narrow = of(&token(&herd, "alice/n", Some("other")));
    let wrong = ask(&herd, &narrow, "X-Herd-Worker: fake\r\n");
    assert_eq!((wrong.status(), wrong.code()), (403, "worker_not_allowed"));
    assert_eq!(ask(&herd, &narrow, "").status(), 200);
    let views = Herd::block_on(herd.handle.show(SessionId::parse(b"alice/n").unwrap())).unwrap();
    assert_eq!(views[0].kind, "other");
    // A token opens no more than the key of its principal.
    for (session, worker) in [("bob/s", Some("other")), ("alice/n2", Some("gone"))] {
        let answer = ask(&herd, &of(&token(&herd, session, worker)), "");
        assert_eq!(
            (answer.status(), answer.code()),
            (403, "worker_not_allowed"),
            "{session}"
        );
    }
    let revoked = ask(&herd, &of(&token(&herd, "carol/s", None)), "");
    assert_eq!((revoked.status(), revoked.code()), (401, "token_invalid"));
    let twice = token(&herd, "alice/s", None);
    for (path, fields) in [
        (format!("/?herd_token={twice}&herd_token={twice}"), String::new()),
        (
            "/".to_owned(),
            format!("Cookie: herd_token={twice}; herd_token={twice}\r\n"),
        ),
    ] {
        let answer = ask(&herd, &path, &fields);
        assert_eq!((answer.status(), answer.code()), (401, "token_invalid"));
    }
}

#[test]
fn a_token_that_has_expired_opens_nothing_and_what_it_opened_stays_open() {
    let herd = herd("", "", "");
    let session = SessionId::parse(b"alice/s").unwrap();
    let access = herd.access.as_ref().unwrap();
    let (good, expires) = access.mint(session, None, Duration::from_secs(1));
    let path = format!("/echo?herd_token={good}");
    let mut socket = herd.connect();
    socket.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{WS}\r\n"));
    assert!(socket.head().starts_with("HTTP/1.1 101"));
    let late = loop {
        let answer = ask(&herd, &path, "");
        if answer.status() == 401 {
            break answer;
        }
        std::thread::yield_now();
    };
    assert_eq!(late.code(), "token_expired");
    assert!(std::time::SystemTime::now() >= expires, "not before its time");
    socket.send("still here");
    assert_eq!(socket.read(10), b"still here");
}

#[test]
fn of_fifty_sessions_at_once_a_quota_of_three_admits_three() {
    let herd = herd("", ", sessions: 3", "");
    let mut clients: Vec<_> = (0..50).map(|_| herd.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&format!(
            "GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s{number}\r\n{}\r\n",
            bearer(ALICE)
        ));
    }
    let answers: Vec<_> = clients.iter_mut().map(|client| client.answer()).collect();
    let admitted = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(admitted, 3);
    for refused in answers.iter().filter(|answer| answer.status() != 200) {
        assert_eq!((refused.status(), refused.code()), (429, "quota_exceeded"));
        assert_eq!(refused.field("retry-after"), Some("1"));
        assert!(
            refused.text().contains("so many sessions at a time: 3"),
            "{refused:?}"
        );
    }
    assert_eq!(ask_s(&herd, "/", &bearer(BOB)).status(), 200, "another's quota");
    // A place is free when its session has ended.
    let held = (0..50)
        .position(|number| answers[number].status() == 200)
        .unwrap();
    herd.stop(&format!("alice/s{held}"));
    assert_eq!(
        ask(&herd, "/", &format!("X-Session-ID: new\r\n{}", bearer(ALICE))).status(),
        200
    );
    let over = ask(&herd, "/", &format!("X-Session-ID: newer\r\n{}", bearer(ALICE)));
    assert_eq!(over.code(), "quota_exceeded");
}

#[test]
fn new_sessions_come_at_their_rate_and_requests_of_those_there_are_cost_none() {
    let herd = herd("", ", session_rate: 1/h, session_burst: 2", "");
    let named = |id: &str| ask(&herd, "/", &format!("X-Session-ID: {id}\r\n{}", bearer(ALICE)));
    for id in ["a", "b", "a", "b", "a"] {
        assert_eq!(named(id).status(), 200, "{id}");
    }
    let over = named("c");
    assert_eq!((over.status(), over.code()), (429, "quota_exceeded"));
    let wait: u64 = over.field("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert!(
        over.text().contains("used up its rate of new sessions"),
        "{over:?}"
    );
    assert_eq!(ask_s(&herd, "/", &bearer(BOB)).status(), 200, "another's rate");
    herd.stop("alice/a");
    assert_eq!(named("a").code(), "quota_exceeded", "it would be a new one");
    assert_eq!(named("b").status(), 200);
}

#[test]
fn a_rate_admits_its_burst_whatever_thread_and_connection_they_come_by() {
    let herd = herd("", ", rate: 1/h, burst: 7", "");
    let mut clients: Vec<_> = (0..4).map(|_| herd.connect()).collect();
    let mut statuses = Vec::new();
    for client in &mut clients {
        for _ in 0..5 {
            client.send(&format!(
                "GET /worker HTTP/1.1\r\nHost: h\r\nX-Session-ID: s\r\n{}\r\n",
                bearer(ALICE)
            ));
            statuses.push(client.answer());
        }
    }
    let admitted = statuses.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!((admitted, statuses.len()), (7, 20));
    let last = statuses.last().unwrap();
    assert_eq!((last.status(), last.code()), (429, "quota_exceeded"));
    let wait: u64 = last.field("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert!(last.text().contains("rate"), "{last:?}");
    assert_eq!(ask_s(&herd, "/", &bearer(BOB)).status(), 200, "another's rate");
}

#[test]
fn a_foreign_page_opens_no_websocket_by_what_its_browser_sends_unasked() {
    let page = "Origin: https://evil.example.net\r\n";
    let own = "Origin: http://h\r\n";
    let herd = Herd::start_with("", "", "session: {query: sid, cookie: sid}\n");
    let open = |path: &str, fields: &str| {
        let mut client = herd.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{WS}{fields}\r\n"));
        let head = client.head();
        let code = super::fake::field(&head, "x-herd-error")
            .unwrap_or_default()
            .to_owned();
        (head.split(' ').nth(1).unwrap().to_owned(), code)
    };
    let refused = ("403".to_owned(), "origin_not_allowed".to_owned());
    let opened = ("101".to_owned(), String::new());
    assert_eq!(open("/echo?sid=s", page), refused);
    assert_eq!(open("/echo", &format!("Cookie: sid=s\r\n{page}")), refused);
    assert_eq!(open("/echo?sid=s", "Origin: null\r\n"), refused);
    assert_eq!(herd.starts(), 0, "before any worker is touched");
    assert_eq!(open("/echo?sid=s", own), opened);
    assert_eq!(open("/echo", &format!("X-Session-ID: t\r\n{page}")), opened);
    assert_eq!(open("/echo?sid=u", ""), opened, "no browser");
    let plain = ask(&herd, "/worker?sid=v", page);
    assert_eq!(plain.status(), 200, "only WebSockets");
}

#[test]
fn a_trusted_proxy_says_that_its_clients_come_over_tls() {
    for (proxies, page, told) in [
        ("127.0.0.0/8", "http://h", "403"),
        ("127.0.0.0/8", "https://h", "101"),
        ("192.0.2.0/24", "http://h", "101"),
    ] {
        let network = format!("  trusted_proxies: [{proxies}]");
        let herd = Herd::start_with(&network, "", "session: {query: sid}\n");
        let mut client = herd.connect();
        client.send(&format!(
            "GET /echo?sid=s HTTP/1.1\r\nHost: h\r\n{WS}X-Forwarded-Proto: https\r\nOrigin: {page}\r\n\r\n"
        ));
        assert_eq!(client.head().split(' ').nth(1), Some(told), "{proxies} {page}");
    }
}

#[test]
fn listed_origins_are_the_ones_that_may() {
    let herd = herd("  websocket_origins: [\"https://*.example.com\"]", "", "");
    let path = format!("/echo?herd_token={}", token(&herd, "alice/s", None));
    let open = |fields: &str| {
        let mut client = herd.connect();
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n{WS}{fields}\r\n"));
        client.head().split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(open("Origin: https://app.example.com\r\n"), "101");
    assert_eq!(open("Origin: https://example.com\r\n"), "403");
    assert_eq!(open("Origin: http://h\r\n"), "403", "its own is not listed");
    assert_eq!(open(""), "101");
}
