//! Drives `supervisor.rs`, the herd that is nothing but launcher and workers.

use std::io::{BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::leak::{Scope, Snapshot};
use crate::skip::skipped;

/// Long enough that only a hang reaches it.
const CAP: Duration = Duration::from_secs(60);

pub(crate) const NOBODY: u32 = 65534;

/// As whom and with which guard the herd under test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As the user of the test, with namespaces.
    Own,
    /// Without privilege: namespaces inside a user namespace.
    Unprivileged,
    /// The same as a user whom /etc/subuid and /etc/subgid give further ids.
    Subordinate,
    /// As the user of the test, without any namespace.
    Weak,
    UnprivilegedWeak,
}

impl Mode {
    /// Every mode this host can run. Says loudly which it cannot.
    pub(crate) fn all() -> Vec<Mode> {
        if nix::unistd::geteuid().is_root() {
            return vec![Mode::Own, Mode::Unprivileged, Mode::Weak, Mode::UnprivilegedWeak];
        }
        skipped("not root, so the modes that need root to change the user are not tested");
        vec![Mode::Own, Mode::Weak]
    }

    /// Every mode with sandboxes that this host can run. Says loudly which it cannot.
    pub(crate) fn sandboxed() -> Vec<Mode> {
        let mut modes = Self::all();
        modes.retain(|mode| !mode.is_weak());
        if nix::unistd::geteuid().is_root() {
            match subordinate() {
                Some(_) => modes.push(Mode::Subordinate),
                None => skipped(
                    "no user has lines in /etc/subuid and /etc/subgid, or newuidmap is missing (package uidmap)",
                ),
            }
        }
        modes
    }

    pub(crate) fn is_weak(self) -> bool {
        matches!(self, Mode::Weak | Mode::UnprivilegedWeak)
    }

    /// Whom it runs as, if not as the user of the test.
    pub(crate) fn other_user(self) -> Option<u32> {
        match self {
            Mode::Own | Mode::Weak => None,
            Mode::Unprivileged | Mode::UnprivilegedWeak => Some(NOBODY),
            Mode::Subordinate => subordinate(),
        }
    }

    /// Whether herd has no right over what is not its user's.
    pub(crate) fn is_unprivileged(self) -> bool {
        self.other_user().is_some() || !nix::unistd::geteuid().is_root()
    }

    /// Runs the program as the mode's user, under the pid of the one that is spawned.
    pub(crate) fn command(self, program: &Path) -> Command {
        let Some(id) = self.other_user() else {
            return Command::new(program);
        };
        let id = id.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.arg(program);
        command
    }

    pub(crate) fn environment(self) -> Option<(&'static str, &'static str)> {
        self.is_weak().then_some(("HERD_FORCE_WEAK_GUARD", "1"))
    }
}

/// A user with subordinate ids, where there is the program that maps them. Its group has the same number.
fn subordinate() -> Option<u32> {
    let first = |file: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        Some(text.lines().next()?.split(':').next()?.to_owned())
    };
    let name = first("/etc/subuid").filter(|name| Some(name) == first("/etc/subgid").as_ref())?;
    let mapper = std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join("newuidmap").exists());
    let user = nix::unistd::User::from_name(&name).ok()??;
    (mapper && user.uid.as_raw() == user.gid.as_raw()).then(|| user.uid.as_raw())
}

pub(crate) struct Supervised {
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<Value>,
    seen: Vec<Value>,
    pub(crate) launcher: i32,
    pub(crate) guard: String,
    pub(crate) scope: Scope,
    before: Snapshot,
    _home: TempDir,
}

/// Distinct ports for tests that run side by side.
pub(crate) fn ports(count: u16) -> RangeInclusive<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries run one after the other, but other programs' tests may not: begin somewhere of our own.
    let base = 12_000 + (std::process::id() % 80) as u16 * 100;
    let first = base + NEXT.fetch_add(count, Ordering::Relaxed) % 6_000;
    first..=first + count - 1
}

impl Supervised {
    pub(crate) fn start(mode: Mode) -> Self {
        Self::start_with(mode, ports(20))
    }

    pub(crate) fn start_with(mode: Mode, ports: RangeInclusive<u16>) -> Self {
        let home = tempfile::Builder::new()
            .prefix("herd-test-")
            .tempdir()
            .expect("a temporary directory");
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
        let state_dir = home.path().join("state");
        let scope = Scope {
            tag: state_dir.display().to_string(),
            state_dir,
            ports: ports.clone(),
        };
        let before = Snapshot::take(&scope);
        let settings =
            json!({"state_dir": scope.state_dir, "ports": [ports.start(), ports.end()]}).to_string();
        let program = program(home.path());
        let mut command = mode.command(&program);
        command
            .arg(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/");
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("SECRET_OF_HERD", "x")
            .env("HERD_TEST_TAG", &scope.tag)
            .envs(mode.environment());
        #[expect(clippy::disallowed_methods, reason = "the test is not herd")]
        let mut child = command.spawn().expect("the supervisor starts");
        let stdout = child.stdout.take().expect("piped");
        let stdin = child.stdin.take();
        let (send, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
                if send.send(event).is_err() {
                    break;
                }
            }
        });
        let mut this = Self {
            child,
            stdin,
            events,
            seen: Vec::new(),
            launcher: 0,
            guard: String::new(),
            scope,
            before,
            _home: home,
        };
        let hello = this.next_where("the launcher", |event| event.get("launcher").is_some());
        this.launcher = hello["launcher"].as_i64().expect("a pid") as i32;
        this.guard = hello["guard"].as_str().expect("text").to_owned();
        assert_eq!(
            this.guard.starts_with("Weak"),
            mode.is_weak(),
            "{mode:?}: {}",
            this.guard
        );
        this
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Where workers may write.
    pub(crate) fn home(&self) -> &Path {
        self._home.path()
    }

    /// Starts a worker; its environment carries the tag by which leaks are found.
    pub(crate) fn start_worker(&mut self, worker: u64, mut spec: Value) {
        spec["env"]["HERD_TEST_TAG"] = json!(self.scope.tag);
        self.say(json!({"start": {"worker": worker, "spec": spec}}));
    }

    pub(crate) fn say(&mut self, command: Value) {
        let stdin = self.stdin.as_mut().expect("not closed");
        // A supervisor that was just killed does not read any more.
        let _ = writeln!(stdin, "{command}");
    }

    pub(crate) fn kill_worker(&mut self, worker: u64) {
        self.say(json!({"kill": {"worker": worker}}));
    }

    pub(crate) fn ready(&mut self, worker: u64) -> Value {
        self.event("ready", worker)
    }

    pub(crate) fn failed(&mut self, worker: u64) -> Value {
        self.event("failed", worker)
    }

    pub(crate) fn gone(&mut self, worker: u64) -> Value {
        self.event("gone", worker)
    }

    pub(crate) fn event(&mut self, what: &str, worker: u64) -> Value {
        let wanted = format!("{what} {worker}");
        self.next_where(&wanted, |event| {
            event.get(what).and_then(Value::as_u64) == Some(worker)
        })
    }

    /// Output of a worker so far; polls until it satisfies `enough`.
    pub(crate) fn logs_until(&mut self, worker: u64, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        let cap = std::time::Instant::now() + CAP;
        loop {
            self.say(json!({"logs": {"worker": worker}}));
            let event = self.event("logs", worker);
            let lines: Vec<String> = serde_json::from_value(event["lines"].clone()).expect("lines");
            if enough(&lines) {
                return lines;
            }
            assert!(std::time::Instant::now() < cap, "not enough output: {lines:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn next_where(&mut self, wanted: &str, matches: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&matches) {
            return self.seen.remove(at);
        }
        loop {
            match self.events.recv_timeout(CAP) {
                Ok(event) if matches(&event) => return event,
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Timeout) => panic!("no event {wanted:?}; others: {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the supervisor ended before {wanted:?}; others: {:?}", self.seen)
                }
            }
        }
    }

    /// Ends it as SIGKILL does, and asserts that nothing is left but the worker directories that only a next
    /// start may sweep.
    pub(crate) fn kill_and_assert_nothing_survives(mut self) {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.pid()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("it lives until it is reaped here");
        let status = self.child.wait().expect("it can be reaped");
        assert!(matches!(status.signal(), Some(9) | None), "{status}");
        self.assert_no_process_survives();
        let _ = std::fs::remove_dir_all(&self.scope.state_dir);
        Snapshot::assert_nothing_added(&self.before, &self.scope);
    }

    pub(crate) fn assert_no_process_survives(&self) {
        let cap = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let left = crate::leak::processes(&self.scope.tag);
            if left.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < cap, "survived: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes its input, waits, asserts that it left nothing.
    pub(crate) fn finish(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().expect("it can be reaped");
        assert!(status.success(), "{status}; {:?}", self.seen);
        let _ = std::fs::remove_dir_all(&self.scope.state_dir);
        Snapshot::assert_nothing_added(&self.before, &self.scope);
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("it can be reaped")
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A copy that every user may run: the build directory may be private.
fn program(home: &Path) -> PathBuf {
    let built = built();
    let copy = home.join("supervisor");
    if std::fs::hard_link(&built, &copy).is_err() {
        std::fs::copy(&built, &copy).unwrap_or_else(|e| panic!("cannot copy {}: {e}", built.display()));
    }
    copy
}

/// `cargo test` builds it before any test runs; `cargo test --test integration` alone does not.
pub(crate) fn built() -> PathBuf {
    let herd = Path::new(env!("CARGO_BIN_EXE_herd"));
    let built = herd.parent().expect("a directory").join("examples/supervisor");
    assert!(
        built.exists(),
        "{} does not exist, because not all of `cargo test` was run: first run `cargo build --example supervisor`, \
         with the same --release, --target and --target-dir",
        built.display()
    );
    built
}
