//! Limits on real processes, by whatever control groups the machine has.
//!
//! A binary of its own, because `tests/vm/limits` also runs it inside a virtual machine: as root and as a user, with
//! and without systemd. It needs nothing there but a shell and coreutils. Every program in it ends by itself if the
//! limit does not hold: at 256 MiB, at 200 processes, after a minute.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use herd::sandbox::cgroup::{
    Controller, Controllers, Cpus, Group, GroupId, Hierarchies, Host, Limits, Opened, Removal, Removals,
    survey,
};

#[path = "support/skip.rs"]
mod skip;

const MIB: u64 = 1 << 20;
/// For what takes milliseconds on an idle machine and a second on an emulated one.
const LONG: Duration = Duration::from_secs(60);
/// Set for the copy of this test that runs as a user.
const AS_USER: &str = "HERD_TEST_AS_USER";

/// herd's groups for one test, and nothing of them afterwards.
struct Room {
    hierarchies: Hierarchies,
    paths: Vec<PathBuf>,
    state: tempfile::TempDir,
}

impl Room {
    /// `None`: not here, and said so.
    fn open(needs: &[Controller]) -> Option<Self> {
        let state = tempfile::tempdir().unwrap();
        let Opened { hierarchies, missing } = open(state.path(), needs.iter().copied().collect());
        if !missing.is_empty() {
            let why: Vec<_> = missing.iter().map(ToString::to_string).collect();
            skip::skipped(&why.join("\n"));
            hierarchies.close().unwrap();
            return None;
        }
        let paths: Vec<_> = hierarchies.paths().map(Path::to_owned).collect();
        assert!(!paths.is_empty());
        assert!(paths.iter().all(|path| path.is_dir()), "{paths:?}");
        Some(Self {
            hierarchies,
            paths,
            state,
        })
    }

    fn create(&self, id: u64, limits: Limits) -> Group {
        self.hierarchies.create(GroupId(id), &limits).unwrap()
    }

    /// Removes a group that has nothing in it any more.
    fn remove(&self, id: u64) {
        until("the group is removed", || {
            (self.hierarchies.remove(GroupId(id)).unwrap() == Removal::Gone).then_some(())
        });
    }

    fn close(self) {
        self.hierarchies.close().unwrap();
        for path in self.paths {
            assert!(!path.exists(), "{} was left behind", path.display());
        }
    }
}

fn open(state: &Path, needs: Controllers) -> Opened {
    Hierarchies::open(state, needs, Host::current())
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(result) = condition() {
            return result;
        }
        assert!(Instant::now() < deadline, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Shell(Child);

impl Shell {
    /// Begins with `script` once it is in its group.
    fn start(group: &Group, script: &str) -> Self {
        let mut shell = Self::outside(&format!("read -r go; {script}"));
        group.add(shell.0.id().try_into().unwrap()).unwrap();
        shell.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        shell
    }

    #[expect(clippy::disallowed_methods, reason = "the test is not herd")]
    fn outside(script: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn end(&mut self) -> ExitStatus {
        until("the shell ends", || self.0.try_wait().unwrap())
    }
}

impl Drop for Shell {
    /// A test that fails leaves nothing running.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn memory(bytes: u64) -> Limits {
    Limits {
        memory: Some(bytes),
        ..Limits::default()
    }
}

#[test]
fn a_memory_bomb_is_killed_and_counted_and_its_neighbour_is_not() {
    let Some(room) = Room::open(&[Controller::Memory]) else {
        return;
    };
    let bombed = room.create(1, memory(32 * MIB));
    let neighbour = room.create(2, memory(32 * MIB));
    let mut beside = Shell::start(&neighbour, "exec sleep 60");
    // tail(1) has to keep all of it: it cannot know that there is no more to come.
    let mut bomb = Shell::start(&bombed, "head -c 256M /dev/zero | tail -c 256M > /dev/null");
    let end = bomb.end();
    assert!(!end.success(), "{end:?}");
    // Killed itself where the kernel kills the whole group, or told of it by its child's status.
    assert!(end.signal() == Some(9) || end.code() == Some(128 + 9), "{end:?}");
    let outcome = bombed.outcome();
    assert!(outcome.oom_kills >= 1, "{outcome:?}");
    assert!(outcome.memory_limit_hit, "{outcome:?}");
    assert!(beside.is_alive(), "the neighbour was killed, too");
    assert!(neighbour.memory().unwrap() < 32 * MIB);
    let outcome = neighbour.outcome();
    assert_eq!((outcome.oom_kills, outcome.memory_limit_hit), (0, false));
    neighbour.kill().unwrap();
    assert_eq!(beside.end().signal(), Some(9));
    room.remove(2);
    // Group 1 is empty and not removed: so does a launcher leave it that herd's end overtakes.
    room.close();
}

#[test]
fn a_fork_bomb_is_refused_counted_and_killed_as_a_whole() {
    let Some(room) = Room::open(&[Controller::Pids]) else {
        return;
    };
    let limits = Limits {
        pids: Some(10),
        ..Limits::default()
    };
    let group = room.create(1, limits);
    // Not `exec`: the first refusal ends the shell, and its children stay.
    let script = "i=0; while [ $i -lt 200 ]; do sleep 60 & i=$((i+1)); done; exit 0";
    let end = Shell::start(&group, script).end();
    assert!(
        end.code().is_some_and(|code| code != 0),
        "all 200 were started: {end:?}"
    );
    let outcome = group.outcome();
    assert!(outcome.pids_denied >= 1, "{outcome:?}");
    assert_eq!(outcome.oom_kills, 0);
    assert_eq!(room.hierarchies.remove(GroupId(1)).unwrap(), Removal::Busy);
    group.kill().unwrap();
    room.remove(1);
    room.close();
}

#[test]
fn a_busy_loop_is_throttled() {
    let Some(room) = Room::open(&[Controller::Cpu]) else {
        return;
    };
    let limits = Limits {
        cpus: Cpus::from_milli(100),
        ..Limits::default()
    };
    let group = room.create(1, limits);
    let mut busy = Shell::start(&group, "while :; do :; done");
    let outcome = until("the loop has been throttled three times", || {
        let outcome = group.outcome();
        (outcome.cpu_periods_throttled >= 3).then_some(outcome)
    });
    assert!(outcome.cpu_throttled > 0, "{outcome:?}");
    group.kill().unwrap();
    assert_eq!(busy.end().signal(), Some(9));
    room.remove(1);
    room.close();
}

/// As a keeper is: PID 1 of its own namespace, in a user namespace that knows only its own user.
#[test]
fn a_process_is_added_by_its_number_in_the_namespaces_of_who_adds_it() {
    let Some(room) = Room::open(&Controller::ALL) else {
        return;
    };
    let limits = Limits {
        memory: Some(64 * MIB),
        cpus: Cpus::from_milli(1000),
        pids: Some(64),
    };
    let _group = room.create(1, limits);
    let files: Vec<_> = room
        .paths
        .iter()
        .map(|path| path.join("w1/cgroup.procs"))
        .collect();
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let mut shell = Shell::outside(&format!(
        "exec unshare --user --map-current-user --pid --mount --fork --kill-child sh -ec '
           sleep 60 & for file in {}; do echo $! > $file; done; echo added $!; wait'",
        names.join(" ")
    ));
    assert_eq!(shell.line(), "added 2");
    for file in files {
        let pids = std::fs::read_to_string(&file).unwrap();
        assert_eq!(pids.lines().count(), 1, "{}: {pids}", file.display());
        assert_ne!(pids, "2\n", "{}: another process was added", file.display());
    }
    drop(shell);
    room.remove(1);
    room.close();
}

#[test]
fn a_removal_that_finds_the_group_busy_kills_what_is_in_it_and_goes_on_later() {
    let Some(room) = Room::open(&Controller::ALL) else {
        return;
    };
    let limits = Limits {
        memory: Some(64 * MIB),
        cpus: Cpus::from_milli(1500),
        pids: Some(64),
    };
    let mut shell = Shell::start(&room.create(1, limits), "sleep 60 & sleep 60 & wait");
    let mut removals = Removals::default();
    assert_eq!(removals.next(Instant::now()), None);
    removals.push(GroupId(1), Instant::now());
    assert!(removals.retry(&room.hierarchies, Instant::now()).is_empty());
    assert_ne!(removals.next(Instant::now()), None, "it is busy");
    let deadline = Instant::now() + LONG;
    while let Some(pause) = removals.next(Instant::now()) {
        assert!(pause <= Duration::from_millis(500));
        assert!(Instant::now() < deadline, "the group stays busy");
        std::thread::sleep(pause);
        assert!(removals.retry(&room.hierarchies, Instant::now()).is_empty());
        // The kernel counts what was not reaped yet as still there on some versions.
        shell.is_alive();
    }
    assert_eq!(shell.end().signal(), Some(9));
    for path in &room.paths {
        assert!(!path.join("w1").exists(), "{}", path.display());
    }
    // One that never was is no error: a worker may end before it got its group.
    removals.push(GroupId(2), Instant::now());
    assert!(removals.retry(&room.hierarchies, Instant::now()).is_empty());
    assert_eq!(removals.next(Instant::now()), None);
    room.close();
}

#[test]
fn what_a_killed_herd_left_is_killed_and_removed_by_the_next_one_with_any_state_directory() {
    let Some(room) = Room::open(&Controller::ALL) else {
        return;
    };
    let limits = Limits {
        memory: Some(64 * MIB),
        pids: Some(64),
        cpus: Cpus::from_milli(1000),
    };
    let mut stray = Shell::start(&room.create(7, limits), "sleep 60");
    assert!(room.paths.iter().all(|path| path.join("w7").is_dir()));
    let other = tempfile::tempdir().unwrap();
    assert_eq!(open(other.path(), Controllers::NONE).missing, []);
    assert!(stray.is_alive(), "a living herd's process was killed");
    assert!(room.paths.iter().all(|path| path.join("w7").is_dir()));
    // Closing its descriptors is all that the kernel does for a killed herd.
    let Room {
        hierarchies, paths, ..
    } = room;
    drop(hierarchies);
    // Reaped beside it, as a dead herd's processes would be by somebody else.
    let reaper = std::thread::spawn(move || stray.end());
    // Once would do, if no other test held a copy of the lock between its fork and its exec.
    until("the groups are swept", || {
        let next = open(other.path(), Controllers::NONE);
        assert_eq!((next.missing, next.hierarchies.paths().count()), (vec![], 0));
        paths.iter().all(|path| !path.exists()).then_some(())
    });
    assert_eq!(reaper.join().unwrap().signal(), Some(9));
}

#[test]
fn a_living_herd_keeps_its_groups_from_another_with_the_same_state_directory() {
    let Some(room) = Room::open(&[Controller::Pids]) else {
        return;
    };
    let limits = Limits {
        pids: Some(64),
        ..Limits::default()
    };
    let mut shell = Shell::start(&room.create(1, limits), "exec sleep 60");
    let second = open(room.state.path(), Controller::Pids.into());
    assert!(second.hierarchies.controllers().is_empty());
    let [why] = &second.missing[..] else {
        panic!("{:?}", second.missing)
    };
    let expected = format!(
        "pids cannot be limited: another herd with the same state directory uses {}; give this herd a state \
         directory of its own with --state-dir",
        room.paths[0].display()
    );
    assert_eq!(why.to_string(), expected);
    assert!(shell.is_alive(), "another herd's process was killed");
    drop(shell);
    room.remove(1);
    room.close();
}

#[test]
fn a_limit_that_the_kernel_does_not_take_leaves_no_group() {
    let Some(room) = Room::open(&Controller::ALL) else {
        return;
    };
    let limits = Limits {
        memory: Some(64 * MIB),
        cpus: Cpus::from_milli(500),
        // More than there can ever be.
        pids: Some(5_000_000),
    };
    let error = room
        .hierarchies
        .create(GroupId(1), &limits)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("cannot limit pids: /"), "{error}");
    let end = "/w1/pids.max does not take \"5000000\": Invalid argument (os error 22)";
    assert!(error.ends_with(end), "{error}");
    for path in &room.paths {
        assert!(!path.join("w1").exists(), "{}", path.display());
    }
    room.close();
}

#[test]
fn a_limit_without_its_controller_is_refused_when_a_group_is_made() {
    let Some(room) = Room::open(&[Controller::Pids]) else {
        return;
    };
    let error = room
        .hierarchies
        .create(GroupId(1), &memory(64 * MIB))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "memory cannot be limited: herd was started without it");
    room.close();
}

#[test]
fn what_doctor_says_is_what_a_start_finds() {
    let before = survey(Host::current());
    let state = tempfile::tempdir().unwrap();
    let opened = open(state.path(), Controller::ALL.into_iter().collect());
    let refused: Vec<_> = before
        .iter()
        .filter_map(|(_, offer)| offer.as_ref().err().cloned())
        .collect();
    assert_eq!(opened.missing, refused);
    let order: Vec<_> = before.iter().map(|(controller, _)| *controller).collect();
    assert_eq!(order, Controller::ALL);
    for path in opened.hierarchies.paths() {
        let offered = before
            .iter()
            .any(|(_, offer)| offer.as_ref().is_ok_and(|o| path.parent() == Some(&o.base)));
        assert!(offered, "{}: {before:?}", path.display());
    }
    opened.hierarchies.close().unwrap();
}

/// As root it asks a copy of itself that is not.
#[test]
fn a_user_without_delegation_is_told_what_to_run() {
    if std::env::var_os(AS_USER).is_none() && nix::unistd::geteuid().is_root() {
        let this = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // Where the user may read it.
        let copy = dir.path().join("limits");
        std::fs::copy(this, &copy).unwrap();
        let status = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(copy)
            .args([
                "--exact",
                "a_user_without_delegation_is_told_what_to_run",
                "--nocapture",
            ])
            .env(AS_USER, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{status:?}");
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let opened = open(state.path(), Controller::ALL.into_iter().collect());
    if std::env::var_os(AS_USER).is_none() && opened.missing.is_empty() {
        // There is nothing to refuse: the other tests show it.
        opened.hierarchies.close().unwrap();
        return;
    }
    assert!(opened.hierarchies.controllers().is_empty(), "{opened:?}");
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let fix = match (unified, Host::current().systemd) {
        (true, true) => {
            "start herd with `systemd-run --user --scope -p Delegate=yes herd start`, with Delegate=yes in its unit, \
             or as root"
        }
        (true, false) => {
            "run herd as root, or let root make a control group, give it to you with chown and move your shell into it"
        }
        (false, _) => "run herd as root, or boot with version 2 alone (systemd.unified_cgroup_hierarchy=1)",
    };
    assert_eq!(opened.missing.len(), 3, "{opened:?}");
    for (controller, why) in Controller::ALL.into_iter().zip(&opened.missing) {
        let text = why.to_string();
        let start = format!("{controller} cannot be limited: herd may not change the control group /");
        assert!(text.starts_with(&start), "{text}");
        assert!(text.ends_with(&format!(" (Permission denied); {fix}")), "{text}");
        println!("{text}");
    }
}
