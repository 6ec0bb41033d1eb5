//! Keys, quotas and tokens of a real `herd start`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

use crate::running::{CAP, HERD, Running, stderr, stdout};
use crate::supervised::Mode;

const ALICE: &str = "herd_alice_0123456789abcdef";
const CAROL: &str = "herd_carol-0123456789abcdefghijklmnop";
const BOB: &str = "herd_bob_0123456789abcdef";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn secret(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, format!("{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// That logs everything. `mode` is of alice's key.
fn launch(mode: u32) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    secret(&dir.path().join("alice.key"), ALICE, mode);
    secret(&dir.path().join("bob.key"), BOB, 0o600);
    secret(&dir.path().join("secret"), SECRET, 0o600);
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\n\
         auth:\n  keys:\n    alice: {{ file: {:?}, sessions: 5 }}\n    bob: {{ file: {:?} }}\n    \
         carol: {{ env: CAROL_KEY }}\n  \
         tokens: {{ secrets: [{{ file: {:?} }}] }}\n\
         workers:\n  runner:\n    cmd: [{HERD:?}, runner, --listen, \"{{{{.Port}}}}\"]\n    \
         health_path: /healthz\n    env: {{ HERD_TEST_TAG: {:?} }}\n    max: 8\n    env_passthrough: [\"*\"]\n",
        at("alice.key"),
        at("bob.key"),
        at("secret"),
        dir.path().display().to_string(),
    );
    Running::launch_through(
        &["env", "HERD_LOG=debug", &format!("CAROL_KEY={CAROL}")],
        dir,
        Mode::Own,
        &yaml,
    )
}

#[test]
fn no_worker_sees_a_key_in_its_environment_whatever_is_passed_on() {
    let herd = launch(0o600).ready();
    let made = ask(
        &herd,
        "GET /v1/value",
        &format!("x-session-id: s\r\n{}", bearer(CAROL)),
    );
    assert!(!made.contains("unauthorized"), "{made}");
    let told = stdout(&herd.herd(&["exec", "-T", "carol/s", "--", "env"]));
    assert!(told.contains("HERD_LOG=debug"), "{told}");
    assert!(!told.contains(CAROL), "{told}");
}

fn send(herd: &Running, line: &str, fields: &str) -> TcpStream {
    let mut stream = TcpStream::connect(herd.data_address().unwrap()).unwrap();
    stream.set_read_timeout(Some(CAP)).unwrap();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{fields}\r\n"
    )
    .unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn ask(herd: &Running, line: &str, fields: &str) -> String {
    answer(send(herd, line, fields))
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

/// A message there and back, in the WebSocket that this request opens; or the answer to it.
fn echoed(herd: &Running, path: &str, fields: &[(&'static str, &str)]) -> Result<String, String> {
    let address = herd.data_address().unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let talk = async {
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let (mut socket, _) = match tokio_tungstenite::client_async(request, stream).await {
            Ok(opened) => opened,
            Err(tungstenite::Error::Http(answer)) => {
                let code = answer.headers().get("x-herd-error").cloned();
                return Err(code.unwrap().to_str().unwrap().to_owned());
            }
            Err(error) => panic!("{error}"),
        };
        socket.send(Message::text("hello")).await.unwrap();
        let echo = socket.next().await.unwrap().unwrap();
        Ok(echo.into_text().unwrap().to_string())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(CAP, talk).await.unwrap() })
}

#[test]
fn two_principals_with_one_id_have_two_workers_and_no_credential_is_ever_logged() {
    let herd = launch(0o600).ready();
    let id = "x-session-id: s\r\n";
    assert!(ask(&herd, "GET /healthz", id).contains("x-herd-error: unauthorized"));
    for key in [ALICE, BOB] {
        let put = format!("{id}{}content-length: {}\r\n", bearer(key), key.len());
        let mut stream = send(&herd, "PUT /v1/value", &put);
        stream.write_all(key.as_bytes()).unwrap();
        assert!(answer(stream).starts_with("HTTP/1.1 204"));
    }
    for key in [ALICE, BOB] {
        let got = ask(&herd, "GET /v1/value", &format!("{id}x-herd-key: {key}\r\n"));
        assert!(got.starts_with("HTTP/1.1 200") && got.ends_with(key), "{got}");
    }
    let listed = stdout(&herd.herd(&["ps"]));
    assert!(
        listed.contains("alice/s ") && listed.contains("bob/s "),
        "{listed}"
    );
    let stopped = stdout(&herd.herd(&["stop", "alice/s"]));
    assert!(stopped.starts_with("stopped alice/s: "), "{stopped}");
    assert_eq!(herd.until("s", "bound")["principal"], "bob");

    let signed = herd.herd(&["token", "alice/t", "-o", "json"]);
    let signed: Value = serde_json::from_str(&stdout(&signed)).unwrap();
    let token = signed["token"].as_str().unwrap();
    let cookie = format!("a=1; herd_token={token}");
    let query = format!("/v1/echo?herd_token={token}");
    assert_eq!(
        echoed(&herd, "/v1/echo", &[("cookie", &cookie)]).as_deref(),
        Ok("hello")
    );
    assert_eq!(echoed(&herd, &query, &[]).as_deref(), Ok("hello"));
    let page = [("origin", "https://evil.example.net")];
    assert_eq!(echoed(&herd, &query, &page), Err("origin_not_allowed".to_owned()));
    let forged = format!("{query}A");
    assert_eq!(echoed(&herd, &forged, &[]), Err("token_invalid".to_owned()));
    let conflict = [("x-session-id", "u")];
    assert_eq!(
        echoed(&herd, &query, &conflict),
        Err("session_id_conflict".to_owned())
    );

    let said = herd.logged("alice/t");
    for secret in [ALICE, BOB, SECRET, token] {
        assert!(!said.contains(secret), "{secret} was logged");
    }
}

#[test]
fn fifty_sessions_at_once_with_a_quota_of_five_are_five() {
    let herd = launch(0o600).ready();
    let streams: Vec<TcpStream> = (0..50)
        .map(|number| {
            let fields = format!("x-session-id: s{number}\r\n{}", bearer(ALICE));
            send(&herd, "GET /healthz", &fields)
        })
        .collect();
    let answers: Vec<String> = streams.into_iter().map(answer).collect();
    let with = |text: &str| answers.iter().filter(|answer| answer.contains(text)).count();
    assert_eq!(with("HTTP/1.1 200"), 5);
    assert_eq!(with("x-herd-error: quota_exceeded"), 45);
    let bobs = ask(
        &herd,
        "GET /healthz",
        &format!("x-session-id: s\r\n{}", bearer(BOB)),
    );
    assert!(bobs.starts_with("HTTP/1.1 200"), "{bobs}");
}

#[test]
fn a_command_of_a_principal_gets_a_token_for_its_session() {
    let herd = launch(0o600).ready();
    let script = r#"curl -sSi -H "Authorization: Bearer $HERD_TOKEN" "$HERD_URL/healthz""#;
    let run = |more: &[&str]| {
        let args = [&["run", "runner"], more, &["--", "sh", "-c", script]].concat();
        herd.herd(&args)
    };
    let output = run(&["--principal", "alice", "--session", "mine"]);
    let said = stdout(&output);
    assert!(said.starts_with("HTTP/1.1 200"), "{said}{}", stderr(&output));
    assert!(said.contains("x-session-id: mine\r\n"), "{said}");
    assert_eq!(herd.until("mine", "ended")["principal"], "alice");
    let nobodys = run(&[]);
    assert_eq!(nobodys.status.code(), Some(1));
    assert!(
        stderr(&nobodys).contains("with auth in herd.yaml a session is a principal's"),
        "{}",
        stderr(&nobodys)
    );
}

#[test]
fn a_key_that_others_can_read_stops_the_start() {
    let mut herd = launch(0o604);
    assert_eq!(herd.wait().code(), Some(1));
    let said = herd.said();
    assert!(said.contains("auth.keys.alice: others can read"), "{said}");
}
