//! A new herd.yaml for a herd that runs: what it changes, what it leaves alone, and what it does not get.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::Digest as _;

use crate::client::Client;
use crate::running::{CAP, HERD, Running, poll, spawn, stderr, stdout};
use crate::supervised::Mode;

/// A kind whose workers know this mark.
fn kind(name: &str, mark: &str, more: &str) -> String {
    format!(
        "  {name}:\n    cmd: [{HERD}, runner, --listen, \"{{{{.Port}}}}\"]\n    health_path: /healthz\n    \
         env: {{ MARK: \"{mark}\" }}\n{more}"
    )
}

fn file(kinds: &[String]) -> String {
    format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\nworkers:\n{}",
        kinds.concat()
    )
}

const OFF: &str = "    sandbox: off\n";

fn marked(mark: &str) -> String {
    file(&[kind("runner", mark, OFF)])
}

struct Herd {
    running: Running,
    client: Client,
}

impl Herd {
    fn start(yaml: &str) -> Self {
        Self::of(Running::launch_with(tempfile::tempdir().unwrap(), Mode::Own, yaml).ready())
    }

    fn of(running: Running) -> Self {
        let client = Client::of(&running).unwrap();
        Self { running, client }
    }

    fn write(&self, yaml: &str) {
        fs::write(self.path(), yaml).unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.running.dir.path().join("herd.yaml")
    }

    /// Reloads, and it succeeds; what was printed.
    fn reload(&self, yaml: &str) -> String {
        self.write(yaml);
        let output = self.running.herd(&["reload"]);
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    /// Reloads, and it does not; what was printed.
    fn reload_fails(&self, yaml: &str) -> String {
        self.write(yaml);
        let output = self.running.herd(&["reload"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stdout(&output)
    }

    fn generation(&self) -> u64 {
        let version = self.client.look("/v1/version").unwrap();
        version["config_generation"].as_u64().unwrap()
    }

    /// What a command says that runs in a session's worker.
    fn run(&self, id: &str, headers: &str, script: &str) -> String {
        let body = serde_json::json!({ "cmd": ["sh", "-c", script] }).to_string();
        let headers = format!("connection: close\r\ncontent-type: application/json\r\n{headers}");
        let mut answer = String::new();
        let sent = self.client.send(id, "POST /v1/run", &headers, &body);
        sent.unwrap().read_to_string(&mut answer).unwrap();
        answer
    }

    fn mark(&self, id: &str) -> String {
        let answer = self.run(id, "", "echo mark=$MARK.");
        let found = answer
            .split("mark=")
            .nth(1)
            .and_then(|rest| rest.split('.').next());
        found.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    fn pool(&self, kind: &str) -> Value {
        let workers = self.client.look("/v1/workers").unwrap();
        let found = workers["workers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|pool| pool["kind"] == kind);
        found.cloned().unwrap_or_default()
    }

    fn open(&self) -> Open {
        let stream = TcpStream::connect(&self.client.data).unwrap();
        stream.set_read_timeout(Some(CAP)).unwrap();
        Open(stream)
    }

    fn metrics(&self) -> String {
        let output = std::process::Command::new("curl")
            .args(["-sS", "http://herd/metrics", "--unix-socket"])
            .arg(self.running.socket())
            .output()
            .unwrap();
        stdout(&output)
    }
}

/// A connection that stays open.
struct Open(TcpStream);

impl Open {
    /// A request whose session this header names; the answer, which has nearly no body.
    fn ask(&mut self, header: &str, id: &str) -> String {
        write!(
            self.0,
            "GET /healthz HTTP/1.1\r\nhost: h\r\n{header}: {id}\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
            let length = self.0.read(&mut buffer).unwrap();
            assert!(length > 0, "closed");
            answer.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[test]
fn a_session_keeps_its_worker_and_the_next_gets_one_of_the_new_file() {
    let herd = Herd::start(&marked("one"));
    let (mut hold, _) = herd.running.hold("a");
    assert_eq!(herd.mark("a"), "one");
    let said = herd.reload(&marked("two"));
    assert_eq!(said, "configuration 2 is in force: runner renewed\n");
    assert_eq!((herd.mark("a"), herd.mark("b")), ("one".into(), "two".into()));
    assert_eq!(herd.generation(), 2);
    assert_eq!(herd.pool("runner")["outdated"], 1);
    let listed = stdout(&herd.running.herd(&["ps"]));
    assert!(listed.contains("w1 (config 1)"), "{listed}");
    assert!(!listed.contains("(config 2)"), "{listed}");
    let inspected = stdout(&herd.running.herd(&["inspect", "a"]));
    assert!(
        inspected.contains("outdated:    of configuration 1"),
        "{inspected}"
    );
    herd.running.herd(&["stop", "a"]);
    hold.wait().unwrap();
    assert_eq!(herd.pool("runner")["outdated"], 0);
    assert_eq!(herd.mark("a"), "two");
    let events = stdout(&herd.running.herd(&["events", "--replay", "100", "--no-follow"]));
    assert!(
        events.contains("config.reloaded by control: runner renewed"),
        "{events}"
    );
    assert!(events.contains("control.reload by uid"), "{events}");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_complained_about_as_check_does() {
    let herd = Herd::start(&marked("one"));
    let wrong = marked("two").replace("sandbox: off", "sandbox: maybe\n    maximum: 3");
    let said = herd.reload_fails(&wrong);
    let check = std::process::Command::new(HERD)
        .args(["check", "--config"])
        .arg(herd.path())
        .output()
        .unwrap();
    assert_eq!(said, stdout(&check));
    assert!(said.contains(&format!("{}:7:", herd.path().display())), "{said}");
    assert!(said.ends_with("herd.yaml: 2 problems\n"), "{said}");
    let output = herd.running.herd(&["reload", "-o", "json"]);
    let problem: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&problem["code"], &problem["status"]),
        (&"config_invalid".into(), &422.into())
    );
    assert_eq!(problem["problems"].as_array().unwrap().len(), 2);
    assert_eq!(problem["problems"][1]["path"], "workers.runner.maximum");

    fs::remove_file(herd.path()).unwrap();
    let missing = herd.running.herd(&["reload"]);
    assert!(
        stdout(&missing).starts_with("there is no "),
        "{}",
        stdout(&missing)
    );
    assert_eq!((herd.generation(), herd.mark("a")), (1, "one".into()));
    let metrics = herd.metrics();
    for line in [
        "herd_config_reloads_total{result=\"error\"} 3\n",
        "herd_config_reloads_total{result=\"ok\"} 0\n",
        "herd_config_last_reload_successful 0\n",
        "herd_config_generation 1\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    herd.reload(&marked("two"));
    assert!(herd.metrics().contains("herd_config_last_reload_successful 1\n"));
    let said = herd.running.said();
    assert!(said.contains("the configuration was not reloaded"), "{said}");
    // A line for each problem, and none with line ends spelled out.
    assert!(
        said.contains(&format!(
            "{}:8:5: workers.runner.maximum: ",
            herd.path().display()
        )) && !said.contains("\\n"),
        "{said}"
    );
}

#[test]
fn what_only_a_start_can_take_is_refused_by_its_place_with_all_else_in_the_file() {
    let herd = Herd::start(&marked("one"));
    let top = "network: { data_bind: 127.0.0.1:1 }\nlifetime: strict\n";
    let other = marked("two").replace("network: { data_bind: 127.0.0.1:0 }\n", top);
    let said = herd.reload_fails(&other);
    let path = herd.path().display().to_string();
    assert!(
        said.contains(&format!(
            "{path}:1:23: network.data_bind: has changed, and only a start"
        )),
        "{said}"
    );
    assert!(
        said.contains(&format!("{path}:2:11: lifetime: has changed")),
        "{said}"
    );
    assert!(said.ends_with(": 2 problems\n"), "{said}");
    assert_eq!(herd.mark("a"), "one");
    // Flags are stronger than the file, at a reload as at the start.
    let overridden = format!(
        "state_dir: /nowhere\ncontrol: {{ socket: /nowhere/s }}\n{}",
        marked("two")
    );
    herd.reload(&overridden);
    assert_eq!(herd.mark("b"), "two");
}

#[test]
fn what_is_removed_and_only_a_start_can_take_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let history = format!(
        "history: {{ dir: {0}/h, size: 1M }}\nlifetime: best-effort\n",
        dir.path().display()
    );
    let network = |bind: &str| {
        let (kinds, more) = (marked("one"), format!("network:\n  idle_timeout: 9s\n{bind}"));
        kinds.replace("network: { data_bind: 127.0.0.1:0 }\n", &more)
    };
    let first = format!("{history}{}", network("  data_bind: 127.0.0.1:0\n"));
    let herd = Herd::of(Running::launch_with(dir, Mode::Own, &first).ready());
    let said = herd.reload_fails(&format!("# less\n{}", network("")));
    let path = herd.path().display().to_string();
    let removed = |place: &str| {
        format!(
            "{path}:{place}: was removed, and only a start can take that: restart herd, or undo the change\n"
        )
    };
    let expected = format!(
        "{}{}{} 2 | network:\n   | ^\n{path}: 3 problems\n",
        removed("1:1: history.dir"),
        removed("1:1: history.size"),
        removed("2:1: network.data_bind")
    );
    assert_eq!(said, expected);
}

#[test]
fn all_that_a_new_file_names_is_looked_at_at_once_and_nothing_is_made_for_a_wrong_one() {
    let herd = Herd::start(&marked("one"));
    let dir = herd.running.dir.path();
    let with = |log: &str, sandbox: &str| {
        let log = format!("access_log: {{ path: {}/{log} }}\n", dir.display());
        log + &file(&[kind("runner", "one", sandbox)])
    };
    let bundle = "    sandbox: { bundle: /nowhere }\n";
    let said = herd.reload_fails(&with("no/log", bundle));
    assert!(
        said.contains("access_log.path: cannot be opened")
            && said.contains("sandbox.bundle: /nowhere does not exist")
            && said.ends_with(": 2 problems\n"),
        "{said}"
    );
    herd.reload_fails(&with("log", bundle));
    assert!(!dir.join("log").exists());

    // What a herd that runs has already is no reason to refuse it another file.
    let open = fs::Permissions::from_mode(0o750);
    fs::set_permissions(dir.join("run"), open).unwrap();
    herd.reload(&with("log", OFF));
    assert!(dir.join("log").exists());
}

#[test]
fn rules_change_under_a_session_that_lives() {
    let herd = Herd::start(&file(&[kind(
        "runner",
        "one",
        &format!("{OFF}    max: 4\n    ttl: 1h\n"),
    )]));
    assert_eq!(herd.mark("a"), "one");
    let said = herd.reload(&file(&[kind(
        "runner",
        "one",
        &format!("{OFF}    max: 1\n    min: 1\n    ttl: never\n"),
    )]));
    assert_eq!(said, "configuration 2 is in force: runner adjusted\n");
    let pool = herd.pool("runner");
    assert_eq!(
        (&pool["max"], &pool["min"], &pool["outdated"]),
        (&1.into(), &1.into(), &0.into())
    );
    let session = &herd.client.look("/v1/sessions").unwrap()["sessions"][0];
    assert_eq!(
        (&session["state"], &session["ends_in_ms"]),
        (&"bound".into(), &Value::Null)
    );
    let refused = herd
        .client
        .send("b", "GET /healthz", "connection: close\r\nx-herd-wait: 0\r\n", "");
    let mut answer = String::new();
    refused.unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.contains("x-herd-error: at_capacity"), "{answer}");
    herd.reload(&file(&[kind("runner", "one", &format!("{OFF}    ttl: 20ms\n"))]));
    assert_eq!(herd.running.until("a", "ended")["reason"], "ttl");
}

#[test]
fn kinds_come_and_go_and_routes_follow() {
    let kinds = [kind("old", "old", OFF), kind("stays", "stays", OFF)];
    let herd = Herd::start(&file(&kinds));
    let (mut hold, _) = herd.running.hold("a");
    assert_eq!(herd.mark("a"), "old", "the first kind is for who names none");
    let route = format!("{OFF}    routes: [{{ path_prefix: /v1 }}]\n");
    let said = herd.reload(&file(&[kind("stays", "stays", OFF), kind("new", "new", &route)]));
    assert_eq!(said, "configuration 2 is in force: new added; old removed\n");
    assert_eq!(herd.mark("b"), "new");
    let first = herd.client.ask("c", "GET /healthz", "").unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let kinds: Vec<Value> = herd.client.look("/v1/sessions").unwrap()["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["kind"].clone())
        .collect();
    assert_eq!(kinds, ["old", "new", "stays"]);
    // Who has a session of the kind that is gone still reaches it, by its name, too.
    let named = herd.run("a", "x-herd-worker: old\r\n", "echo mark=$MARK.");
    assert!(named.contains("mark=old."), "{named}");
    assert_eq!(herd.pool("old")["removed"], true);
    let unknown = herd.run("d", "x-herd-worker: old\r\n", "true");
    assert!(
        unknown.starts_with("HTTP/1.1 404") && unknown.contains("x-herd-error: unknown_worker"),
        "{unknown}"
    );
    assert!(unknown.contains("\"workers\":[\"stays\",\"new\"]"), "{unknown}");
    herd.running.herd(&["stop", "a"]);
    hold.wait().unwrap();
    assert_eq!(herd.pool("old"), Value::Null);
}

#[test]
fn who_names_no_kind_gets_the_one_that_the_new_file_has_first() {
    let (one, two) = (kind("one", "one", OFF), kind("two", "two", OFF));
    let herd = Herd::start(&file(&[one.clone(), two.clone()]));
    let mut open = herd.open();
    let mut kind_of = |id: &str| {
        let answer = open.ask("x-session-id", id);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let session = herd.client.look(&format!("/v1/sessions/{id}")).unwrap();
        session["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind_of("a"), "one");
    let said = herd.reload(&file(&[two.clone(), one.clone()]));
    assert_eq!(
        said,
        "configuration 2 is in force: every kind of worker is as it was\n"
    );
    assert_eq!(kind_of("b"), "two", "on a connection from before, too");
    assert_eq!(kind_of("a"), "one", "a session has the worker it has");
    let named = herd.run("c", "x-herd-worker: one\r\n", "echo mark=$MARK.");
    assert!(named.contains("mark=one."), "{named}");
    let (mut hold, line) = herd.running.hold("d");
    assert!(line.contains(" two "), "so is it over the control API: {line}");
    let pools = herd.client.look("/v1/workers").unwrap();
    let names: Vec<&Value> = { pools["workers"].as_array().unwrap().iter() }
        .map(|pool| &pool["kind"])
        .collect();
    assert_eq!(names, ["two", "one"]);
    // A new kind before all others, and the first one gone, are other orders as well.
    let zero = kind("zero", "zero", OFF);
    herd.reload(&file(&[zero, two.clone(), one.clone()]));
    assert_eq!(herd.mark("e"), "zero");
    herd.reload(&file(&[one, two]));
    assert_eq!(herd.mark("f"), "one");
    hold.kill().unwrap();
    hold.wait().unwrap();
}

#[test]
fn a_key_that_may_use_some_kinds_gets_the_first_of_them_in_the_new_order() {
    const KEY: &str = "herd_alice_0123456789abcdef";
    let kinds = ["one", "two", "three"].map(|name| kind(name, name, OFF));
    let with = |order: [usize; 3]| {
        let kinds = order.map(|place| kinds[place].clone());
        // In an order of its own, which counts for nothing.
        let may = "workers: [three, two]";
        let digest = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(KEY));
        format!(
            "auth: {{ keys: {{ alice: {{ sha256: {digest}, {may} }} }} }}\n{}",
            file(&kinds)
        )
    };
    let herd = Herd::start(&with([0, 1, 2]));
    let mark = |id: &str| herd.run(id, &format!("x-herd-key: {KEY}\r\n"), "echo mark=$MARK.");
    assert!(mark("a").contains("mark=two."), "{}", mark("a"));
    herd.reload(&with([2, 0, 1]));
    assert!(mark("b").contains("mark=three."), "{}", mark("b"));
    assert!(mark("a").contains("mark=two."), "{}", mark("a"));
    let (mut hold, line) = herd.running.hold("alice/c");
    assert!(line.contains(" three "), "{line}");
    hold.kill().unwrap();
    hold.wait().unwrap();
}

#[test]
fn who_waits_for_a_kind_that_goes_is_served_by_the_one_that_is_meant_now() {
    let full = format!("{OFF}    max: 1\n");
    let herd = Herd::start(&file(&[kind("old", "old", &full)]));
    let (mut hold, _) = herd.running.hold("a");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| herd.mark("b"));
        let named = scope.spawn(|| herd.run("c", "x-herd-worker: old\r\n", "true"));
        poll("both wait", || match herd.pool("old")["queued"].as_u64() {
            Some(2) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        herd.reload(&file(&[kind("new", "new", OFF)]));
        assert_eq!(waits.join().unwrap(), "new");
        let named = named.join().unwrap();
        assert!(
            named.contains("x-herd-error: unknown_worker"),
            "it asked for that one: {named}"
        );
    });
    herd.running.herd(&["stop", "a"]);
    hold.wait().unwrap();
}

#[test]
fn the_name_of_a_session_changes_for_the_next_request_of_an_open_connection() {
    let herd = Herd::start(&marked("one"));
    let mut open = herd.open();
    let mut ask = |header: &str| open.ask(header, "a");
    assert!(ask("x-session-id").starts_with("HTTP/1.1 200"));
    herd.reload(&format!("session: {{ header: X-Room }}\n{}", marked("one")));
    let refused = ask("x-session-id");
    assert!(refused.contains("x-herd-error: session_id_required"), "{refused}");
    let served = ask("x-room");
    assert!(
        served.contains("x-room: a") && served.contains("x-herd-session-state: reused"),
        "{served}"
    );
    assert_eq!(
        herd.client.look("/v1/version").unwrap()["session_header"],
        "x-room"
    );
}

#[test]
fn no_request_is_lost_while_reload_follows_reload() {
    let stock = format!("{OFF}    min: 2\n    max: 40\n");
    let with = |mark: usize, max: usize| {
        let more = stock.replace("40", &max.to_string());
        // Now and then the kinds change places, and one is not there.
        let mut kinds = vec![kind("runner", &mark.to_string(), &more), kind("other", "o", OFF)];
        if mark.is_multiple_of(3) {
            kinds.pop();
        }
        file(&kinds)
    };
    let herd = Herd::start(&with(0, 40));
    for client in 0..3 {
        assert_eq!(herd.mark(&format!("kept-{client}")), "0");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let (herd, done) = (&herd, &done);
                scope.spawn(move || {
                    let mut served = 0;
                    while !done.load(Ordering::Relaxed) {
                        // An old session and a new one in turn.
                        let new = format!("c{client}-{served}");
                        let kept = format!("kept-{client}");
                        for id in [&kept, &new] {
                            let answer = herd.client.ask(id, "GET /healthz", "").unwrap();
                            assert!(answer.starts_with("HTTP/1.1 200"), "{id}: {answer}");
                        }
                        herd.client.stop(&new).unwrap();
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for mark in 1..=8 {
            herd.reload(&with(mark, 40 - mark));
            let id = format!("probe-{mark}");
            assert_eq!(
                herd.mark(&id),
                mark.to_string(),
                "in force when the command returns"
            );
            herd.client.stop(&id).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    assert_eq!(herd.generation(), 9);
    let kept = herd.client.look("/v1/sessions/kept-0").unwrap();
    assert_eq!(kept["config_generation"], 1, "it has never been touched: {kept}");
}

#[test]
fn many_who_ask_at_once_are_all_answered_and_a_storm_of_signals_is_survived() {
    let herd = Herd::start(&marked("one"));
    herd.write(&marked("two"));
    for _ in 0..100 {
        kill(Pid::from_raw(herd.running.pid()), Signal::SIGHUP).unwrap();
    }
    let mut asking: Vec<_> = (0..8)
        .map(|_| {
            spawn(
                herd.running
                    .command(&["reload"])
                    .stdout(std::process::Stdio::null()),
            )
        })
        .collect();
    for asked in &mut asking {
        assert!(asked.wait().unwrap().success());
    }
    assert_eq!(herd.mark("a"), "two");
    herd.write(&marked("three"));
    let before = herd.generation();
    kill(Pid::from_raw(herd.running.pid()), Signal::SIGHUP).unwrap();
    poll("the signal is obeyed", || match herd.generation() {
        now if now > before => Ok(()),
        now => Err(now.to_string()),
    });
    assert_eq!(herd.mark("b"), "three");
}

/// As an editor saves: a new file takes the place of the old.
fn save(path: &Path, yaml: &str) {
    let new = path.with_extension("new");
    fs::write(&new, yaml).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_file_that_is_watched_is_in_force_soon_after_it_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let through = ["bash", "-c", "exec \"$@\" --watch", "bash"];
    let herd = Herd::of(Running::launch_through(&through, dir, Mode::Own, &marked("one")).ready());
    let in_force = |generation: u64| {
        poll(&format!("configuration {generation}"), || {
            match herd.generation() {
                now if now == generation => Ok(()),
                now => Err(now.to_string()),
            }
        });
    };
    save(&herd.path(), &marked("two"));
    in_force(2);
    assert_eq!(herd.mark("a"), "two");
    // Half written, then wrong, then right; and written in place.
    herd.write("workers:\n");
    herd.running.logged("workers: is empty");
    assert_eq!((herd.generation(), herd.mark("b")), (2, "two".into()));
    herd.write(&marked("three"));
    in_force(3);
    // Away for a moment.
    fs::remove_file(herd.path()).unwrap();
    save(&herd.path(), &marked("four"));
    in_force(4);
    assert_eq!(herd.mark("c"), "four");
    let events = stdout(&herd.running.herd(&["events", "--replay", "100", "--no-follow"]));
    assert!(events.contains("config.reload_failed by watch: "), "{events}");
    assert_eq!(events.matches("config.reloaded by watch").count(), 3, "{events}");
}

/// Who may read events may not read herd.yaml.
#[test]
fn the_event_of_a_failed_reload_quotes_no_line_of_the_file() {
    let herd = Herd::start(&marked("one"));
    let pasted = "auth: { keys: { bob: { sha256: herd_27bcf687e6a7befb65831e957057cce0 } } }";
    let told = herd.reload_fails(&format!("{pasted}\n{}", marked("two")));
    let events = stdout(&herd.running.herd(&["events", "--replay", "100", "--no-follow"]));
    assert!(events.contains("auth.keys.bob.sha256: "), "{events}");
    assert!(!events.contains("27bcf687"), "{events}{told}");
}

#[test]
fn a_herd_that_drains_is_not_reloaded() {
    let mut herd = Herd::start(&marked("one"));
    let (mut hold, _) = herd.running.hold("a");
    assert!(herd.running.herd(&["drain"]).status.success());
    herd.write(&marked("two"));
    let refused = herd.running.herd(&["reload"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(stderr(&refused), "herd: herd is shutting down\n");
    assert_eq!(herd.generation(), 1);
    hold.kill().unwrap();
    hold.wait().unwrap();
    let status = herd.running.wait();
    herd.running.assert_clean(status);
}

/// The runner that herd brings, in this sandbox.
fn own(sandbox: &str) -> String {
    format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\nworkers:\n  runner:\n    cmd: [herd, runner, --listen, \"{{{{.Port}}}}\"]\n    \
         health_path: /healthz\n    sandbox: {sandbox}\n"
    )
}

#[test]
fn a_sandbox_that_changes_is_that_of_the_next_session() {
    if !nix::unistd::geteuid().is_root() {
        return crate::skip::skipped("the launcher has to be root's");
    }
    let dir = tempfile::tempdir().unwrap();
    let shown = dir.path().join("shown");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("word"), "hello").unwrap();
    // The first sandbox of this herd's comes with a reload.
    let herd = Herd::of(Running::launch_with(dir, Mode::Own, &own("off")).ready());
    let look = "cat /given/word || echo none; id -u";
    let bare = herd.run("bare", "", look);
    assert!(bare.contains("none"), "{bare}");
    assert_eq!(
        herd.reload(&own("host")),
        "configuration 2 is in force: runner renewed\n"
    );
    let inside = herd.run("inside", "", look);
    assert!(inside.contains("none") && inside.contains("1000"), "{inside}");
    assert_eq!(
        herd.reload(&own("host")),
        "configuration 3 is in force: every kind of worker is as it was\n"
    );
    let mounted = format!(
        "{{ rootfs: host, mounts: [{{ source: {}, target: /given }}] }}",
        shown.display()
    );
    herd.reload(&own(&mounted));
    let given = herd.run("given", "", look);
    assert!(given.contains("hello"), "{given}");
    assert!(
        herd.run("inside", "", look).contains("none"),
        "it has the sandbox that it had"
    );
    let listed = stdout(&herd.running.herd(&["ps"]));
    let sandbox = |id: &str| {
        let row = listed.lines().find(|line| line.starts_with(id)).unwrap();
        row.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(
        (sandbox("bare"), sandbox("given")),
        ("off".into(), "on".into()),
        "{listed}"
    );

    let missing = herd.reload_fails(&own(
        "{ rootfs: host, mounts: [{ source: /nowhere, target: /given }] }",
    ));
    assert!(
        missing.contains("sandbox.mounts: /nowhere cannot be mounted"),
        "{missing}"
    );
    let limited = herd.reload_fails(&own("{ rootfs: host, memory: 64M }"));
    assert!(
        limited.contains("workers.runner.sandbox.memory: needs a restart"),
        "{limited}"
    );
    assert!(herd.run("more", "", look).contains("hello"), "all is as it was");
    herd.reload(&own("off"));
    assert!(herd.run("last", "", look).contains("none"));
}

#[test]
fn a_sandbox_changes_however_herd_is_run_and_the_first_one_only_where_it_can() {
    for mode in Mode::sandboxed() {
        let look = "df -k /tmp | tail -n 1; echo end";
        let herd = Herd::of(Running::launch_with(tempfile::tempdir().unwrap(), mode, &own("host")).ready());
        assert!(herd.run("a", "", look).contains(" 65536 "), "{mode:?}");
        herd.reload(&own("{ rootfs: host, tmpfs: 16M, profile: browser }"));
        let answer = herd.run("b", "", look);
        assert!(answer.contains(" 16384 "), "{mode:?}: {answer}");
        if mode.is_unprivileged() {
            let herd =
                Herd::of(Running::launch_with(tempfile::tempdir().unwrap(), mode, &own("off")).ready());
            let said = herd.reload_fails(&own("host"));
            assert!(
                said.contains("workers.runner.sandbox: needs a restart: this herd has no user ids"),
                "{said}"
            );
            assert!(herd.run("a", "", look).contains("end"));
        }
    }
}

#[test]
fn a_hangup_of_the_terminal_ends_a_herd_that_sat_at_it() {
    // Nobody else may have its other end, or it would never hang up.
    let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let at_terminal = format!("exec setsid --ctty \"$@\" <{}", ptsname_r(&terminal).unwrap());
    let through = ["bash", "-c", &at_terminal, "bash"];
    let dir = tempfile::tempdir().unwrap();
    let mut herd = Herd::of(Running::launch_through(&through, dir, Mode::Own, &marked("one")).ready());
    // One that is sent is a wish for a reload there, too.
    kill(Pid::from_raw(herd.running.pid()), Signal::SIGHUP).unwrap();
    herd.running.logged("configuration reloaded");
    drop(terminal);
    let status = herd.running.wait();
    assert!(
        herd.running.said().contains("draining"),
        "{}",
        herd.running.said()
    );
    herd.running.assert_clean(status);
}
