//! Workers as processes: what reaches them, how they become ready, and that nothing of them stays.

use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::leak;
use crate::running::poll;
use crate::supervised::{Mode, Supervised, ports};

/// A worker that listens on `port` and does nothing else.
const LISTEN: &str = "import socket,sys,time\n\
    s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
    s.bind(('127.0.0.1',int(sys.argv[1]))); s.listen(); time.sleep(1000)";

fn listening() -> Value {
    json!({"cmd": ["python3", "-c", LISTEN, "{{.Port}}"]})
}

fn shell(script: &str) -> Value {
    json!({"cmd": ["sh", "-c", script]})
}

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process lives");
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

#[test]
fn a_worker_becomes_ready_and_a_kill_takes_its_whole_tree() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        // The orphan has left the process group and the session, and has no parent but the keeper.
        let script = format!(
            "setsid sh -c 'setsid sleep 1000 & sleep 1000' & trap '' TERM HUP INT; exec python3 -c \"{LISTEN}\" {{{{.Port}}}}"
        );
        herd.start_worker(1, shell(&script));
        let ready = herd.ready(1);
        assert!(text(&ready["endpoint"]).starts_with("127.0.0.1:"), "{ready}");
        herd.say(json!({"connect": {"worker": 1}}));
        assert_eq!(text(&herd.event("connect", 1)["result"]), "tcp");
        herd.kill_worker(1);
        let gone = herd.gone(1);
        assert_eq!(text(&gone["exit"]), "killed by signal 9", "{mode:?}");
        assert!(gone["processes"].as_u64() >= Some(3), "{mode:?}: {gone}");
        assert_eq!(
            gone["pids"][0], ready["pid"],
            "{mode:?}: the keeper is the root of the tree"
        );
        assert!(gone["memory"].as_u64() > Some(100_000), "{mode:?}: {gone}");
        // Gone means gone: nothing to wait for.
        let left = leak::processes(&herd.scope.tag);
        assert!(
            left.iter()
                .all(|p| p.contains("supervisor") || p.contains("herd-launcher")),
            "{mode:?}: {left:?}"
        );
        herd.finish();
    }
}

#[test]
fn when_herd_is_killed_nothing_survives() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        for worker in 0..5 {
            herd.start_worker(
                worker,
                shell("setsid sh -c 'trap \"\" TERM; setsid sleep 1000 & sleep 1000' & sleep 1000"),
            );
        }
        for worker in 0..5 {
            herd.start_worker(10 + worker, listening());
        }
        for worker in 0..5 {
            herd.ready(10 + worker);
        }
        herd.kill_and_assert_nothing_survives();
    }
}

#[test]
fn when_the_launcher_is_killed_nothing_survives_and_herd_knows() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        herd.start_worker(1, listening());
        herd.ready(1);
        sigkill(herd.launcher);
        assert!(
            herd.wait().success(),
            "the supervisor ends on its own once the launcher is lost"
        );
        herd.assert_no_process_survives();
    }
}

#[test]
fn when_a_keeper_is_killed_its_tree_dies_and_the_others_live() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        herd.start_worker(1, listening());
        herd.start_worker(2, listening());
        let keeper = herd.ready(1)["pid"].as_i64().expect("a pid") as i32;
        herd.ready(2);
        sigkill(keeper);
        let gone = herd.gone(1);
        assert_eq!(text(&gone["exit"]), "its keeper was killed", "{mode:?}");
        herd.say(json!({"connect": {"worker": 1}}));
        assert!(
            text(&herd.event("connect", 1)["result"]).contains("refused"),
            "{mode:?}"
        );
        herd.say(json!({"connect": {"worker": 2}}));
        assert_eq!(text(&herd.event("connect", 2)["result"]), "tcp", "{mode:?}");
        herd.kill_worker(2);
        herd.gone(2);
        herd.finish();
    }
}

#[test]
fn what_a_worker_that_ends_by_itself_leaves_behind_dies_and_is_counted() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        herd.start_worker(1, shell("sleep 1000 & setsid sleep 1000 & exit 3"));
        let gone = herd.gone(1);
        assert_eq!(text(&gone["exit"]), "exit status 3", "{mode:?}");
        assert_eq!(gone["processes"], 3, "{mode:?}: itself and two: {gone}");
        assert!(gone["memory"].as_u64().unwrap() > 0, "{mode:?}: {gone}");
        herd.finish();
    }
}

#[test]
fn sigterm_reaches_the_process_group_and_the_exit_is_told() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        herd.start_worker(
            1,
            shell("trap 'echo polite; exit 7' TERM; echo here; while :; do sleep 0.01; done"),
        );
        herd.logs_until(1, |lines| lines.contains(&"here".to_owned()));
        herd.say(json!({"terminate": {"worker": 1}}));
        let failed = herd.failed(1);
        assert_eq!(
            text(&failed["why"]),
            "the worker ended before it was ready: exit status 7",
            "{mode:?}"
        );
        // The shell may also report that the signal ended its sleep.
        let tail = failed["tail"].as_array().expect("lines");
        assert_eq!(tail.last(), Some(&json!("polite")), "{mode:?}: {failed}");
        assert_eq!(text(&herd.gone(1)["exit"]), "exit status 7", "{mode:?}");
        herd.finish();
    }
}

#[test]
fn a_kill_before_the_process_exists_is_kept_and_no_failure() {
    let mut herd = Supervised::start(Mode::Own);
    herd.start_worker(1, listening());
    herd.kill_worker(1);
    let gone = herd.gone(1);
    assert_eq!(text(&gone["exit"]), "killed by signal 9");
    herd.finish();
}

#[test]
fn a_worker_that_cannot_be_run_says_why() {
    let mut herd = Supervised::start(Mode::Own);
    let file = herd.home().join("script");
    std::fs::write(&file, "#!/no/such/interpreter\n").expect("a file");
    let path = file.display().to_string();
    for (worker, spec, expected) in [
        (
            1,
            json!({"cmd": ["nope"]}),
            "cannot run \"nope\": not found in PATH (/usr/local/bin:/usr/bin:/bin)".to_owned(),
        ),
        (
            2,
            json!({"cmd": ["nope"], "env": {"PATH": "/x"}}),
            "cannot run \"nope\": not found in PATH (/x)".to_owned(),
        ),
        (
            3,
            json!({"cmd": ["/no/where"]}),
            "cannot run \"/no/where\": No such file or directory".to_owned(),
        ),
        (
            4,
            json!({"cmd": [path]}),
            format!("cannot run {path:?}: Permission denied; is it executable? (chmod +x)"),
        ),
        (
            5,
            json!({"cmd": ["true"], "cwd": "/no/where"}),
            "cannot enter the working directory \"/no/where\": No such file or directory".to_owned(),
        ),
    ] {
        herd.start_worker(worker, spec);
        assert_eq!(text(&herd.failed(worker)["why"]), expected);
        herd.gone(worker);
    }
    let large = "x".repeat(300_000);
    herd.start_worker(6, json!({"cmd": ["true"], "env": {"LARGE": large}}));
    let why = herd.failed(6);
    assert!(
        text(&why["why"]).contains("at most 262144 can be passed on"),
        "{why}"
    );
    herd.gone(6);
    herd.finish();
}

#[test]
fn a_worker_that_exits_at_once_is_told_with_its_last_lines_escaped() {
    let mut herd = Supervised::start(Mode::Own);
    herd.start_worker(1, shell("printf 'one\\033[31m\\ntwo' >&2; kill -SEGV $$"));
    let failed = herd.failed(1);
    assert_eq!(
        text(&failed["why"]),
        "the worker ended before it was ready: killed by signal 11"
    );
    assert_eq!(failed["tail"], json!(["one\\x1b[31m", "two"]));
    herd.gone(1);
    herd.finish();
}

#[test]
fn a_worker_that_never_listens_times_out_and_stays_until_it_is_killed() {
    let mut herd = Supervised::start(Mode::Own);
    let mut spec = shell("echo waiting; sleep 1000");
    spec["start_timeout_ms"] = json!(300);
    herd.start_worker(1, spec);
    let failed = herd.failed(1);
    assert!(
        text(&failed["why"]).contains("was not ready within 300ms; last probe: nothing listens on port"),
        "{failed}"
    );
    assert_eq!(failed["tail"], json!(["waiting"]));
    herd.kill_worker(1);
    herd.gone(1);
    herd.finish();
}

#[test]
fn a_wrong_health_status_is_told_and_a_right_one_is_ready() {
    let mut herd = Supervised::start(Mode::Own);
    let serve = |path: &str| {
        json!({"cmd": ["python3", "-m", "http.server", "-b", "127.0.0.1", "{{.Port}}"], "cwd": "/",
               "health_path": path, "start_timeout_ms": 3000})
    };
    herd.start_worker(1, serve("/no-such-file"));
    herd.start_worker(2, serve("/"));
    herd.ready(2);
    let failed = herd.failed(1);
    assert!(
        text(&failed["why"]).ends_with("last probe: GET /no-such-file answered 404 Not Found"),
        "{failed}"
    );
    herd.finish();
}

#[test]
fn a_socket_worker_is_reached_in_its_private_directory() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        let code = "import socket,sys,time\ns=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(1000)";
        herd.start_worker(1, json!({"cmd": ["python3", "-c", code, "{{.Socket}}"]}));
        let ready = herd.ready(1);
        assert!(text(&ready["endpoint"]).ends_with("/w1/s"), "{ready}");
        herd.say(json!({"connect": {"worker": 1}}));
        assert_eq!(text(&herd.event("connect", 1)["result"]), "unix");
        herd.kill_worker(1);
        herd.gone(1);
        assert!(!herd.scope.state_dir.join("w1").exists(), "the directory stayed");
        herd.finish();
    }
}

#[test]
fn a_port_that_a_stranger_takes_is_never_the_workers() {
    let ports = ports(1);
    let port = *ports.start();
    let mut herd = Supervised::start_with(Mode::Own, ports);
    // Waits for the stranger, then behaves as a server does whose port is taken.
    let script =
        format!("while ! [ -e \"$GO\" ]; do sleep 0.01; done; exec python3 -c \"{LISTEN}\" {{{{.Port}}}}");
    let go = herd.home().join("go");
    let mut spec = shell(&script);
    spec["env"] = json!({"GO": go});
    herd.start_worker(1, spec.clone());
    let cap = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !herd.scope.state_dir.join("w1").exists() {
        assert!(std::time::Instant::now() < cap, "the worker was never started");
        std::thread::yield_now();
    }
    // The port is allotted in the same step as the directory is made, so the stranger comes after it.
    herd.logs_until(1, |_| true);
    let stranger = TcpListener::bind(("127.0.0.1", port)).expect("the worker has not come yet");
    stranger.set_nonblocking(true).expect("nonblocking");
    std::fs::write(&go, "").expect("go");
    let failed = herd.failed(1);
    // With one port in the range there is no other to try.
    assert_eq!(
        text(&failed["why"]),
        format!("no port from {port} to {port} is free for the worker")
    );
    herd.gone(1);
    assert!(stranger.accept().is_err(), "the stranger was connected to");
    drop(stranger);
    herd.finish();
}

#[test]
fn another_port_is_tried_when_a_stranger_took_the_first() {
    let ports = ports(2);
    let mut herd = Supervised::start_with(Mode::Own, ports.clone());
    let go = herd.home().join("go");
    let script = format!(
        "echo {{{{.Port}}}}; while ! [ -e \"$GO\" ]; do sleep 0.01; done; exec python3 -c \"{LISTEN}\" {{{{.Port}}}}"
    );
    let mut spec = shell(&script);
    spec["env"] = json!({"GO": go});
    herd.start_worker(1, spec);
    let lines = herd.logs_until(1, |lines| !lines.is_empty());
    let first: u16 = lines[0].parse().expect("a port");
    let stranger = TcpListener::bind(("127.0.0.1", first)).expect("free until now");
    std::fs::write(&go, "").expect("go");
    let ready = herd.ready(1);
    assert!(
        !text(&ready["endpoint"]).ends_with(&format!(":{first}")),
        "{ready}"
    );
    drop(stranger);
    herd.finish();
}

#[test]
fn a_listener_that_was_replaced_by_a_stranger_is_refused() {
    let mut herd = Supervised::start(Mode::Own);
    // Listens until it is told to stop listening, and lives on.
    let code = "import socket,sys,time,os\n\
        s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
        s.bind(('127.0.0.1',int(sys.argv[1]))); s.listen()\n\
        while not os.path.exists(sys.argv[2]): time.sleep(0.005)\n\
        s.close(); print('closed',flush=True); time.sleep(1000)";
    let stop = herd.home().join("stop");
    herd.start_worker(1, json!({"cmd": ["python3", "-c", code, "{{.Port}}", stop]}));
    let endpoint = text(&herd.ready(1)["endpoint"]).to_owned();
    std::fs::write(&stop, "").expect("stop");
    herd.logs_until(1, |lines| lines.contains(&"closed".to_owned()));
    let stranger = TcpListener::bind(&endpoint).expect("free now");
    herd.say(json!({"connect": {"worker": 1}}));
    let result = herd.event("connect", 1);
    assert!(
        text(&result["result"]).contains("is not the worker's"),
        "{result}"
    );
    drop(stranger);
    herd.finish();
}

#[test]
fn only_what_the_kind_names_reaches_the_worker() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        let script = "for f in /proc/self/fd/*; do echo fd ${f##*/}; done; env | sort | sed 's/^/env /'; \
                      grep -E '^Sig(Blk|Ign)' /proc/self/status; readlink /proc/self/fd/0; echo done; sleep 1000";
        let mut spec = shell(script);
        spec["env"] = json!({"MINE": "{{.Worker}}"});
        spec["cwd"] = json!("/");
        herd.start_worker(3, spec);
        let lines = herd.logs_until(3, |lines| lines.contains(&"done".to_owned()));
        let with = |prefix: &str| {
            lines
                .iter()
                .filter_map(|l| l.strip_prefix(prefix))
                .collect::<Vec<_>>()
        };
        // The shell's own glob may hold a directory open; it is not inherited.
        let fds: Vec<_> = with("fd ")
            .into_iter()
            .filter(|fd| !["3", "10"].contains(fd))
            .collect();
        assert_eq!(fds, ["0", "1", "2"], "{mode:?}: {lines:?}");
        let names: Vec<&str> = with("env ")
            .iter()
            .filter_map(|e| Some(e.split_once('=')?.0))
            .collect();
        assert_eq!(
            names,
            ["HERD_TEST_TAG", "MINE", "PATH", "PORT", "PWD"],
            "{mode:?} (PWD is the shell's)"
        );
        assert!(lines.contains(&"env MINE=test".to_owned()), "{lines:?}");
        for mask in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
            assert!(lines.contains(&mask.to_owned()), "{mode:?}: {lines:?}");
        }
        assert!(lines.contains(&"/dev/null".to_owned()), "{mode:?}: {lines:?}");
        herd.finish();
    }
}

#[test]
fn a_flood_of_output_without_a_newline_never_blocks_the_worker() {
    let mut herd = Supervised::start(Mode::Own);
    let flood = format!(
        "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exec python3 -c \"{LISTEN}\" {{{{.Port}}}}"
    );
    let mut spec = shell(&flood);
    spec["log_buffer"] = json!(65_536);
    herd.start_worker(1, spec);
    herd.ready(1);
    let lines = herd.logs_until(1, |lines| !lines.is_empty());
    assert!(
        lines.iter().map(String::len).sum::<usize>() <= 65_536 + 8_192,
        "the ring is bounded"
    );
    herd.finish();
}

#[test]
fn workers_that_came_and_went_leave_herd_and_launcher_as_they_were() {
    for mode in Mode::all() {
        let mut herd = Supervised::start(mode);
        let fresh = leak::descriptors(herd.launcher);
        let round = |herd: &mut Supervised, workers: std::ops::Range<u64>| {
            for worker in workers.clone() {
                let spec = if worker % 2 == 0 {
                    listening()
                } else {
                    json!({"cmd": ["nope"]})
                };
                herd.start_worker(worker, spec);
            }
            for worker in workers.clone().filter(|w| w % 2 == 0) {
                herd.ready(worker);
                herd.kill_worker(worker);
            }
            for worker in workers {
                herd.gone(worker);
                herd.say(json!({"forget": {"worker": worker}}));
            }
            // Commands are answered in order, so everything is forgotten once this is answered.
            herd.say(json!({"logs": {"worker": 0}}));
            herd.event("logs", 0);
            // It lets go of the dead's namespaces when it has nothing else to do.
            poll("the launcher holds what it held at its start", || {
                let held = leak::descriptors(herd.launcher);
                if held == fresh {
                    Ok(())
                } else {
                    Err(format!("{mode:?}: {held:?}, not {fresh:?}"))
                }
            });
        };
        round(&mut herd, 0..4);
        let before = leak::descriptors(herd.pid());
        round(&mut herd, 4..14);
        assert_eq!(leak::descriptors(herd.pid()), before, "{mode:?}");
        herd.finish();
    }
}

#[test]
fn strict_lifetime_refuses_the_weak_guard() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let settings = json!({"state_dir": home.path(), "ports": [20000, 20001], "strict": []});
    let output = std::process::Command::new(crate::supervised::built())
        .arg(settings.to_string())
        .env("HERD_FORCE_WEAK_GUARD", "1")
        .output()
        .expect("the supervisor runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("`lifetime: strict` cannot be kept here: HERD_FORCE_WEAK_GUARD is set"),
        "{said}"
    );
}
