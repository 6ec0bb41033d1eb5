//! The server over a real socket, a real driver behind it, and workers that are only pretended.

mod access;
mod creating;
mod events;
mod exec;
mod keys;
mod watching;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};

use super::{Former, Server};
use crate::config;
use crate::core::{Exit, SessionId, WorkerId};
use crate::driver::{Crew, Driver, Handle, SessionOutput, Shutdown};
use crate::worker::{Death, Endpoint, Event, Logs, Make, Stream};

/// Long enough for any machine; nothing is decided by it.
const CAP: Duration = Duration::from_secs(30);

struct Pretended {
    events: mpsc::Sender<Event>,
    logs: HashMap<WorkerId, Arc<Logs>>,
}

impl Crew for Pretended {
    fn start(&mut self, worker: WorkerId, _: &Make, _: Option<&SessionId>) {
        let logs = Arc::new(Logs::new(1 << 20));
        logs.push(
            Stream::Stdout,
            Bytes::from_static(b"\x1b[2Jhello"),
            SystemTime::now(),
        );
        self.logs.insert(worker, logs);
        let endpoint = Endpoint::Unix(Arc::new(PathBuf::from("/nowhere")));
        self.events.try_send(Event::Ready { worker, endpoint }).unwrap();
    }

    fn memory(&mut self) -> Option<crate::core::Memory> {
        None
    }

    fn watch(&mut self, _: WorkerId, _: Option<crate::worker::Probes>) {}

    fn terminate(&mut self, worker: WorkerId) {
        self.kill(worker);
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(logs) = self.logs.get(&worker) {
            logs.close();
        }
        let death = Death {
            pids: vec![11, 12],
            processes: 2,
            memory: 5_000_000,
            took: Duration::from_millis(2),
            survivors: 0,
            exit: Exit::Signal(9),
        };
        self.events.try_send(Event::Gone { worker, death }).unwrap();
    }

    fn pid(&self, _: WorkerId) -> Option<i32> {
        Some(11)
    }

    fn kill_switch(&self, _: WorkerId) -> Option<Arc<crate::worker::KillSwitch>> {
        None
    }

    fn plans(&self) -> crate::worker::Plans {
        crate::worker::Plans::new()
    }

    fn renew(&mut self, _: &[Arc<crate::worker::Plan>], _: &std::collections::BTreeSet<&str>) {}

    fn logs(&self, worker: WorkerId) -> Option<Arc<Logs>> {
        self.logs.get(&worker).cloned()
    }

    fn forget(&mut self, worker: WorkerId) {
        self.logs.remove(&worker);
    }
}

struct Herd {
    socket: PathBuf,
    port: Option<std::net::SocketAddr>,
    driver: Handle,
    door: crate::control::Door,
    stop: oneshot::Sender<()>,
    served: oneshot::Receiver<()>,
    tasks: JoinSet<()>,
    _shutdown: mpsc::Sender<Shutdown>,
    _dir: tempfile::TempDir,
}

const CONFIG: &str = r#"
workers:
  browser: { cmd: ["pretended", "{{.Port}}"], min: 0, max: 1 }
  shell: { cmd: ["pretended", "{{.Port}}"], min: 0, max: 1 }
"#;

fn start() -> Herd {
    start_with("")
}

/// With more of herd.yaml.
fn start_with(more: &str) -> Herd {
    start_after(Former::default(), more)
}

/// As the herd that comes after others.
fn start_after(former: Former, more: &str) -> Herd {
    let config = Arc::new(config::parse(&format!("{CONFIG}{more}"), "test.yaml").unwrap());
    let (events, received) = mpsc::channel(64);
    let secrets = crate::access::Secrets::read(&config).unwrap();
    let first = crate::access::InForce {
        config: Arc::clone(&config),
        access: crate::access::Access::new(&config, secrets, 8080),
    };
    let (mut owner, driver) = Driver::new(
        first,
        Pretended {
            events,
            logs: HashMap::new(),
        },
    );
    let (shutdown, shutdowns) = mpsc::channel(1);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("herd/control.sock");
    let server = Server::bind(&socket)
        .unwrap()
        .listen(&config, super::Admission::read(&config).unwrap())
        .unwrap()
        .remembering(former);
    let (port, door) = (server.local_addr(), server.door());
    let (stop, stopped) = oneshot::channel();
    let (done, served) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move { owner.run(received, shutdowns).await });
    let handle = driver.clone();
    let data = super::DataPort {
        url: "http://127.0.0.1:8080".to_owned(),
    };
    tasks.spawn_local(async move {
        server
            .serve(handle, data, async { stopped.await.unwrap_or(()) })
            .await
            .unwrap();
        let _ = done.send(());
    });
    Herd {
        socket,
        port,
        door,
        driver,
        stop,
        served,
        tasks,
        _shutdown: shutdown,
        _dir: dir,
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CAP, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

impl Herd {
    /// Head and body of the answer.
    async fn ask(&self, method: &str, path: &str) -> (String, String) {
        self.ask_with(method, path, "", "").await
    }

    async fn ask_with(&self, method: &str, path: &str, headers: &str, body: &str) -> (String, String) {
        let length = body.len();
        let headers = format!("connection: close\r\ncontent-length: {length}\r\n{headers}");
        let mut stream = self.send(method, path, &headers).await;
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    async fn json(&self, method: &str, path: &str) -> Value {
        let (head, body) = self.ask(method, path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: herd\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// An open hold, once it holds.
    async fn hold(&self, path: &str) -> UnixStream {
        let mut stream = self.send("GET", path, "").await;
        let text = read_until(&mut stream, "\"origin\"").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        stream
    }

    /// Polls until the session is in this state.
    async fn until(&self, id: &str, state: &str) -> Value {
        within(state, async {
            loop {
                let all = self.json("GET", "/v1/sessions?all=true").await;
                let rows = all["sessions"].as_array().unwrap();
                if let Some(row) = rows.iter().find(|row| row["id"] == id && row["state"] == state) {
                    return row.clone();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

async fn read_until(stream: &mut UnixStream, part: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    within(part, async {
        while !text.contains(part) {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the stream ended before {part:?}: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    })
    .await;
    text
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_hold_creates_a_session_and_its_end_kills_it() {
    local(async {
        let herd = start();
        assert_eq!(
            herd.json("GET", "/v1/sessions").await["sessions"],
            serde_json::json!([])
        );
        let hold = herd.hold("/v1/sessions/user-42/hold?worker=shell").await;
        let row = herd.until("user-42", "bound").await;
        assert_eq!(
            (&row["kind"], &row["holds"], &row["pid"]),
            (&"shell".into(), &1.into(), &11.into())
        );
        assert_eq!(row["ends_in_ms"], Value::Null, "held: {row}");
        drop(hold);
        let row = herd.until("user-42", "ended").await;
        assert_eq!(row["reason"], "disconnected", "{row}");
        assert_eq!(row["death"]["processes"], 2, "{row}");
        let shown = herd.json("GET", "/v1/sessions/user-42").await;
        assert_eq!(shown["state"], "ended");
        assert_eq!(shown["earlier"], serde_json::json!([]));
    });
}

#[test]
fn stopping_answers_with_what_died_and_tells_the_holder_why() {
    local(async {
        let herd = start();
        let mut hold = herd.hold("/v1/sessions/a/hold").await;
        let report = herd.json("DELETE", "/v1/sessions/a").await;
        assert_eq!(report["outcome"], "ended");
        assert_eq!(report["death"]["memory_bytes"], 5_000_000);
        assert_eq!(report["death"]["took_ms"], 2.0);
        let told = read_until(&mut hold, "0\r\n\r\n").await;
        assert!(
            told.contains(r#"{"ended":"stopped","detail":"stopped on request"}"#),
            "{told}"
        );
        let (head, body) = herd.ask("DELETE", "/v1/sessions/a").await;
        assert!(
            head.starts_with("HTTP/1.1 404") && head.contains("x-herd-error: unknown_session"),
            "{head}"
        );
        assert!(body.contains("there is no session a"), "{body}");
    });
}

#[test]
fn listing_logs_and_stopping_need_no_slot() {
    local(async {
        let herd = start();
        let _hold = herd.hold("/v1/sessions/first/hold").await;
        // The only slot is taken: this one waits.
        let _waiting = herd.send("GET", "/v1/sessions/second/hold", "").await;
        herd.until("second", "queued").await;
        let (head, body) = herd.ask("GET", "/v1/sessions/second/logs").await;
        assert!(head.contains("x-herd-error: no_worker_yet"), "{head}\n{body}");
        let (_, body) = herd.ask("GET", "/v1/sessions/first/logs").await;
        assert!(body.contains("\\x1b[2Jhello\n"), "escaped: {body:?}");
        let pools = herd.json("GET", "/v1/workers").await;
        assert_eq!(pools["workers"][0]["kind"], "browser");
        assert_eq!(
            (&pools["workers"][0]["bound"], &pools["workers"][0]["queued"]),
            (&1.into(), &1.into())
        );
        assert_eq!(
            herd.json("DELETE", "/v1/sessions/second").await["outcome"],
            "never_started"
        );
    });
}

#[test]
fn output_of_the_ended_is_asked_for_by_generation_and_at_last_only_its_last_lines_are_kept() {
    local(async {
        let herd = start();
        let mut generations = Vec::new();
        for number in 0..66 {
            let _hold = herd.hold("/v1/sessions/a/hold").await;
            let shown = herd.json("GET", "/v1/sessions/a").await;
            generations.push(shown["generation"].as_u64().unwrap());
            let output = herd
                .driver
                .logs(SessionId::parse(b"a").unwrap(), None)
                .await
                .unwrap();
            let Ok(SessionOutput::Ring(output)) = output else {
                panic!("{output:?}");
            };
            let line = Bytes::from(format!("number {number}"));
            output.push(Stream::Stdout, line, SystemTime::now());
            herd.json("DELETE", "/v1/sessions/a").await;
        }
        let asked = async |more: String| {
            let (head, body) = herd.ask("GET", &format!("/v1/sessions/a/logs{more}")).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
            body
        };
        assert!(asked(String::new()).await.contains("hello\nnumber 65\n"));
        // Its ring is still there; of the oldest, what is left of it.
        let at = |number: usize, more: &str| format!("?generation={}{more}", generations[number]);
        assert!(asked(at(2, "")).await.contains("\\x1b[2Jhello\nnumber 2\n"));
        let kept = "[herd: ended some time ago; its last lines are kept]\n";
        assert_eq!(asked(at(1, "")).await, format!("{kept}\\x1b[2Jhello\nnumber 1\n"));
        assert_eq!(asked(at(0, "&tail=1")).await, format!("{kept}number 0\n"));
        for (path, told) in [
            ("a", "session a has no generation 9007199254740991; "),
            ("b", "there is no session b; "),
        ] {
            let path = format!("/v1/sessions/{path}/logs?generation=9007199254740991");
            let (head, body) = herd.ask("GET", &path).await;
            assert!(head.contains("x-herd-error: unknown_session"), "{head}");
            assert!(body.contains(told), "{body}");
        }
    });
}

#[test]
fn output_of_an_ended_session_whose_worker_lives_on_is_gone() {
    local(async {
        let herd =
            start_with("  reused: { cmd: [\"pretended\", \"{{.Port}}\"], min: 0, max: 1, reuse: true }\n");
        let hold = herd.hold("/v1/sessions/a/hold?worker=reused").await;
        herd.json("DELETE", "/v1/sessions/a").await;
        drop(hold);
        let (head, body) = herd.ask("GET", "/v1/sessions/a/logs").await;
        assert!(head.starts_with("HTTP/1.1 410"), "{head}");
        assert!(head.contains("x-herd-error: output_gone"), "{head}");
        assert!(body.contains("the worker lives on"), "{body}");
    });
}

#[test]
fn followed_logs_end_with_the_worker() {
    local(async {
        let herd = start();
        let _hold = herd.hold("/v1/sessions/a/hold").await;
        let mut logs = herd
            .send("GET", "/v1/sessions/a/logs?follow=true&tail=1", "")
            .await;
        read_until(&mut logs, "hello\n").await;
        let output = herd
            .driver
            .logs(SessionId::parse(b"a").unwrap(), None)
            .await
            .unwrap();
        let Ok(SessionOutput::Ring(output)) = output else {
            panic!("{output:?}");
        };
        output.push(Stream::Stderr, Bytes::from_static(b"more"), SystemTime::now());
        read_until(&mut logs, "more\n").await;
        herd.json("DELETE", "/v1/sessions/a").await;
        read_until(&mut logs, "0\r\n\r\n").await;
    });
}

#[test]
fn a_request_that_is_wrong_is_told_how() {
    local(async {
        let herd = start();
        let long = format!("/v1/sessions/{}", "a".repeat(129));
        for (method, path, status, code, part) in [
            (
                "PATCH",
                "/v1/sessions",
                "405",
                "method_not_allowed",
                "this path takes GET, HEAD, POST",
            ),
            (
                "POST",
                "/v1/sessions/a",
                "405",
                "method_not_allowed",
                "this path takes GET, HEAD, PUT, DELETE",
            ),
            ("HEAD", "/v1/sessions/a/hold", "405", "method_not_allowed", ""),
            ("GET", "/v2", "404", "not_found", "there is nothing at /v2"),
            ("GET", "/v1/sessions/", "400", "session_id_invalid", "is empty"),
            ("GET", "/v1/sessions/a%20b", "400", "session_id_invalid", "'%'"),
            ("GET", "/v1/sessions/a%2Fb", "400", "session_id_invalid", "'%'"),
            ("GET", "/v1/sessions/%2e%2E", "400", "session_id_invalid", ""),
            (
                "GET",
                "/v1/sessions/a%7eb",
                "404",
                "unknown_session",
                "no session a~b;",
            ),
            ("GET", long.as_str(), "400", "session_id_invalid", "129 bytes"),
            (
                "GET",
                "/v1/sessions?al=true",
                "400",
                "bad_request",
                "known: all, id, worker, principal, state, limit, after, usage",
            ),
            (
                "GET",
                "/v1/sessions?all=yes",
                "400",
                "bad_request",
                "true or false, not \\\"yes\\\"",
            ),
            ("GET", "/v1/sessions?all&all", "400", "bad_request", "twice"),
            (
                "GET",
                "/v1/sessions/a/logs?tail=-1",
                "400",
                "bad_request",
                "a number from 0 to 1000000",
            ),
            (
                "GET",
                "/v1/sessions/a/logs",
                "404",
                "unknown_session",
                "no session a",
            ),
            (
                "GET",
                "/v1/sessions?worker=shell,x",
                "404",
                "unknown_worker",
                "there is no worker kind \\\"x\\\"",
            ),
            (
                "GET",
                "/v1/events?worker=shell,x",
                "404",
                "unknown_worker",
                "there is no worker kind \\\"x\\\"",
            ),
            (
                "GET",
                "/v1/sessions/a/hold?worker=x",
                "404",
                "unknown_worker",
                "there is browser, shell",
            ),
        ] {
            let (head, body) = herd.ask(method, path).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{method} {path}: {head}"
            );
            assert!(
                head.contains(&format!("x-herd-error: {code}\r\n")),
                "{method} {path}: {head}"
            );
            assert!(head.contains("application/problem+json"), "{head}");
            assert!(body.contains(part), "{method} {path}: {body}");
        }
        let _hold = herd.hold("/v1/sessions/a/hold?worker=shell").await;
        let (head, body) = herd.ask("GET", "/v1/sessions/a/hold?worker=browser").await;
        assert!(
            head.contains("409 Conflict") && body.contains("bound to a worker of kind shell"),
            "{body}"
        );
    });
}

async fn raw(herd: &Herd, request: &str) -> String {
    let mut stream = UnixStream::connect(&herd.socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Input that herd does not read may make this an error, when all of the answer is here.
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_body_that_nobody_asked_for_costs_nobody_an_answer() {
    local(async {
        let herd = start();
        for head in [
            "GET /v1/version",
            "DELETE /v1/sessions/none",
            "GET /nowhere",
            "POST /v1/version",
        ] {
            let (method, path) = head.split_once(' ').unwrap();
            let mut stream = herd.send(method, path, "content-length: 2\r\n").await;
            // herd has had the time to answer without the body.
            herd.json("GET", "/v1/version").await;
            let next = "{}GET /healthz HTTP/1.1\r\nhost: herd\r\n\r\n";
            stream.write_all(next.as_bytes()).await.unwrap();
            let text = read_until(&mut stream, "ok\n").await;
            assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{head}: {text}");
        }
    });
}

#[test]
fn a_head_that_is_not_http_gets_a_bare_status_and_the_connection_closes() {
    local(async {
        let herd = start();
        let head = |fields: &str| format!("PUT /v1/sessions/a HTTP/1.1\r\nhost: herd\r\n{fields}\r\n");
        for (request, status) in [
            ("GARBAGE\r\n\r\n".to_owned(), "400 Bad Request"),
            ("GET / HTTP/0.9\r\n\r\n".to_owned(), "400 Bad Request"),
            (
                head(&format!("content-length: {}\r\n", "9".repeat(20))),
                "400 Bad Request",
            ),
            (
                head("content-length: 1\r\ncontent-length: 2\r\n"),
                "400 Bad Request",
            ),
            (head("transfer-encoding: gzip\r\n"), "400 Bad Request"),
            (
                format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)),
                "414 URI Too Long",
            ),
            (
                head(&"a: b\r\n".repeat(200)),
                "431 Request Header Fields Too Large",
            ),
        ] {
            let answer = raw(&herd, &request).await;
            let shown = &request[..request.len().min(60)];
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{shown}: {answer}"
            );
            assert!(answer.contains("content-length: 0\r\n"), "{shown}: {answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{shown}: {answer}");
        }
        let list = herd.json("GET", "/v1/sessions?all=true").await;
        assert_eq!(list["sessions"], Value::Array(vec![]), "nothing was made");
    });
}

#[test]
fn nothing_is_read_as_a_request_behind_a_body_of_two_lengths() {
    local(async {
        let herd = start();
        let next = "DELETE /v1/sessions/a HTTP/1.1\r\nhost: herd\r\n\r\n";
        for fields in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ] {
            let head = format!("PUT /v1/sessions/a HTTP/1.1\r\nhost: herd\r\n{fields}\r\n");
            let answer = raw(&herd, &format!("{head}0\r\n\r\n{next}")).await;
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
            assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
        let shown = herd.json("GET", "/v1/sessions/a").await;
        assert_eq!(
            shown["state"], "bound",
            "the second request was not read: {shown}"
        );
    });
}

#[test]
fn herds_end_ends_streams_and_removes_the_socket() {
    local(async {
        let mut herd = start();
        let mut hold = herd.hold("/v1/sessions/a/hold").await;
        let _idle = UnixStream::connect(&herd.socket).await.unwrap();
        herd.stop.send(()).unwrap();
        read_until(&mut hold, "0\r\n\r\n").await;
        within("the end of serving", &mut herd.served).await.unwrap();
        assert!(!herd.socket.exists());
        herd.tasks.shutdown().await;
    });
}

#[test]
fn a_foreign_user_is_refused_even_if_the_files_let_it_through() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        crate::skip::skipped("needs root to connect as somebody else");
        return;
    }
    local(async {
        let herd = start();
        let dir = herd.socket.parent().unwrap();
        for (path, mode) in [
            (dir.parent().unwrap(), 0o755),
            (dir, 0o755),
            (&herd.socket, 0o666),
        ] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]);
        command
            .args(["curl", "-si", "http://herd/healthz", "--unix-socket"])
            .arg(&herd.socket);
        let (done, output) = oneshot::channel();
        std::thread::spawn(move || done.send(command.output()));
        let output = within("the refusal", output).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.starts_with("HTTP/1.1 403"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            text.contains("x-herd-error: forbidden") && text.contains("uid 12345"),
            "{text}"
        );
        assert!(text.contains("connection: close"), "{text}");
    });
}
