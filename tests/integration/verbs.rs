//! The commands that watch and use a running herd, against a real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::running::{HERD, Running, poll, spawn, stderr, stdout};
use crate::supervised::Mode;

#[test]
fn a_command_runs_with_a_session_of_its_own_that_ends_with_it() {
    let herd = Running::start();
    let script = r#"echo "$HERD_SESSION_HEADER: $HERD_SESSION_ID"; curl -sSi -H "$HERD_SESSION_HEADER: $HERD_SESSION_ID" "$HERD_URL/healthz"; exit 7"#;
    let output = herd.herd(&["run", "runner", "--session", "mine", "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.starts_with("x-session-id: mine\nHTTP/1.1 200 OK"), "{said}");
    assert!(
        said.contains("x-herd-session-state: reused"),
        "held before: {said}"
    );
    let row = herd.until("mine", "ended");
    assert_eq!(row["reason"], "disconnected", "{row}");
}

#[test]
fn a_run_that_is_killed_takes_its_session_with_it() {
    let herd = Running::start();
    let mut command = herd.command(&["run", "runner", "--session", "mine", "--", "cat"]);
    let mut run = spawn(command.stdin(Stdio::piped()));
    herd.until("mine", "bound");
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(herd.until("mine", "ended")["reason"], "disconnected");
}

#[test]
fn a_command_is_told_when_its_session_ends_first_and_goes_on() {
    let herd = Running::start();
    let mut command = herd.command(&["run", "runner", "--session", "mine", "--", "cat"]);
    let mut run = spawn(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
    herd.until("mine", "bound");
    herd.herd(&["stop", "mine"]);
    let mut line = String::new();
    let mut said = BufReader::new(run.stderr.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "herd: the session ended: stopped on request\n");
    // `cat` ends with its input, not with the session.
    drop(run.stdin.take());
    assert_eq!(run.wait().unwrap().code(), Some(0));
}

#[test]
fn a_run_that_cannot_be_says_why() {
    let herd = Running::start();
    let missing = herd.herd(&["run", "runner", "--", "/nowhere/program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(
        stderr(&missing).starts_with("herd: cannot run /nowhere/program: "),
        "{}",
        stderr(&missing)
    );
    let unknown = herd.herd(&["run", "browser", "--", "true"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        stderr(&unknown).contains("there is no worker kind \"browser\"; there is runner"),
        "{}",
        stderr(&unknown)
    );
    let killed = herd.herd(&["run", "runner", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
}

#[test]
fn sessions_are_filtered_measured_and_explained() {
    let herd = Running::start();
    let (mut hold, _) = herd.hold("a");
    let shown = stdout(&herd.herd(&["ps", "--usage", "--state", "bound", "--worker", "runner"]));
    let row: Vec<_> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[6]), ("a", "2"), "two processes: {shown}");
    let none = stdout(&herd.herd(&["ps", "-o", "json", "--state", "queued"]));
    assert_eq!(none, "[]\n");
    let none = herd.herd(&["ps", "--state", "queued"]);
    assert_eq!(stderr(&none), "no session is of this kind, principal and state\n");
    let wrong = herd.herd(&["ps", "--state", "alive"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));

    let inspected = stdout(&herd.herd(&["inspect", "a"]));
    assert!(
        inspected.contains("state:       bound, w1 of kind runner (pid "),
        "{inspected}"
    );
    assert!(inspected.contains(", held by 1 hold\n"), "{inspected}");
    assert!(inspected.contains("uses:        2 processes, "), "{inspected}");
    herd.herd(&["stop", "a"]);
    hold.wait().unwrap();
    let inspected = stdout(&herd.herd(&["inspect", "a"]));
    assert!(
        inspected.contains("ended:       stopped on request ("),
        "{inspected}"
    );
    assert!(inspected.contains("died:        2 processes, "), "{inspected}");
    let unknown = herd.herd(&["inspect", "b"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        stderr(&unknown).starts_with("herd: there is no session b"),
        "{}",
        stderr(&unknown)
    );
}

#[test]
fn a_dashboard_that_has_no_descriptor_free_says_so_and_goes_on() {
    let herd = Running::start();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 24; exec \"$0\" dashboard", HERD])
        .env("HERD_CONTROL_SOCKET", herd.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut dashboard = spawn(&mut command);
    let mut url = String::new();
    let mut said = BufReader::new(dashboard.stdout.take().unwrap());
    said.read_line(&mut url).unwrap();
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let many: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut told = BufReader::new(dashboard.stderr.take().unwrap()).lines();
    let short = told.find(|line| line.as_ref().unwrap().contains("cannot accept a connection"));
    assert!(short.is_some(), "it has ended");
    drop(many);
    let mut browser = TcpStream::connect(address).unwrap();
    browser
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    browser.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    dashboard.kill().unwrap();
    dashboard.wait().unwrap();
}

#[test]
fn events_are_watched_until_herd_has_drained() {
    let mut herd = Running::start();
    let mut command = herd.command(&["events", "-o", "json"]);
    let mut watcher = spawn(command.stdout(Stdio::piped()));
    let mut lines = BufReader::new(watcher.stdout.take().unwrap());
    let (mut hold, _) = herd.hold("a");
    let mut line = String::new();
    while !line.contains("session.created") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the events ended");
    }
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&event["session"], &event["kind"]),
        (&"a".into(), &"runner".into())
    );

    let drain = herd.herd(&["drain"]);
    assert_eq!(
        stdout(&drain),
        "draining: new sessions are refused, 1 session goes on for at most drain_timeout\n"
    );
    let refused = herd.herd(&["run", "runner", "--", "true"]);
    assert!(
        stderr(&refused).contains("herd is shutting down"),
        "{}",
        stderr(&refused)
    );
    let mut waiting = spawn(herd.command(&["drain", "--wait"]).stdout(Stdio::null()));
    // It has to be asked before the last session lets herd end.
    poll("the second drain is heard", || {
        let told = stdout(&herd.herd(&["events", "--replay", "100", "--no-follow"]));
        match told.matches("control.drain").count() {
            2 => Ok(()),
            _ => Err(told),
        }
    });
    hold.kill().unwrap();
    hold.wait().unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("\"herd.draining\"") && rest.contains("\"worker.gone\""),
        "{rest}"
    );
    assert_eq!(watcher.wait().unwrap().code(), Some(0));
    let status = herd.wait();
    herd.assert_clean(status);
}

#[test]
fn what_is_told_in_json_is_told_in_yaml_too() {
    let herd = Running::start();
    let (mut hold, _) = herd.hold("on");
    let pid = herd.until("on", "bound")["pid"].clone();
    let told = |arguments: &[&str]| stdout(&herd.herd(&[arguments, &["-o", "yaml"]].concat()));
    // A name that YAML 1.1 takes for a truth value stays a text.
    let listed = told(&["ps"]);
    assert!(
        listed.starts_with("- id: \"on\"\n  principal: null\n  generation: 1\n  kind: runner\n")
            || listed.starts_with("- id: 'on'\n  principal: null\n  generation: 1\n  kind: runner\n"),
        "{listed}"
    );
    assert!(listed.contains(&format!("\n  pid: {pid}\n")), "{listed}");
    let shown = told(&["inspect", "on"]);
    assert!(
        shown.ends_with("earlier: []\n") && shown.contains("\nholds: 1\n"),
        "{shown}"
    );
    let version = told(&["version"]);
    assert!(
        version.starts_with(concat!(
            "version: \"",
            env!("CARGO_PKG_VERSION"),
            "\"\nbuild:\n  commit: "
        )),
        "{version}"
    );
    let config = herd.dir.path().join("herd.yaml");
    let checked = told(&["check", "--config", config.to_str().unwrap()]);
    assert!(
        checked.contains("\nok: true\nworkers:\n- runner\nproblems: []\n"),
        "{checked}"
    );
    assert!(told(&["doctor"]).starts_with("- "), "{}", told(&["doctor"]));
    assert!(told(&["key"]).starts_with("key: herd_"));
    // Whatever comes one after the other is a stream of documents.
    let events = told(&["events", "--replay", "100", "--no-follow"]);
    let documents: Vec<&str> = events.split("---\n").collect();
    assert!(documents.len() > 2 && documents[0].is_empty(), "{events}");
    assert!(
        documents[1..]
            .iter()
            .all(|one| one.contains("\ntype: ") || one.starts_with("type: ")),
        "{events}"
    );
    let mut watch = spawn(
        herd.command(&["ps", "--watch", "1", "-o", "yaml"])
            .stdout(Stdio::piped()),
    );
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let begins = lines.map(Result::unwrap).filter(|line| line == "---");
    assert_eq!(begins.take(2).count(), 2);
    watch.kill().unwrap();
    watch.wait().unwrap();
    let stopped = told(&["stop", "on"]);
    assert!(
        stopped.contains("outcome: ended\ndeath:\n  processes: "),
        "{stopped}"
    );
    hold.wait().unwrap();
}

#[test]
fn requests_are_counted_by_their_answers() {
    let herd = Running::start();
    let address = herd.data_address().unwrap();
    for header in ["x-session-id: a", "x-session-id: a", "x-other: a"] {
        let url = format!("http://{address}/healthz");
        let output = std::process::Command::new("curl")
            .args(["-sS", "-H", header, &url])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let metrics = std::process::Command::new("curl")
        .args(["-sS", "http://herd/metrics", "--unix-socket"])
        .arg(herd.socket())
        .output()
        .unwrap();
    let text = stdout(&metrics);
    for line in [
        "herd_http_requests_total{code=\"200\"} 2\n",
        "herd_http_requests_total{code=\"400\"} 1\n",
        "herd_http_request_duration_seconds_count 3\n",
        "herd_websocket_connections 0\n",
        "herd_kill_survivors_total{worker=\"runner\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn the_version_is_told_with_and_without_a_herd() {
    let herd = Running::start();
    let told = stdout(&herd.herd(&["version"]));
    let address = herd.data_address().unwrap();
    assert!(
        told.starts_with(&format!("herd {} (", env!("CARGO_PKG_VERSION"))) && told.contains(", rustc 1."),
        "{told}"
    );
    assert!(
        told.contains(&format!("sessions at http://{address}\n")),
        "{told}"
    );
    let alone = std::process::Command::new(HERD)
        .args([
            "version",
            "-o",
            "json",
            "--control-socket",
            "/nowhere/control.sock",
        ])
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!((alone.status.code(), &told["running"]), (Some(0), &Value::Null));
}

#[test]
fn a_key_that_herd_makes_opens_the_port() {
    let made = std::process::Command::new(HERD)
        .args(["key", "-o", "json"])
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let sha256 = made["sha256"].as_str().unwrap();
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\n\
         control: {{ tcp: 127.0.0.1:0, keys: {{ grafana: {{ sha256: {sha256}, may: metrics }} }} }}\n\
         workers: {{ runner: {{ cmd: [{HERD}, runner, --listen, \"{{{{.Port}}}}\"], sandbox: off }} }}\n"
    );
    let herd = Running::launch_with(tempfile::tempdir().unwrap(), Mode::Own, &yaml).ready();
    let said = herd.said();
    let url = said
        .split_once("control_url=\"")
        .unwrap()
        .1
        .split('"')
        .next()
        .unwrap();
    let ask = |path: &str, key: &str| {
        let header = format!("authorization: Bearer {key}");
        let output = std::process::Command::new("curl")
            .args([
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                &header,
                &format!("{url}{path}"),
            ])
            .output()
            .unwrap();
        stdout(&output)
    };
    let key = made["key"].as_str().unwrap();
    assert_eq!(ask("/metrics", key), "200");
    assert_eq!(ask("/v1/sessions", key), "403");
    assert_eq!(ask("/metrics", "herd_wrong"), "401");
}

#[test]
fn completions_are_accepted_by_the_shell() {
    let completions = std::process::Command::new(HERD)
        .args(["completions", "bash"])
        .output()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("herd");
    std::fs::write(&file, &completions.stdout).unwrap();
    let complete =
        r#"source "$1"; COMP_WORDS=(herd dr); COMP_CWORD=1; _herd herd dr herd; echo "${COMPREPLY[@]}""#;
    let output = std::process::Command::new("bash")
        .args(["-c", complete, "bash"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "drain\n", "{}", stderr(&output));
    for shell in ["zsh", "fish"] {
        let output = std::process::Command::new(HERD)
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(
            stdout(&output).contains("until Ctrl-C"),
            "{shell} knows no --watch"
        );
    }
}
