//! The WebSocket itself: what a client can do to it.

use std::fs;
use std::io::Write;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use herd::control::channels::{FromClient, FromHerd, MAX_MESSAGE, PROTOCOL};
use herd::control::views::{ExecEnd, ExecOutcome};
use herd::sys::terminal::Size;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use sha2::Digest as _;

use super::Scene;
use crate::running::{CAP, Running, poll, stdout};
use crate::supervised::Mode;

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

fn within(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(CAP, test).await.expect("it hangs") });
}

async fn open(scene: &Scene, query: &str) -> WebSocketStream<UnixStream> {
    let stream = UnixStream::connect(scene.herd.socket()).await.unwrap();
    open_over(stream, query, None).await
}

/// Over TCP that takes a key.
async fn open_over<S: Stream>(stream: S, query: &str, key: Option<&str>) -> WebSocketStream<S> {
    let mut request = format!("ws://localhost/v1/sessions/a/exec?{query}")
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
    if let Some(key) = key {
        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], PROTOCOL);
    socket
}

async fn say(socket: &mut WebSocketStream<impl Stream>, said: FromClient) {
    socket.send(Message::Binary(said.message())).await.unwrap();
}

/// All that was written to stdout, how the command ended, and the code that the WebSocket was closed with.
async fn rest(socket: &mut WebSocketStream<impl Stream>) -> (String, Option<ExecEnd>, CloseCode) {
    let (mut stdout, mut end) = (Vec::new(), None);
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(bytes) => match FromHerd::parse(bytes).unwrap() {
                FromHerd::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                FromHerd::Stderr(_) => {}
                FromHerd::Status(status) => end = Some(status),
            },
            Message::Close(Some(frame)) => {
                return (String::from_utf8(stdout).unwrap(), end, frame.code);
            }
            _ => {}
        }
    }
    panic!("it was not closed: {end:?}");
}

#[test]
fn the_status_is_the_last_message_and_the_close_is_clean() {
    for scene in Scene::both() {
        within(async {
            let mut socket = open(&scene, "command=cat&stdin=true").await;
            say(&mut socket, FromClient::Stdin(Bytes::from_static(b"a\n"))).await;
            say(&mut socket, FromClient::StdinEnds).await;
            let (stdout, end, code) = rest(&mut socket).await;
            let end = end.unwrap();
            assert_eq!(
                (stdout.as_str(), end.outcome, end.exit_code),
                ("a\n", ExecOutcome::Exited, Some(0))
            );
            assert_eq!(code, CloseCode::Normal, "{}", scene.what);
            assert!(socket.next().await.is_none(), "{}", scene.what);
        });
    }
}

#[test]
fn a_client_that_closes_is_answered() {
    within(async {
        for scene in Scene::both() {
            let mut socket = open(&scene, "command=sleep&command=1000").await;
            socket.close(None).await.unwrap();
            match socket.next().await {
                Some(Ok(Message::Close(_))) => {}
                other => panic!("{}: {other:?}", scene.what),
            }
        }
    });
}

#[test]
fn a_terminal_is_resized_by_a_message() {
    for scene in Scene::both() {
        within(async {
            let script = "trap 'stty size; exit' WINCH; echo begun; while :; do sleep 0.1; done";
            let query = form(&[
                ("command", "sh"),
                ("command", "-c"),
                ("command", script),
                ("tty", "true"),
                ("rows", "30"),
            ]);
            let mut socket = open(&scene, &query).await;
            let begun = socket.next().await.unwrap().unwrap().into_data();
            assert_eq!(&begun[..], b"\x01begun\r\n", "{}", scene.what);
            say(&mut socket, FromClient::Resize(Size { cols: 90, rows: 31 })).await;
            let (stdout, end, _) = rest(&mut socket).await;
            assert_eq!(stdout, "31 90\r\n", "{}: {end:?}", scene.what);
        });
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

#[test]
fn a_message_that_is_none_ends_the_command_and_says_so() {
    let scene = Scene::bare(Mode::Own);
    for (query, message, why) in [
        (
            "command=sleep&command=1000",
            Message::text("ls"),
            "messages are binary",
        ),
        (
            "command=sleep&command=1000",
            Message::binary(&b""[..]),
            "begins with the number of its channel",
        ),
        (
            "command=sleep&command=1000",
            Message::binary(&b"\x01x"[..]),
            "channel 1 is not for this direction",
        ),
        (
            "command=sleep&command=1000",
            Message::binary(&b"\x00x"[..]),
            "stdin was not asked for, or is closed",
        ),
        (
            "command=sleep&command=1000&tty",
            Message::binary(&b"\x04{}"[..]),
            "a new size is",
        ),
        (
            "command=sleep&command=1000&stdin",
            Message::binary(vec![0; MAX_MESSAGE + 1]),
            "too long",
        ),
    ] {
        within(async {
            let mut socket = open(&scene, query).await;
            scene.until_running("sleep", 1);
            // What is too long is not waited for.
            let _ = socket.send(message).await;
            let (_, end, code) = rest(&mut socket).await;
            let end = end.unwrap();
            assert_eq!(
                (end.outcome, code),
                (ExecOutcome::Misused, CloseCode::Policy),
                "{why}"
            );
            assert!(end.detail.contains(why), "{why}: {}", end.detail);
            scene.until_running("sleep", 0);
        });
    }
}

#[test]
fn a_client_that_does_not_read_makes_the_command_wait_and_nothing_grow() {
    for scene in Scene::both() {
        within(async {
            let mut socket = open(&scene, "command=yes").await;
            let first = scene.until_running("yes", 1);
            let pid = first.first().unwrap().split(' ').next().unwrap().to_owned();
            let written = || {
                let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
                let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
                line.parse::<u64>().unwrap()
            };
            let blocked = poll("yes is blocked", || {
                let (before, state) = (
                    written(),
                    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap(),
                );
                std::thread::sleep(std::time::Duration::from_millis(100));
                match written() == before && state.contains(") S ") && before > 0 {
                    true => Ok(before),
                    false => Err(format!("{before} bytes")),
                }
            });
            assert!(
                blocked < 4 << 20,
                "{}: {blocked} bytes are on their way",
                scene.what
            );
            // It goes on where it was.
            for _ in 0..100 {
                socket.next().await.unwrap().unwrap();
            }
            poll("yes goes on", || {
                (written() > blocked)
                    .then_some(())
                    .ok_or_else(|| written().to_string())
            });
            drop(socket);
            scene.until_running("yes", 0);
        });
    }
}

#[test]
fn a_client_whose_command_does_not_read_is_missed_when_it_goes() {
    let scene = Scene::boxed(Mode::Own);
    within(async {
        let mut socket = open(&scene, "command=sleep&command=1000&stdin=true").await;
        scene.until_running("sleep", 1);
        // More than the pipe holds, less than herd keeps: it goes on listening.
        for _ in 0..4 {
            say(&mut socket, FromClient::Stdin(Bytes::from(vec![b'x'; 32 << 10]))).await;
        }
        drop(socket);
        scene.until_running("sleep", 0);
    });
}

#[test]
fn a_client_that_leaves_during_the_handshake_leaves_no_command() {
    let scene = Scene::bare(Mode::Own);
    for _ in 0..20 {
        let mut stream = std::os::unix::net::UnixStream::connect(scene.herd.socket()).unwrap();
        let request = "GET /v1/sessions/a/exec?command=sleep&command=1000 HTTP/1.1\r\nhost: herd\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
    }
    poll("each end is told", || {
        let told = stdout(
            &scene
                .herd
                .herd(&["events", "--replay", "100", "--no-follow", "-o", "json"]),
        );
        let count = |what: &str| told.matches(what).count();
        match count("\"control.exec\"") == count("\"exec.ended\"") && scene.running("sleep").is_empty() {
            true => Ok(()),
            false => Err(told),
        }
    });
}

#[test]
fn the_end_of_herd_is_told() {
    let scene = Scene::bare(Mode::Own);
    within(async {
        let mut socket = open(&scene, "command=sleep&command=1000").await;
        scene.until_running("sleep", 1);
        for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(scene.herd.pid()), signal).unwrap();
        }
        let (_, end, code) = rest(&mut socket).await;
        let outcome = end.unwrap().outcome;
        // Whichever is known first: the session's end, or herd's.
        assert!(
            matches!(outcome, ExecOutcome::SessionEnded | ExecOutcome::HerdEnds),
            "{outcome:?}"
        );
        assert_eq!(code, CloseCode::Away);
    });
}

#[test]
fn a_key_that_a_reload_takes_away_takes_its_commands_along() {
    const KEY: &str = "herd_boss_0123456789abcdef";
    let digest = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(KEY));
    let with = |name: &str, may: &str| {
        format!("control: {{ tcp: 127.0.0.1:0, keys: {{ {name}: {{ sha256: {digest}, may: {may} }} }} }}")
    };
    let top = |keys: &str| format!("min: 0\n{keys}");
    let herd = Running::launch(
        tempfile::tempdir().unwrap(),
        Mode::Own,
        &top(&with("boss", "control")),
    );
    let scene = Scene::of("over TCP".to_owned(), herd.ready());
    let file = scene.herd.dir.path().join("herd.yaml");
    let reload = |old: &str, new: &str| {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{text}");
        fs::write(&file, text.replace(old, new)).unwrap();
        let output = scene.herd.herd(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    };
    within(async {
        let mut events = TcpStream::connect(scene.herd.control_address().unwrap())
            .await
            .unwrap();
        let request =
            format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n");
        events.write_all(request.as_bytes()).await.unwrap();
        let mut told = [0; 12];
        events.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 200");
        let (mut name, mut may) = ("boss", "control");
        // It is gone, or may not do this any more.
        for (next, less) in [("other", "control"), ("other", "read")] {
            let stream = TcpStream::connect(scene.herd.control_address().unwrap()).await;
            let mut socket = open_over(stream.unwrap(), "command=sleep&command=1000", Some(KEY)).await;
            let mut by_socket = open(&scene, "command=cat&stdin=true").await;
            scene.until_running("sleep", 1);
            reload(&with(name, may), &with(next, less));
            let (_, end, code) = rest(&mut socket).await;
            let end = end.unwrap();
            assert_eq!(
                (end.outcome, code),
                (ExecOutcome::Revoked, CloseCode::Policy),
                "{end:?}"
            );
            assert!(end.detail.contains("the key"), "{end:?}");
            scene.until_running("sleep", 0);
            // Whoever needs no key goes on.
            say(&mut by_socket, FromClient::StdinEnds).await;
            let (_, end, _) = rest(&mut by_socket).await;
            assert_eq!(end.unwrap().exit_code, Some(0));
            (name, may) = (next, less);
        }
        let mut told = Vec::new();
        events.read_to_end(&mut told).await.unwrap();
        let told = String::from_utf8(told).unwrap();
        assert!(!told.ends_with("\r\n0\r\n\r\n"), "it broke off: {told}");
    });
    let events = stdout(
        &scene
            .herd
            .herd(&["events", "--replay", "100", "--no-follow", "-o", "json"]),
    );
    assert_eq!(events.matches("\"outcome\":\"revoked\"").count(), 2, "{events}");
}
