//! `herd exec`, bare and in sandboxes, with every way herd can be run.

mod confinement;
mod socket;
mod terminal;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};

use sha2::{Digest, Sha256};

use crate::leak;
use crate::running::{HERD, Running, poll, spawn, stderr, stdout};
use crate::supervised::Mode;

/// A herd with a session `a`, which is held.
struct Scene {
    /// For messages.
    what: String,
    herd: Running,
    hold: Child,
}

impl Scene {
    fn bare(mode: Mode) -> Self {
        Self::of(format!("bare, {mode:?}"), Running::start_as(mode))
    }

    fn boxed(mode: Mode) -> Self {
        Self::of(format!("sandboxed, {mode:?}"), sandboxes(mode))
    }

    fn of(what: String, herd: Running) -> Self {
        let (hold, line) = herd.hold("a");
        assert!(line.starts_with("holding a"), "{what}: {line}");
        Self { what, herd, hold }
    }

    /// One herd of each kind, as this test's user.
    fn both() -> [Self; 2] {
        [Self::bare(Mode::Own), Self::boxed(Mode::Own)]
    }

    fn everywhere() -> impl Iterator<Item = Self> {
        let bare = Mode::all().into_iter().map(Self::bare);
        bare.chain(Mode::sandboxed().into_iter().map(Self::boxed))
    }

    fn exec(&self, arguments: &[&str]) -> Output {
        self.herd.herd(&[&["exec"], arguments].concat())
    }

    fn said(&self, arguments: &[&str]) -> String {
        let output = self.exec(arguments);
        assert!(
            output.status.success(),
            "{}: {arguments:?}: {}: {}",
            self.what,
            output.status,
            stderr(&output)
        );
        stdout(&output)
    }

    /// `herd exec` with pipes at all three.
    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.herd.command(&[&["exec"], arguments].concat());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn(&mut command)
    }

    /// Processes of this name in the worker's tree.
    fn running(&self, name: &str) -> BTreeSet<String> {
        let mut found = leak::processes(self.herd.tag());
        found.retain(|process| process.split_once(' ').is_some_and(|(_, of)| of == name));
        found
    }

    fn until_running(&self, name: &str, count: usize) -> BTreeSet<String> {
        poll(&format!("{}: {count} × {name}", self.what), || {
            let found = self.running(name);
            match found.len() == count {
                true => Ok(found),
                false => Err(format!("{found:?}")),
            }
        })
    }
}

/// A herd whose workers are in sandboxes.
fn sandboxes(mode: Mode) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let tag = dir.path().display();
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\n\
         workers:\n  runner:\n    cmd: [herd, runner, --listen, \"{{{{.Port}}}}\"]\n\
         \x20   env: {{ HERD_TEST_TAG: {tag} }}\n    max: 3\n    sandbox: {{ rootfs: host }}\n"
    );
    Running::launch_with(dir, mode, &yaml).ready()
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.hold.kill();
        let _ = self.hold.wait();
    }
}

#[test]
fn a_command_runs_beside_the_program_and_ends_as_it_ends() {
    for scene in Scene::everywhere() {
        let what = &scene.what;
        let output = scene.exec(&["a", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        let told = (output.status.code(), stdout(&output), stderr(&output));
        assert_eq!(told, (Some(7), "out\n".to_owned(), "err\n".to_owned()), "{what}");
        let killed = scene.exec(&["a", "--", "sh", "-c", "kill -9 $$"]);
        assert_eq!(
            (killed.status.code(), stderr(&killed)),
            (Some(137), String::new()),
            "{what}"
        );
        let environment = scene.said(&[
            "-e", "A=b c", "-e", "PORT=1", "-w", "/tmp", "a", "--", "sh", "-c", "env; pwd",
        ]);
        for line in [
            "A=b c",
            "PORT=1",
            &format!("HERD_TEST_TAG={}", scene.herd.tag()),
            "/tmp",
        ] {
            assert!(
                environment.lines().any(|has| has == line),
                "{what}: {line}: {environment}"
            );
        }
        assert!(
            !environment.contains("HERD_CONTROL_SOCKET"),
            "{what}: {environment}"
        );
        // Its stdin is empty unless it is asked for.
        assert_eq!(scene.said(&["a", "--", "cat"]), "", "{what}");
    }
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    for scene in Scene::both() {
        let what = &scene.what;
        for (arguments, code, why) in [
            (
                &["a", "--", "nowhere"][..],
                127,
                "herd: cannot run \"nowhere\": not found in PATH (",
            ),
            (
                &["a", "--", "/nowhere/it"],
                127,
                "herd: cannot run \"/nowhere/it\": No such file or directory",
            ),
            (
                &["a", "--", "/etc"],
                126,
                "herd: cannot run \"/etc\": Permission denied",
            ),
            (
                &["a", "--", "/usr/bin/env/x"],
                127,
                "herd: cannot run \"/usr/bin/env/x\": Not a directory",
            ),
            (
                &["-w", "/nowhere", "a", "--", "true"],
                126,
                "herd: cannot enter the working directory \"/nowhere\"",
            ),
            (&["b", "--", "true"], 1, "herd: there is no session b"),
            (
                &["-w", "tmp", "a", "--", "true"],
                2,
                "error: invalid value 'tmp' for '--workdir <DIR>': it has to be an absolute path",
            ),
        ] {
            let output = scene.exec(arguments);
            assert_eq!(
                output.status.code(),
                Some(code),
                "{what}: {arguments:?}: {}",
                stderr(&output)
            );
            assert!(
                stderr(&output).starts_with(why),
                "{what}: {arguments:?}: {}",
                stderr(&output)
            );
        }
    }
}

#[test]
fn everything_arrives_in_both_directions() {
    for scene in Scene::both() {
        // Incompressible, and no multiple of any buffer.
        let sent: Vec<u8> = (0..12_345_679_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let mut cat = scene.begin(&["-i", "a", "--", "cat"]);
        let (mut input, mut output) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
        let digest = Sha256::digest(&sent);
        let writing = std::thread::spawn(move || input.write_all(&sent).unwrap());
        let mut back = Vec::new();
        output.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert_eq!(cat.wait().unwrap().code(), Some(0), "{}", scene.what);
        assert_eq!(
            Sha256::digest(&back),
            digest,
            "{}: {} bytes",
            scene.what,
            back.len()
        );

        // To both outputs at once, with an end right after the last byte.
        let script = "seq 1 400000 & seq 1 400000 >&2; wait";
        let output = scene.exec(&["a", "--", "sh", "-c", script]);
        let wanted: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
        assert!(
            output.stdout == wanted.as_bytes(),
            "{}: {} bytes",
            scene.what,
            output.stdout.len()
        );
        assert!(
            output.stderr == wanted.as_bytes(),
            "{}: {} bytes",
            scene.what,
            output.stderr.len()
        );
    }
}

#[test]
fn the_end_of_stdin_is_not_the_end_of_the_command() {
    for scene in Scene::both() {
        let mut command = scene.begin(&["-i", "a", "--", "sh", "-c", "cat; echo and out"]);
        command.stdin.take().unwrap().write_all(b"in\n").unwrap();
        let output = command.wait_with_output().unwrap();
        assert_eq!(stdout(&output), "in\nand out\n", "{}", scene.what);
        // A command that does not read what it is sent does not wait for it to be read.
        let mut deaf = scene.begin(&["-i", "a", "--", "sh", "-c", "exec <&-; echo deaf"]);
        let mut input = deaf.stdin.take().unwrap();
        std::thread::spawn(move || while input.write_all(&[0; 65536]).is_ok() {});
        let output = deaf.wait_with_output().unwrap();
        assert_eq!(stdout(&output), "deaf\n", "{}", scene.what);
    }
}

#[test]
fn a_command_dies_with_its_client() {
    for scene in Scene::everywhere() {
        let mut client = scene.begin(&["-i", "a", "--", "sh", "-c", "sleep 1000; true"]);
        scene.until_running("sleep", 1);
        client.kill().unwrap();
        client.wait().unwrap();
        scene.until_running("sleep", 0);
        // Its session has nothing to do with it.
        assert_eq!(scene.herd.until("a", "bound")["holds"], 1, "{}", scene.what);
    }
}

#[test]
fn what_a_command_leaves_in_the_background_goes_on_until_the_worker_ends() {
    for scene in Scene::both() {
        let started = scene.said(&["a", "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started"]);
        assert_eq!(started, "started\n", "{}", scene.what);
        scene.until_running("sleep", 1);
        scene.herd.herd(&["stop", "a"]);
        scene.until_running("sleep", 0);
    }
}

#[test]
fn a_command_ends_with_its_session_and_says_why() {
    for scene in Scene::everywhere() {
        let what = &scene.what;
        let client = scene.begin(&["a", "--", "sh", "-c", "echo begun; sleep 1000"]);
        scene.until_running("sleep", 1);
        scene.herd.herd(&["stop", "a"]);
        let output = client.wait_with_output().unwrap();
        let told = (output.status.code(), stdout(&output), stderr(&output));
        let why = "herd: the session ended: stopped on request\n".to_owned();
        assert_eq!(told, (Some(1), "begun\n".to_owned(), why), "{what}");
        scene.until_running("sleep", 0);
    }
}

#[test]
fn a_command_that_kills_the_program_is_told_that_the_session_crashed() {
    let scene = Scene::boxed(Mode::Own);
    // All but itself and the init, which it may not.
    let output = scene.exec(&["a", "--", "sh", "-c", "kill -9 -1; sleep 1000"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("herd: the session ended: "),
        "{}",
        stderr(&output)
    );
    assert_eq!(scene.herd.until("a", "ended")["reason"], "crashed");
}

/// For which signal's name some libraries have no room.
#[test]
fn a_real_time_signal_ends_like_any_other() {
    for scene in Scene::both() {
        let killed = scene.exec(&["a", "--", "sh", "-c", "kill -40 $$"]);
        assert_eq!(
            killed.status.code(),
            Some(168),
            "{}: {}",
            scene.what,
            stderr(&killed)
        );
        assert_eq!(scene.said(&["a", "--", "echo", "on"]), "on\n", "{}", scene.what);
    }
    let scene = Scene::boxed(Mode::Own);
    let output = scene.exec(&["a", "--", "sh", "-c", "kill -40 -1; sleep 1000"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(scene.herd.until("a", "ended")["reason"], "crashed");
}

#[test]
fn a_command_does_not_go_over_to_the_next_session_of_its_worker() {
    let dir = tempfile::tempdir().unwrap();
    let tag = dir.path().display();
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\n\
         workers:\n  runner:\n    cmd: [{HERD:?}, runner, --listen, \"{{{{.Port}}}}\"]\n    reuse: true\n    sandbox: off\n\
         \x20   env: {{ HERD_TEST_TAG: {tag} }}\n    max: 1\n"
    );
    let scene = Scene::of(
        "reused".to_owned(),
        Running::launch_with(dir, Mode::Own, &yaml).ready(),
    );
    let worker = scene.herd.until("a", "bound")["worker"].clone();
    let mut hold: Option<Child> = None;
    let script = "trap '' HUP INT TERM; exec sleep 1000";
    for round in 0..12 {
        let id = match round {
            0 => "a".to_owned(),
            _ => format!("a{round}"),
        };
        let on: &[&str] = [&[][..], &["-i"], &["-t"]][round % 3];
        let client = scene.begin(&[on, &[&id, "--", "sh", "-c", script]].concat());
        scene.until_running("sleep", 1);
        scene.herd.herd(&["stop", &id]);
        if let Some(mut hold) = hold.take() {
            hold.wait().unwrap();
        }
        let (next, _) = scene.herd.hold(&format!("a{}", round + 1));
        // At once: it died before anybody else got the worker.
        assert_eq!(scene.running("sleep"), BTreeSet::new(), "{on:?}");
        hold = Some(next);
        let bound = scene.herd.until(&format!("a{}", round + 1), "bound");
        assert_eq!(bound["worker"], worker, "{on:?}");
        let output = client.wait_with_output().unwrap();
        let why = "herd: the session ended: stopped on request\n";
        assert_eq!(output.status.code(), Some(1), "{on:?}");
        assert!(
            stderr(&output).ends_with(why) || stdout(&output).ends_with(why),
            "{on:?}: {}",
            stderr(&output)
        );
    }
    let mut hold = hold.unwrap();
    hold.kill().unwrap();
    hold.wait().unwrap();
}

#[test]
fn nothing_of_a_command_survives_a_killed_herd() {
    for mode in Mode::all() {
        survives(Running::start_as(mode));
    }
    for mode in Mode::sandboxed() {
        survives(sandboxes(mode));
    }
}

fn survives(herd: Running) {
    let (mut hold, _) = herd.hold("a");
    let mut command = herd.command(&["exec", "a", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000"]);
    let client = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    poll("both", || {
        let found = leak::processes(herd.tag());
        match found.iter().filter(|process| process.ends_with(" sleep")).count() {
            2 => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    });
    herd.kill_and_assert_nothing_survives();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("herd went away"), "{}", stderr(&output));
    let _ = (hold.kill(), hold.wait());
}

#[test]
fn so_many_commands_run_at_a_time_and_no_more() {
    for scene in Scene::both() {
        let mut clients: Vec<Child> = (0..32).map(|_| scene.begin(&["-i", "a", "--", "cat"])).collect();
        scene.until_running("cat", 32);
        let refused = scene.exec(&["a", "--", "true"]);
        assert_eq!(refused.status.code(), Some(1));
        assert_eq!(
            stderr(&refused),
            "herd: 32 commands run in this session, and more cannot at a time\n",
            "{}",
            scene.what
        );
        let mut first = clients.remove(0);
        first.stdin.take().unwrap().write_all(b"freed\n").unwrap();
        assert_eq!(
            stdout(&first.wait_with_output().unwrap()),
            "freed\n",
            "{}",
            scene.what
        );
        assert_eq!(
            scene.said(&["a", "--", "echo", "again"]),
            "again\n",
            "{}",
            scene.what
        );
        for mut client in clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
        scene.until_running("cat", 0);
    }
}

#[test]
fn commands_that_came_and_went_leave_every_process_of_herds_as_it_was() {
    for scene in Scene::both() {
        let held = || -> Vec<_> {
            let own = |process: &String| {
                let (pid, name) = process.split_once(' ').unwrap();
                let pid = pid.parse().unwrap();
                (name.starts_with("herd-") || pid == scene.herd.pid())
                    .then(|| (process.clone(), leak::descriptors(pid)))
            };
            leak::processes(scene.herd.tag()).iter().filter_map(own).collect()
        };
        // What is made once, and the sandbox that is made ahead.
        scene.said(&["a", "--", "true"]);
        let settled = std::cell::RefCell::new(Vec::new());
        let before = poll("nothing more is made", || {
            let last = settled.replace(held());
            let inits = last
                .iter()
                .filter(|(process, _)| process.ends_with(" herd-init"))
                .count();
            let made = inits == if scene.what.starts_with("sandboxed") { 2 } else { 0 };
            match made && last == *settled.borrow() {
                true => Ok(last),
                false => Err(format!("{last:?}")),
            }
        });
        for _ in 0..10 {
            scene.said(&["a", "--", "true"]);
            scene.said(&["-t", "a", "--", "true"]);
            scene.exec(&["a", "--", "nowhere"]);
            let mut client = scene.begin(&["-i", "a", "--", "sleep", "1000"]);
            scene.until_running("sleep", 1);
            client.kill().unwrap();
            client.wait().unwrap();
            scene.until_running("sleep", 0);
        }
        poll(&format!("{}: as before", scene.what), || {
            let now = held();
            match now == before {
                true => Ok(()),
                false => Err(format!("{now:?}\n{before:?}")),
            }
        });
    }
}

#[test]
fn who_ran_what_and_how_it_ended_is_in_the_events() {
    let scene = Scene::bare(Mode::Own);
    scene.exec(&["-e", "SECRET=hush", "a", "--", "sh", "-c", "exit 3"]);
    let told = poll("the end is told", || {
        let told = stdout(
            &scene
                .herd
                .herd(&["events", "--replay", "100", "--no-follow", "-o", "json"]),
        );
        match told.contains("\"exec.ended\"") {
            true => Ok(told),
            false => Err(told),
        }
    });
    let events: Vec<serde_json::Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let find = |name: &str| events.iter().find(|event| event["type"] == name).unwrap();
    let (begun, ended) = (find("control.exec"), find("exec.ended"));
    for event in [begun, ended] {
        assert_eq!(event["session"], "a");
        assert_eq!(event["command"], serde_json::json!(["sh", "-c", "exit 3"]));
        assert_eq!(event["by"]["uid"], nix::unistd::geteuid().as_raw());
    }
    assert_eq!(
        (&ended["end"]["outcome"], &ended["end"]["exit_code"]),
        (&"exited".into(), &3.into())
    );
    assert!(
        !told.contains("hush") && !scene.herd.said().contains("hush"),
        "a variable's value is told"
    );
}

/// For tests that need a `Command` of their own.
fn exec_command(scene: &Scene, through: &[&str], arguments: &[&str]) -> Command {
    let mut words = through
        .iter()
        .copied()
        .chain([HERD, "exec"])
        .chain(arguments.iter().copied());
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .env("HERD_CONTROL_SOCKET", scene.herd.socket());
    command
}
