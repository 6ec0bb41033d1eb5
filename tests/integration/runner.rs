//! The built-in worker on its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::running::{CAP, HERD, poll, spawn};

struct Runner {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Runner {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("runner.sock");
        let listen = format!("unix:{}", socket.display());
        let mut command = Command::new(HERD);
        let child = spawn(
            command
                .args(["runner", "--listen", &listen])
                .stderr(Stdio::null()),
        );
        let runner = Self {
            child,
            socket,
            _dir: dir,
        };
        poll("the runner listens", || {
            UnixStream::connect(&runner.socket)
                .map(drop)
                .map_err(|error| error.to_string())
        });
        runner
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(CAP)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut text = String::new();
        self.send(method, path, "connection: close\r\n", body)
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end.as_bytes()) {
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "ended before {end:?}: {text}");
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_value_is_kept_until_it_is_deleted() {
    let runner = Runner::start();
    let unset = runner.ask("GET", "/v1/value", "");
    assert!(
        unset.starts_with("HTTP/1.1 404") && unset.contains("keeps no value yet"),
        "{unset}"
    );
    assert!(
        runner
            .ask("PUT", "/v1/value", "remember me")
            .starts_with("HTTP/1.1 204")
    );
    assert!(
        runner
            .ask("GET", "/v1/value", "")
            .ends_with("\r\n\r\nremember me")
    );
    let huge = runner.ask("PUT", "/v1/value", &"x".repeat((1 << 20) + 1));
    assert!(
        huge.starts_with("HTTP/1.1 413") && huge.contains("1048576 bytes"),
        "{huge}"
    );
    assert!(runner.ask("DELETE", "/v1/value", "").starts_with("HTTP/1.1 204"));
    assert!(runner.ask("GET", "/v1/value", "").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_commands_output_is_streamed_without_loss() {
    let runner = Runner::start();
    let body = r#"{"cmd": ["sh", "-c", "cat; printf '\\377' >&2; exit 3"], "stdin": "in ü\n"}"#;
    let answer = runner.ask("POST", "/v1/run", body);
    for line in [
        r#"{"stream":"stdout","data":"in ü\n"}"#,
        r#"{"stream":"stderr","base64":"/w=="}"#,
        r#"{"exit":{"code":3}}"#,
    ] {
        assert!(answer.contains(line), "{line} is missing: {answer}");
    }
    let wrong = runner.ask("POST", "/v1/run", r#"{"cmd": "ls"}"#);
    assert!(
        wrong.starts_with("HTTP/1.1 400") && wrong.contains("cmd: invalid type: string"),
        "{wrong}"
    );
}

#[test]
fn a_command_and_its_children_die_when_the_client_leaves() {
    let runner = Runner::start();
    let body = r#"{"cmd": ["sh", "-c", "sleep 1000 & echo pids $$ $! end; wait"]}"#;
    let mut stream = runner.send("POST", "/v1/run", "", body);
    let text = read_until(&mut stream, " end");
    let pids: Vec<i32> = text
        .rsplit_once("pids")
        .unwrap()
        .1
        .split(' ')
        .filter_map(|w| w.parse().ok())
        .collect();
    assert_eq!(pids.len(), 2, "{text}");
    drop(stream);
    for pid in pids {
        poll("the command is gone", || {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                // An orphan that is dead may wait for whoever reaps it here.
                Ok(stat) if !stat.contains(") Z ") => Err(stat),
                _ => Ok(()),
            }
        });
    }
}

#[test]
fn a_websocket_sends_messages_back_and_says_why_it_goes_away() {
    let mut runner = Runner::start();
    let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut stream = runner.send("GET", "/v1/echo", headers, "");
    let head = read_until(&mut stream, "\r\n\r\n").to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    // RFC 6455, 1.3: the answer to that very key.
    assert!(
        head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    // A final text frame of 5 bytes, masked with zeroes.
    stream.write_all(b"\x81\x85\0\0\0\0hello").unwrap();
    let mut frame = [0; 7];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x05hello");

    // The child is not reaped yet, so the number is its own.
    kill(Pid::from_raw(runner.child.id() as i32), Signal::SIGTERM).unwrap();
    let mut close = [0; 4];
    stream.read_exact(&mut close).unwrap();
    assert_eq!(
        (close[0], u16::from_be_bytes([close[2], close[3]])),
        (0x88, 1001),
        "going away"
    );
    drop(stream);
    assert_eq!(runner.child.wait().unwrap().code(), Some(0));
    assert!(!runner.socket.exists(), "the socket is removed");
}
