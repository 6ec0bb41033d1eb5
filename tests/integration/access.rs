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
        stderr(&nobodys)
            .contains("with `auth` in herd.yaml a session is a principal's; add --principal NAME"),
        "{}",
        stderr(&nobodys)
    );
}

#[test]
fn a_key_that_others_can_read_stops_the_start() {
    let mut herd = launch(0o604);
    assert_eq!(herd.wait().code(), Some(1));
    let said = herd.said();
    assert!(said.contains("auth.keys.alice.file: others can read"), "{said}");
}

/// Reads its file again, and it succeeds.
fn reload(herd: &Running, from: &str, to: &str) -> String {
    change(herd, from, to);
    let output = herd.herd(&["reload"]);
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

fn change(herd: &Running, from: &str, to: &str) {
    let path = herd.dir.path().join("herd.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

fn with(herd: &Running, id: &str, key: &str) -> String {
    let fields = format!("x-session-id: {id}\r\n{}", bearer(key));
    ask(herd, "GET /healthz", &fields)
}

#[test]
fn a_key_is_rotated_under_load_without_one_refused_request() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let herd = launch(0o600).ready();
    let new = "herd_alice_fedcba9876543210";
    secret(&herd.dir.path().join("alice.new"), new, 0o600);
    let (phase, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let old_path = format!("{:?}", herd.dir.path().join("alice.key"));
    let new_path = format!("{:?}", herd.dir.path().join("alice.new"));
    let both = format!("alice: {{ file: {new_path}, also: [{{ file: {old_path} }}]");
    let refused = std::thread::scope(|scope| {
        let ask = |number: usize| {
            let mut refused = Vec::new();
            loop {
                // What is handed out, before it is used.
                let phase = phase.load(Ordering::SeqCst);
                let key = if phase == 0 { ALICE } else { new };
                let got = with(&herd, &format!("s{number}"), key);
                if !got.starts_with("HTTP/1.1 200") {
                    refused.push(got);
                }
                asked.fetch_add(1, Ordering::SeqCst);
                if phase == 2 {
                    return refused;
                }
            }
        };
        let askers: Vec<_> = (0..4).map(|number| scope.spawn(move || ask(number))).collect();
        let some_more = || {
            let until = asked.load(Ordering::SeqCst) + 20;
            crate::running::poll("requests", || match asked.load(Ordering::SeqCst) {
                so_far if so_far >= until => Ok(()),
                so_far => Err(format!("{so_far} of {until}")),
            });
        };
        some_more();
        reload(&herd, &format!("alice: {{ file: {old_path}"), &both);
        some_more();
        phase.store(1, Ordering::SeqCst);
        // Nobody has a request under way with the old key any more.
        some_more();
        reload(&herd, &both, &format!("alice: {{ file: {new_path}"));
        some_more();
        phase.store(2, Ordering::SeqCst);
        askers
            .into_iter()
            .flat_map(|asker| asker.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(refused.is_empty(), "{refused:?}");
    assert!(with(&herd, "s0", ALICE).contains("x-herd-error: unauthorized"));
    let reused = with(&herd, "s0", new);
    assert!(reused.contains("x-herd-session-state: reused"), "{reused}");
}

#[test]
fn a_replaced_file_is_read_again_and_one_that_cannot_be_refuses_the_reload() {
    let herd = launch(0o600).ready();
    let path = herd.dir.path().join("alice.key");
    let mut open = TcpStream::connect(herd.data_address().unwrap()).unwrap();
    open.set_read_timeout(Some(CAP)).unwrap();
    let mut on_one_connection = || {
        let head = format!(
            "GET /healthz HTTP/1.1\r\nhost: h\r\nx-session-id: s\r\n{}\r\n",
            bearer(ALICE)
        );
        open.write_all(head.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        let read = open.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    };
    assert!(on_one_connection().starts_with("HTTP/1.1 200"));
    for (text, mode, why) in [
        (
            "short",
            0o600,
            "auth.keys.alice.file: a key has at least 16 characters",
        ),
        (ALICE, 0o644, "auth.keys.alice.file: others can read"),
        (BOB, 0o600, "auth.keys.bob.file: this is alice's key, too"),
    ] {
        secret(&path, text, mode);
        let output = herd.herd(&["reload"]);
        assert_eq!(output.status.code(), Some(1));
        let said = stdout(&output);
        assert!(said.contains("herd.yaml:") && said.contains(why), "{said}");
        assert!(
            with(&herd, "s", ALICE).starts_with("HTTP/1.1 200"),
            "the old one is in force"
        );
    }
    let new = "herd_alice_fedcba9876543210";
    secret(&path, new, 0o600);
    reload(&herd, "max: 8", "max: 8");
    assert!(
        on_one_connection().contains("x-herd-error: unauthorized"),
        "on the open connection"
    );
    assert!(with(&herd, "s", new).contains("x-herd-session-state: reused"));
    let before = std::fs::read_to_string(herd.dir.path().join("herd.yaml")).unwrap();
    let without = before.split("auth:").next().unwrap().to_owned()
        + "workers:"
        + before.split("workers:").nth(1).unwrap();
    change(&herd, &before, &without);
    let output = herd.herd(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(
        said.contains("auth: was removed, and only a start can take that"),
        "{said}"
    );
}

#[test]
fn a_principal_that_is_taken_away_has_nothing_left() {
    let herd = launch(0o600).ready();
    assert!(with(&herd, "s", BOB).starts_with("HTTP/1.1 200"));
    assert!(with(&herd, "s", ALICE).starts_with("HTTP/1.1 200"));
    let signed = stdout(&herd.herd(&["token", "bob/t"]));
    let token = signed.trim();
    let key = format!("{:?}", herd.dir.path().join("bob.key"));
    let bob = format!("bob: {{ file: {key} }}");
    reload(&herd, &format!("    {bob}\n"), "");
    assert_eq!(herd.until("s", "bound")["principal"], "alice");
    let listed = stdout(&herd.herd(&["ps", "--all"]));
    let ended = listed.lines().find(|line| line.starts_with("bob/s"));
    assert!(ended.is_some_and(|line| line.contains("revoked")), "{listed}");
    assert!(with(&herd, "s", BOB).contains("x-herd-error: unauthorized"));
    assert!(with(&herd, "t", token).contains("x-herd-error: token_invalid"));
    let created = herd.herd(&["hold", "bob/u"]);
    assert!(stderr(&created).contains("bob"), "{}", stderr(&created));
    assert!(with(&herd, "s", ALICE).contains("x-herd-session-state: reused"));
    reload(&herd, "  keys:\n", &format!("  keys:\n    {bob}\n"));
    assert!(with(&herd, "s", BOB).contains("x-herd-session-state: created"));
    // As docs/access.md says: for good, only the secret's end ends them.
    assert!(with(&herd, "t", token).starts_with("HTTP/1.1 200"));
}

#[test]
fn quotas_rates_and_kinds_go_on_from_where_they_were() {
    let herd = launch(0o600).ready();
    for id in ["a", "b", "c"] {
        assert!(with(&herd, id, ALICE).starts_with("HTTP/1.1 200"));
    }
    reload(&herd, "sessions: 5", "sessions: 2, rate: 3/h, burst: 3");
    assert!(
        with(&herd, "a", ALICE).starts_with("HTTP/1.1 200"),
        "none has ended"
    );
    assert!(with(&herd, "d", ALICE).contains("so many sessions at a time: 2"));
    herd.herd(&["stop", "alice/a"]);
    reload(&herd, "max: 8", "max: 7");
    assert!(
        with(&herd, "d", ALICE).contains("so many sessions at a time: 2"),
        "two are left"
    );
    reload(&herd, "max: 7", "max: 8");
    let over = with(&herd, "b", ALICE);
    assert!(
        over.contains("used up its rate"),
        "no reload gives it back: {over}"
    );
    reload(&herd, ", rate: 3/h, burst: 3", "");
    assert!(with(&herd, "b", ALICE).starts_with("HTTP/1.1 200"));
    reload(&herd, "sessions: 2", "sessions: 3, session_rate: 1/h");
    assert!(with(&herd, "e", ALICE).starts_with("HTTP/1.1 200"));
    herd.herd(&["stop", "alice/e"]);
    reload(&herd, "max: 8", "max: 7");
    for over in [with(&herd, "e", ALICE), stderr(&herd.herd(&["hold", "alice/e"]))] {
        assert!(over.contains("used up its rate of new sessions"), "{over}");
    }
    assert!(with(&herd, "b", ALICE).contains("x-herd-session-state: reused"));
    reload(&herd, "max: 7", "max: 8");
    reload(&herd, "sessions: 3, session_rate: 1/h", "sessions: 2");
    let more = "workers:\n  other: { cmd: [\"false\"] }\n";
    reload(&herd, "workers:\n", more);
    reload(&herd, "sessions: 2", "workers: [other]");
    assert!(with(&herd, "b", ALICE).contains("x-herd-error: worker_not_allowed"));
    reload(&herd, "workers: [other]", "workers: [runner, other]");
    assert!(with(&herd, "b", ALICE).contains("x-herd-session-state: reused"));
}

#[test]
fn the_secret_that_herd_made_goes_on_and_a_secret_that_is_gone_signs_nothing() {
    let herd = launch(0o600).ready();
    let sign = || stdout(&herd.herd(&["token", "alice/t"])).trim().to_owned();
    let configured = sign();
    assert!(with(&herd, "t", &configured).starts_with("HTTP/1.1 200"));
    let path = format!("{:?}", herd.dir.path().join("secret"));
    let secrets = format!("  tokens: {{ secrets: [{{ file: {path} }}] }}\n");
    reload(&herd, &secrets, "");
    assert!(with(&herd, "t", &configured).contains("x-herd-error: token_invalid"));
    let made = sign();
    reload(&herd, "max: 8", "max: 7");
    assert!(with(&herd, "t", &made).starts_with("HTTP/1.1 200"));
    reload(&herd, "workers:\n", "  tokens: { query: tok }\nworkers:\n");
    let got = ask(&herd, &format!("GET /healthz?tok={made}"), "");
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
}
