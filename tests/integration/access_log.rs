//! What requests leave in the access log of a real `herd start`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode as FileMode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::leak;
use crate::running::{HERD, Running, poll, stdout};
use crate::skip::skipped;
use crate::supervised::Mode;

/// A herd.yaml with these top-level lines.
fn yaml(dir: &Path, top: &str) -> String {
    format!(
        "{top}\nworkers:\n  runner:\n    cmd: [{HERD:?}, runner, --listen, \"{{{{.Port}}}}\"]\n    \
         health_path: /healthz\n    env: {{ HERD_TEST_TAG: {:?} }}\n    max: 4\n  \
         slow: {{ cmd: [sleep, \"60\"] }}\n",
        dir.display().to_string()
    )
}

const LOOPBACK: &str = "network: { data_bind: 127.0.0.1:0 }";

/// A herd whose `access_log` has this path, below its directory, and these further keys.
fn launch(dir: tempfile::TempDir, path: &str, keys: &str) -> Running {
    launch_as(Mode::Own, dir, path, keys)
}

fn launch_as(mode: Mode, dir: tempfile::TempDir, path: &str, keys: &str) -> Running {
    let path = dir.path().join(path);
    let top = format!("{LOOPBACK}\naccess_log: {{ path: {path:?}{keys} }}");
    let yaml = yaml(dir.path(), &top);
    Running::launch_with(dir, mode, &yaml)
}

fn start(keys: &str) -> (Running, PathBuf) {
    let herd = launch(tempfile::tempdir().unwrap(), "access.log", keys).ready();
    let path = herd.dir.path().join("access.log");
    (herd, path)
}

fn exchange(herd: &Running, request: impl AsRef<[u8]>) -> String {
    let client = Client::of(herd).unwrap();
    client.exchange(request.as_ref()).unwrap()
}

fn get(herd: &Running, id: &str, target: &str, fields: &str) -> String {
    exchange(
        herd,
        format!(
            "GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-session-id: {id}\r\n{fields}\r\n"
        ),
    )
}

/// The lines, as soon as there are so many.
fn lines(path: &Path, count: usize) -> Vec<Value> {
    poll(&format!("{count} lines"), || {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        match text.matches('\n').count() {
            there if there >= count && text.ends_with('\n') => Ok(text),
            _ => Err(text),
        }
    })
    .lines()
    .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
    .collect()
}

fn only(path: &Path) -> Value {
    let mut all = lines(path, 1);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn each_request_leaves_a_line_that_says_what_it_was_and_how_it_went() {
    let (herd, path) = start("");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let fields = format!("user-agent: curl/8\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n");
    let answer = get(&herd, "a", "/healthz?token=secret", &fields);
    assert!(answer.ends_with("ok\n"), "{answer}");
    let client = Client::of(&herd).unwrap();
    assert!(
        client
            .ask("a", "PUT /v1/value", "12345")
            .unwrap()
            .contains(" 204 ")
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("secret"), "{text}");
    let all = lines(&path, 2);
    let (first, second) = (&all[0], &all[1]);
    for (key, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "h"),
        ("path", "/healthz"),
        ("protocol", "HTTP/1.1"),
        ("session", "a"),
        ("worker", "runner"),
        ("state", "created"),
        ("end", "complete"),
        ("user_agent", "curl/8"),
        ("trace_id", trace),
    ] {
        assert_eq!(first[key], value, "{key}: {first}");
    }
    assert_eq!(
        (&first["status"], &first["response_bytes"]),
        (&200.into(), &3.into())
    );
    let ms = |line: &Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}"));
    assert!(
        ms(first, "start_ms") > 0.0 && ms(first, "queue_ms") >= 0.0,
        "{first}"
    );
    assert!(
        ms(first, "duration_ms") >= ms(first, "start_ms") + ms(first, "worker_ms"),
        "{first}"
    );
    assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
    for absent in ["error", "principal", "tunnel", "proxy"] {
        assert_eq!(first.get(absent), None, "{first}");
    }
    assert_eq!(second["state"], "reused");
    assert_eq!(
        (&second["status"], &second["request_bytes"]),
        (&204.into(), &5.into())
    );
    assert_eq!(second.get("trace_id"), None, "{second}");
}

#[test]
fn what_herd_refuses_leaves_a_line_with_its_code() {
    let (herd, path) = start("");
    for (request, error, has_method) in [
        (
            "GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
            "session_id_required",
            true,
        ),
        (
            "GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-session-id: a\r\nx-herd-worker: no\r\n\r\n",
            "unknown_worker",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "bad_request",
            false,
        ),
    ] {
        let answer = exchange(&herd, request);
        assert!(answer.contains(error), "{answer}");
        let all = lines(&path, 1);
        let line = all.last().unwrap();
        assert_eq!(line["error"], error, "{all:?}");
        assert_eq!(line.get("method").is_some(), has_method, "{line}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(line["response_bytes"], body.len(), "{line}");
        std::fs::write(&path, "").unwrap();
    }
}

#[test]
fn a_tunnel_leaves_its_line_at_its_end() {
    let (herd, path) = start("");
    let client = Client::of(&herd).unwrap();
    let mut stream = client.websocket("t").unwrap();
    // "hi", masked with zeros.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "", "it is still open");
    drop(stream);
    let line = only(&path);
    assert_eq!(line["status"], 101, "{line}");
    assert_eq!(line["tunnel"], "websocket", "{line}");
    assert_eq!(line["end"], "client_left", "{line}");
    assert_eq!(
        (&line["request_bytes"], &line["response_bytes"]),
        (&8.into(), &4.into())
    );
}

#[test]
fn a_client_that_leaves_before_its_answer_is_a_499() {
    let (herd, path) = start("");
    let client = Client::of(&herd).unwrap();
    let fields = "x-herd-worker: slow\r\n";
    let stream = client.send("gone", "GET /", fields, "").unwrap();
    herd.until("gone", "starting");
    stream.shutdown(Shutdown::Both).unwrap();
    let line = only(&path);
    assert_eq!(line["status"], 499, "{line}");
    assert_eq!(line["end"], "client_left", "{line}");
    assert_eq!(
        (&line["session"], &line["worker"]),
        (&"gone".into(), &"slow".into())
    );
    assert_eq!(line.get("worker_ms"), None, "{line}");
}

#[test]
fn of_a_client_that_leaves_in_the_middle_the_status_is_what_it_was_told() {
    let (herd, path) = start("");
    let client = Client::of(&herd).unwrap();
    let mut stream = client
        .send("a", "POST /v1/run", "", r#"{"cmd":["sleep","60"]}"#)
        .unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    let line = only(&path);
    assert_eq!(
        (&line["status"], &line["end"]),
        (&200.into(), &"client_left".into())
    );
}

#[test]
fn an_answer_that_its_worker_dies_in_ends_with_the_session() {
    let (herd, path) = start("");
    let client = Client::of(&herd).unwrap();
    let mut stream = client
        .send("a", "POST /v1/run", "", r#"{"cmd":["sh","-c","kill -9 $PPID"]}"#)
        .unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let line = only(&path);
    assert_eq!(
        (&line["status"], &line["end"]),
        (&200.into(), &"session_ended".into()),
        "{line}"
    );
}

#[test]
fn requests_over_http2_leave_lines_as_others_do() {
    let (herd, path) = start("");
    let url = format!("http://{}/v1/value", herd.data_address().unwrap());
    let arguments = ["--http2-prior-knowledge", "-sS", "-X", "PUT", "-d", "12345"];
    let fields = ["-H", "x-session-id: a", &url];
    let Ok(output) = Command::new("curl").args(arguments).args(fields).output() else {
        return skipped("curl is not installed");
    };
    assert!(output.status.success(), "{output:?}");
    let line = only(&path);
    assert_eq!(
        (&line["protocol"], &line["method"]),
        (&"HTTP/2".into(), &"PUT".into())
    );
    assert_eq!((&line["status"], &line["end"]), (&204.into(), &"complete".into()));
    assert_eq!(line["request_bytes"], 5, "{line}");
}

#[test]
fn nothing_a_client_sends_breaks_a_line() {
    let (herd, path) = start(", query: true");
    let mut request =
        b"GET /\x7f?a=\"%0a{} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-session-id: a\r\n".to_vec();
    request.extend_from_slice(b"user-agent: \xff\xfe\"},{\t\x9b2J\xe2\x80\xa8end\r\n\r\n");
    exchange(&herd, &request);
    let bytes = poll("the line", || {
        let bytes = std::fs::read(&path).unwrap();
        match bytes.last() {
            Some(b'\n') => Ok(bytes),
            _ => Err(format!("{bytes:?}")),
        }
    });
    assert!(
        bytes
            .iter()
            .all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)),
        "{bytes:?}"
    );
    assert_eq!(lines(&path, 1).len(), 1);
}

#[test]
fn queries_are_written_only_if_asked_for_and_never_with_what_is_herds() {
    let dir = tempfile::tempdir().unwrap();
    let (log, key) = (dir.path().join("log"), "herd_alice_0123456789abcdef");
    std::fs::write(dir.path().join("key"), key).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("key"), mode).unwrap();
    let top = format!(
        "{LOOPBACK}\nsession: {{ query: sid }}\nauth: {{ keys: {{ alice: {{ file: {:?} }} }} }}\naccess_log: {{ path: {log:?}, \
         query: true, session: hash }}",
        dir.path().join("key")
    );
    let text = yaml(dir.path(), &top);
    let herd = Running::launch_with(dir, Mode::Own, &text).ready();
    let answer = exchange(
        &herd,
        format!(
            "GET /healthz?a=b&sid=mine&herd_token=v1.secret&c=d HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\
             x-herd-key: {key}\r\n\r\n"
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let line = only(&log);
    assert_eq!(line["path"], "/healthz?a=b&c=d", "{line}");
    assert_eq!(line["principal"], "alice", "{line}");
    let session = line["session"].as_str().unwrap();
    assert!(session.len() == 16 && session != "mine", "{line}");
    let text = std::fs::read_to_string(&log).unwrap();
    for secret in ["mine", "secret", key] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn of_a_sample_of_none_only_errors_are_written() {
    let (herd, path) = start(", sample: 0, session: omit");
    for _ in 0..20 {
        assert!(get(&herd, "a", "/healthz", "").ends_with("ok\n"));
    }
    get(&herd, "no way", "/healthz", "");
    let line = only(&path);
    assert_eq!(line["error"], "session_id_invalid", "{line}");
    assert_eq!(line.get("session"), None, "{line}");
}

#[test]
fn a_trusted_proxy_is_believed_about_the_client() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let top = format!(
        "network: {{ data_bind: 127.0.0.1:0, trusted_proxies: [127.0.0.0/8] }}\naccess_log: {{ path: {log:?} }}"
    );
    let text = yaml(dir.path(), &top);
    let herd = Running::launch_with(dir, Mode::Own, &text).ready();
    get(
        &herd,
        "a",
        "/healthz",
        "x-forwarded-for: 6.6.6.6, 192.0.2.7, 127.0.0.9\r\n",
    );
    let line = only(&log);
    assert_eq!(
        (&line["client"], &line["proxy"]),
        (&"192.0.2.7".into(), &"127.0.0.1".into())
    );
}

#[test]
fn after_sigusr1_lines_go_to_a_file_of_the_old_name() {
    let (herd, path) = start("");
    get(&herd, "a", "/healthz", "");
    lines(&path, 1);
    let old = herd.dir.path().join("access.log.1");
    std::fs::rename(&path, &old).unwrap();
    get(&herd, "a", "/healthz", "");
    lines(&old, 2);
    kill(Pid::from_raw(herd.pid()), Signal::SIGUSR1).unwrap();
    poll("the new file", || {
        path.exists().then_some(()).ok_or("is not there".to_owned())
    });
    get(&herd, "a", "/healthz", "");
    assert_eq!(lines(&path, 1).len(), 1);
    assert_eq!(lines(&old, 2).len(), 2);
}

/// Processes that are herd's own: it, and the copies of it that have names.
fn own_processes(herd: &Running) -> Vec<i32> {
    let all = leak::processes(herd.tag());
    let named = all.iter().filter_map(|process| process.split_once(' '));
    let copies = named.filter(|(_, name)| name.starts_with("herd-"));
    let pids = copies.filter_map(|(pid, _)| pid.parse().ok());
    pids.chain([herd.pid()]).collect()
}

#[test]
fn sigusr1_to_all_of_herds_processes_ends_none() {
    for mode in [Mode::Own, Mode::Weak] {
        let herd = launch_as(mode, tempfile::tempdir().unwrap(), "access.log", "").ready();
        let path = herd.dir.path().join("access.log");
        let client = Client::of(&herd).unwrap();
        client.ask("a", "PUT /v1/value", "kept").unwrap();
        lines(&path, 1);
        std::fs::remove_file(&path).unwrap();
        let own = own_processes(&herd);
        assert!(own.len() >= 3, "herd, launcher, keeper: {own:?}");
        for pid in own {
            kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
        }
        poll("the new file", || {
            path.exists().then_some(()).ok_or("is not there".to_owned())
        });
        let kept = client.ask("a", "GET /v1/value", "").unwrap();
        assert!(kept.ends_with("kept"), "{mode:?}: {kept}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_named_with_its_line() {
    let mut herd = launch(tempfile::tempdir().unwrap(), "no/such/dir/log", "");
    let status = herd.wait();
    let said = herd.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("herd.yaml:2:21: access_log.path: cannot be opened to add lines: No such file"),
        "{said}"
    );
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let mut herd = launch(tempfile::tempdir().unwrap(), "/dev/full", "").ready();
    for _ in 0..3 {
        assert!(get(&herd, "a", "/healthz", "").ends_with("ok\n"));
    }
    poll("three lines are counted", || {
        match Client::of(&herd)
            .unwrap()
            .metric("herd_access_log_dropped_total")
            .unwrap()
        {
            3.0 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    let said = herd.logged("cannot write the access log");
    assert_eq!(said.matches("cannot write the access log").count(), 1, "{said}");
    kill(Pid::from_raw(herd.pid()), Signal::SIGTERM).unwrap();
    assert!(herd.wait().success());
}

#[test]
fn a_fifo_that_nobody_reads_stops_neither_requests_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    mkfifo(&dir.path().join("fifo"), FileMode::from_bits_truncate(0o600)).unwrap();
    let mut herd = launch(dir, "fifo", "").ready();
    let agent = format!("user-agent: {}\r\n", "x".repeat(2000));
    for _ in 0..100 {
        assert!(get(&herd, "a", "/healthz", &agent).ends_with("ok\n"));
    }
    kill(Pid::from_raw(herd.pid()), Signal::SIGTERM).unwrap();
    assert!(herd.wait().success());
}

#[test]
fn a_reload_turns_it_on_and_off_and_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let off = yaml(dir.path(), LOOPBACK);
    let herd = Running::launch_with(dir, Mode::Own, &off).ready();
    let (one, two) = (herd.dir.path().join("one"), herd.dir.path().join("two"));
    let reload = |log: Option<&Path>| {
        let top = log.map_or(String::new(), |log| format!("\naccess_log: {{ path: {log:?} }}"));
        let text = yaml(herd.dir.path(), &format!("{LOOPBACK}{top}"));
        std::fs::write(herd.dir.path().join("herd.yaml"), text).unwrap();
        herd.herd(&["reload"])
    };
    get(&herd, "a", "/healthz?off", "");
    assert!(reload(Some(&one)).status.success());
    get(&herd, "a", "/healthz", "");
    assert_eq!(lines(&one, 1).len(), 1);
    assert!(reload(Some(&two)).status.success());
    get(&herd, "a", "/healthz", "");
    assert_eq!(lines(&two, 1).len(), 1);
    let refused = reload(Some(&herd.dir.path().join("not/there")));
    assert!(
        stdout(&refused).contains("access_log.path: cannot be opened"),
        "{refused:?}"
    );
    get(&herd, "a", "/healthz", "");
    assert_eq!(lines(&two, 2).len(), 2);
    assert!(reload(None).status.success());
    get(&herd, "a", "/healthz", "");
    assert_eq!((lines(&one, 1).len(), lines(&two, 2).len()), (1, 2));
}

/// The top of a herd.yaml with these keys, all with their names, and this log.
fn keyed(log: &Path, keys: &[(&str, &str)]) -> String {
    let digest = |key: &str| data_encoding::HEXLOWER.encode(&Sha256::digest(key));
    let keys = { keys.iter() }.map(|(name, key)| format!("{name}: {{ sha256: {} }}", digest(key)));
    let keys: Vec<String> = keys.collect();
    format!(
        "{LOOPBACK}\naccess_log: {{ path: {log:?} }}\nauth: {{ keys: {{ {} }} }}",
        keys.join(", ")
    )
}

#[test]
fn a_line_names_whose_the_key_was_when_the_request_came() {
    const ONE: &str = "herd_one_0123456789abcdef";
    const TWO: &str = "herd_two_0123456789abcdef";
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let text = |dir: &Path, keys: &[(&str, &str)]| yaml(dir, &keyed(&log, keys));
    let first = text(dir.path(), &[("alice", ONE), ("bob", TWO)]);
    let herd = Running::launch_with(dir, Mode::Own, &first).ready();
    let reload = |keys: &[(&str, &str)]| {
        std::fs::write(herd.dir.path().join("herd.yaml"), text(herd.dir.path(), keys)).unwrap();
        let output = herd.herd(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    };
    let field = |key: &str| format!("x-herd-key: {key}\r\n");
    let client = Client::of(&herd).unwrap();
    let fields = |line: &Value| {
        let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let status = line["status"].as_u64().unwrap();
        (
            status,
            text("principal"),
            text("session"),
            text("error"),
            text("end"),
        )
    };
    let told = |status: u64, principal: &str, session: &str, error: &str, end: &str| {
        let text = str::to_owned;
        (status, text(principal), text(session), text(error), text(end))
    };

    // Under way when the key is another's: one at its worker, one that has no worker yet.
    let sleeps = r#"{"cmd":["sleep","60"]}"#;
    let mut bound = client
        .send("under-way", "POST /v1/run", &field(ONE), sleeps)
        .unwrap();
    bound.read_exact(&mut [0; 12]).unwrap();
    let slow = format!("{}x-herd-worker: slow\r\nconnection: close\r\n", field(ONE));
    let mut waiting = client.send("waiting", "GET /", &slow, "").unwrap();
    herd.until("waiting", "starting");
    reload(&[("alice", TWO), ("bob", ONE)]);
    assert!(get(&herd, "a", "/healthz", &field(ONE)).ends_with("ok\n"));
    assert!(get(&herd, "a", "/healthz", &field(TWO)).ends_with("ok\n"));
    let all = lines(&log, 2);
    assert_eq!(fields(&all[0]), told(200, "bob", "a", "-", "complete"));
    assert_eq!(fields(&all[1]), told(200, "alice", "a", "-", "complete"));

    // Whoever is taken away loses what is open, and it was theirs to the end.
    reload(&[("carol", TWO), ("bob", ONE)]);
    let mut rest = String::new();
    assert!(
        bound.read_to_string(&mut rest).is_err() || !rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
    waiting.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("x-herd-error: unauthorized"), "{rest}");
    let mut ended: Vec<_> = lines(&log, 4)[2..].iter().map(fields).collect();
    ended.sort();
    let expected = [
        told(200, "alice", "under-way", "-", "session_ended"),
        told(401, "alice", "waiting", "unauthorized", "complete"),
    ];
    assert_eq!(ended, expected);

    // A key that is nobody's names nobody; the one that took its place does.
    reload(&[("bob", ONE)]);
    assert!(get(&herd, "a", "/healthz", &field(TWO)).contains("x-herd-error: unauthorized"));
    assert!(get(&herd, "a", "/healthz", &field(ONE)).ends_with("ok\n"));
    let all = lines(&log, 6);
    assert_eq!(fields(&all[4]), told(401, "-", "-", "unauthorized", "complete"));
    assert_eq!(fields(&all[5]), told(200, "bob", "a", "-", "complete"));
}

#[test]
fn logrotate_takes_the_file_that_operations_md_shows() {
    let page = include_str!("../../docs/operations.md");
    let (_, shown) = page.split_once("as `/etc/logrotate.d/herd`").unwrap();
    let file = shown.split("```").nth(1).unwrap();
    assert!(file.contains("postrotate"), "{file}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("herd");
    std::fs::write(&path, file).unwrap();
    // Where Debian has it, which is in no ordinary user's PATH.
    let places = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
    let mut logrotate = Command::new("logrotate");
    logrotate.env("PATH", places).arg("--debug").arg(&path);
    let Ok(output) = logrotate.output() else {
        return skipped("logrotate is not installed");
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/var/log/herd/access.log"), "{said}");
    assert!(output.status.success() && !said.contains("error:"), "{said}");
}
