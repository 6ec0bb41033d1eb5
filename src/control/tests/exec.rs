//! Commands that are not run. Those that are need real workers: see `tests/integration/exec`.

use super::*;

pub(super) const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn refused(herd: &Herd, path: &str, headers: &str) -> (String, Value) {
    let mut stream = herd.send("GET", path, headers).await;
    let head = read_until(&mut stream, "}\n").await;
    let (head, body) = head.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
    (head.to_owned(), body)
}

#[test]
fn a_command_that_cannot_be_run_is_refused_before_the_websocket() {
    local(async {
        let herd = start();
        herd.ask("PUT", "/v1/sessions/a").await;
        for (path, headers, status, code) in [
            ("a/exec?command=id", "", 426, "upgrade_required"),
            ("a/exec", HANDSHAKE, 400, "bad_request"),
            ("a/exec?command=id&user=root", HANDSHAKE, 400, "bad_request"),
            ("a/exec?command=id&tty&cols=0", HANDSHAKE, 400, "bad_request"),
            ("a/exec?command=id&tty&rows=65536", HANDSHAKE, 400, "bad_request"),
            ("nobody/exec?command=id", HANDSHAKE, 404, "unknown_session"),
            // The worker is only pretended.
            ("a/exec?command=id", HANDSHAKE, 503, "exec_failed"),
        ] {
            let (head, body) = refused(&herd, &format!("/v1/sessions/{path}"), headers).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
            assert_eq!(body["code"], code, "{path}: {body}");
        }
        let (head, _) = refused(&herd, "/v1/sessions/a/exec?command=id", "").await;
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        let other = format!("{HANDSHAKE}sec-websocket-protocol: v5.channel.k8s.io\r\n");
        let (_, body) = refused(&herd, "/v1/sessions/a/exec?command=id", &other).await;
        assert_eq!(
            body["detail"],
            "the subprotocol is herd.exec.v1; offer it, or none"
        );
    });
}

#[test]
fn a_session_without_a_worker_runs_no_command() {
    local(async {
        let herd = start();
        let first = herd.hold("/v1/sessions/a/hold").await;
        // The only slot is taken.
        let second = herd.send("GET", "/v1/sessions/b/hold", "").await;
        herd.until("b", "queued").await;
        let (head, body) = refused(&herd, "/v1/sessions/b/exec?command=id", HANDSHAKE).await;
        assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
        assert_eq!(body["code"], "no_worker_yet");
        drop((first, second));
        herd.until("a", "ended").await;
        let (head, body) = refused(&herd, "/v1/sessions/a/exec?command=id", HANDSHAKE).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert_eq!(body["code"], "unknown_session");
    });
}
