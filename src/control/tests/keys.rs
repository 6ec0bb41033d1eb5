//! The API over TCP, where a key says who asks.

use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::*;

const READER: &str = "herd_reader_0123456789";
const SCRAPER: &str = "herd_scraper_0123456789";
const BOSS: &str = "herd_boss_0123456789";

fn with_keys() -> Herd {
    let sha256 = |key: &str| data_encoding::HEXLOWER.encode(&Sha256::digest(key));
    start_with(&format!(
        "control:\n  tcp: 127.0.0.1:0\n  keys:\n    reader: {{sha256: {}}}\n    scraper: {{sha256: {}, may: metrics}}\n    \
         boss: {{sha256: {}, may: control}}\n",
        sha256(READER),
        sha256(SCRAPER),
        sha256(BOSS)
    ))
}

async fn ask(herd: &Herd, method: &str, path: &str, headers: &str) -> (String, String) {
    send(
        herd,
        &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}"),
    )
    .await
}

/// A request without the end of its head.
async fn send(herd: &Herd, head: &str) -> (String, String) {
    let mut stream = TcpStream::connect(herd.port.unwrap()).await.unwrap();
    let request = format!("{head}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

#[test]
fn a_key_opens_what_it_may_and_nothing_else() {
    local(async {
        let herd = with_keys();
        for (key, method, path, status) in [
            (SCRAPER, "GET", "/metrics", "200"),
            (SCRAPER, "GET", "/readyz", "200"),
            (SCRAPER, "GET", "/v1/sessions", "403"),
            (READER, "GET", "/v1/sessions", "200"),
            (READER, "GET", "/metrics", "200"),
            (READER, "PUT", "/v1/sessions/a", "403"),
            (READER, "GET", "/v1/sessions/a/hold", "403"),
            (READER, "GET", "/v1/sessions/a/exec?command=id", "403"),
            (READER, "POST", "/v1/drain", "403"),
            (READER, "GET", "/nowhere", "404"),
            (BOSS, "PUT", "/v1/sessions/a", "201"),
            (READER, "DELETE", "/v1/sessions/a", "403"),
            (BOSS, "DELETE", "/v1/sessions/a", "200"),
        ] {
            let (head, body) = ask(&herd, method, path, &bearer(key)).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{key} {method} {path}: {head}\n{body}"
            );
        }
        let (_, text) = herd.ask("GET", "/v1/events?replay=100&follow=false").await;
        assert!(
            text.contains(r#""by":{"uid":null,"pid":null,"key":"boss"}"#),
            "{text}"
        );
    });
}

#[test]
fn without_a_known_key_nothing_is_told() {
    local(async {
        let herd = with_keys();
        for headers in [
            String::new(),
            bearer("herd_nobody_0123456789"),
            format!("authorization: Basic {BOSS}\r\n"),
            format!("authorization: {BOSS}\r\n"),
            format!("{}{}", bearer(BOSS), bearer(BOSS)),
        ] {
            for path in ["/healthz", "/nowhere", "/v1/sessions/a", "/dashboard/a/b"] {
                let (head, _) = ask(&herd, "GET", path, &headers).await;
                assert!(head.starts_with("HTTP/1.1 401 "), "{headers} {path}: {head}");
                assert!(head.contains("x-herd-error: unauthorized\r\n"), "{head}");
                assert!(head.contains("www-authenticate: Bearer"), "{head}");
            }
        }
    });
}

#[test]
fn the_socket_needs_no_key() {
    local(async {
        let herd = with_keys();
        let (head, body) = herd.ask("GET", "/v1/sessions").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}\n{body}");
    });
}

#[test]
fn the_dashboard_needs_no_key_because_it_has_no_data() {
    local(async {
        let herd = with_keys();
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/dashboard/main.js", "text/javascript; charset=utf-8"),
            ("/dashboard/style.css", "text/css; charset=utf-8"),
        ] {
            let (head, body) = ask(&herd, "GET", path, "").await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
            assert!(
                head.contains(&format!("content-type: {content_type}\r\n")),
                "{head}"
            );
            assert!(
                head.contains("content-security-policy: default-src 'none'; "),
                "{head}"
            );
            assert!(body.len() > 1000, "{path}: {body}");
        }
        let (head, _) = ask(&herd, "GET", "/dashboard/nothing.js", "").await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        let (head, _) = ask(&herd, "POST", "/", "").await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    });
}

#[test]
fn a_page_of_somebody_else_gets_nothing_even_with_a_key() {
    local(async {
        let herd = with_keys();
        let key = bearer(BOSS);
        for (headers, code) in [
            ("host: evil.example\r\n", "host_refused"),
            (
                "host: localhost\r\norigin: http://evil.example\r\n",
                "origin_refused",
            ),
            ("host: localhost\r\norigin: null\r\n", "origin_refused"),
            ("", "bad_request"),
        ] {
            for path in ["/", "/v1/sessions"] {
                let (head, _) = send(&herd, &format!("GET {path} HTTP/1.1\r\n{headers}{key}")).await;
                assert!(
                    head.contains(&format!("x-herd-error: {code}\r\n")),
                    "{headers}: {head}"
                );
            }
        }
        let (head, _) = ask(
            &herd,
            "GET",
            "/v1/sessions",
            &format!("origin: http://localhost\r\n{key}"),
        )
        .await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (head, _) = herd
            .ask_with("GET", "/v1/sessions", "origin: http://evil.example\r\n", "")
            .await;
        assert!(
            head.contains("x-herd-error: origin_refused\r\n"),
            "on the socket, too: {head}"
        );
    });
}

#[test]
fn a_name_that_loses_its_key_loses_what_it_has_open_and_one_with_another_key_does_not() {
    local(async {
        let herd = with_keys();
        let open = async |path: &str| {
            let mut stream = TcpStream::connect(herd.port.unwrap()).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{}\r\n", bearer(BOSS));
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut some = [0; 512];
            assert!(within("the head", stream.read(&mut some)).await.unwrap() > 0);
            stream
        };
        let mut stream = open("/v1/events").await;
        let admitting = |text: &str| {
            let config = config::parse(&format!("{CONFIG}{text}"), "test.yaml").unwrap();
            crate::control::Admission::read(&config).unwrap()
        };
        let digest = |key: &str| data_encoding::HEXLOWER.encode(&Sha256::digest(key));
        let with = |name: &str, key: &str| {
            format!(
                "control:\n  tcp: 127.0.0.1:0\n  keys:\n    {name}: {{sha256: {}, may: control}}\n",
                digest(key)
            )
        };
        herd.door.renew(admitting(&with("boss", READER)));
        let (head, _) = ask(&herd, "GET", "/v1/version", &bearer(BOSS)).await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        let (head, _) = ask(&herd, "PUT", "/v1/sessions/a", &bearer(READER)).await;
        assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
        let mut some = [0; 4096];
        let read = within("an event", stream.read(&mut some)).await.unwrap();
        assert!(read > 0, "the name is still there, so its stream is");
        herd.door.renew(admitting(&with("other", READER)));
        let mut rest = Vec::new();
        // Cut or ended: it is over.
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
    });
}
