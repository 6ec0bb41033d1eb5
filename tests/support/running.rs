//! A real `herd start` with the built-in worker, and the other verbs run against it. Whoever starts one also
//! asserts, by dropping it, that it left nothing behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};
use serde_json::Value;

use crate::leak::{self, Scope, Snapshot};
use crate::supervised::Mode;

pub(crate) const HERD: &str = env!("CARGO_BIN_EXE_herd");

/// Long enough for any machine; nothing is decided by it.
pub(crate) const CAP: Duration = Duration::from_secs(60);

/// A running herd. Dropping it ends it, politely if it still lives, and fails the test if anything is left.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) dir: tempfile::TempDir,
    log: Arc<Log>,
    scope: Scope,
    before: Snapshot,
}

/// What herd wrote so far. Read all the time, so that herd can go on logging.
#[derive(Debug, Default)]
struct Log {
    text: Mutex<(String, LogState)>,
    changed: Condvar,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum LogState {
    #[default]
    Open,
    Ended,
}

impl Running {
    /// Returns when herd says that it is ready.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    pub(crate) fn start_in(dir: tempfile::TempDir) -> Self {
        Self::launch(dir, Mode::Own, "min: 0").ready()
    }

    pub(crate) fn start_as(mode: Mode) -> Self {
        Self::launch(tempfile::tempdir().unwrap(), mode, "min: 0").ready()
    }

    /// Returns as soon as the process exists. `keys` are further lines for the kind.
    pub(crate) fn launch(dir: tempfile::TempDir, mode: Mode, keys: &str) -> Self {
        let (tag, program) = (
            dir.path().display().to_string(),
            command_program(mode, dir.path()),
        );
        let runner = format!(
            "network: {{ data_bind: 127.0.0.1:0 }}\n\
             workers:\n  runner:\n    cmd: [{program:?}, runner, --listen, \"{{{{.Port}}}}\"]\n\
             \x20   health_path: /healthz\n    env: {{ HERD_TEST_TAG: {tag:?} }}\n    max: 3\n    {keys}\n"
        );
        Self::launch_with(dir, mode, &runner)
    }

    /// With this herd.yaml.
    pub(crate) fn launch_with(dir: tempfile::TempDir, mode: Mode, yaml: &str) -> Self {
        Self::launch_through(&[], dir, mode, yaml)
    }

    /// By a command that becomes the one that follows it, as `env` and `nice` do.
    pub(crate) fn launch_through(through: &[&str], dir: tempfile::TempDir, mode: Mode, yaml: &str) -> Self {
        let mut command = behind(through, start_command_as(mode, dir.path(), "state"));
        let tag = dir.path().display().to_string();
        std::fs::write(dir.path().join("herd.yaml"), yaml).unwrap();
        let state_dir = dir.path().join("state");
        // No ports: herds that run side by side share a range. Their sockets are told apart by who holds them.
        #[expect(clippy::reversed_empty_ranges, reason = "none is meant")]
        let ports = 1..=0;
        let scope = Scope {
            tag,
            state_dir,
            ports,
        };
        let before = Snapshot::take(&scope);
        let mut child = spawn(command.stderr(Stdio::piped()));
        let log = Arc::new(Log::default());
        let lines = BufReader::new(child.stderr.take().unwrap());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || writer.fill(lines));
        Self {
            child,
            dir,
            log,
            scope,
            before,
        }
    }

    pub(crate) fn ready(self) -> Self {
        let said = self.log.until("herd is ready");
        assert!(said.contains("herd is ready"), "herd did not start:\n{said}");
        self
    }

    /// What herd has logged once that is in it, or all if it ended without.
    pub(crate) fn logged(&self, text: &str) -> String {
        self.log.until(text)
    }

    /// What herd has logged so far.
    pub(crate) fn said(&self) -> String {
        self.log.text.lock().unwrap().0.clone()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn tag(&self) -> &str {
        &self.scope.tag
    }

    /// Where clients connect, as IP:PORT; nothing if herd ended before it was ready.
    pub(crate) fn data_address(&self) -> Option<String> {
        self.address_after(" data=")
    }

    /// Where the control API is served over TCP, as IP:PORT; nothing if it is not.
    pub(crate) fn control_address(&self) -> Option<String> {
        self.address_after(" control_url=")
    }

    fn address_after(&self, field: &str) -> Option<String> {
        let said = self.log.until("herd is ready");
        let url = said.split_once(field)?.1.split_whitespace().next()?;
        Some(url.trim_matches('"').split_once("://")?.1.to_owned())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/control.sock")
    }

    /// `herd ARGS` against this herd.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(HERD);
        command.args(args).env("HERD_CONTROL_SOCKET", self.socket());
        command
    }

    pub(crate) fn herd(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// The newest incarnation of the session, as soon as it is in this state.
    pub(crate) fn until(&self, id: &str, state: &str) -> Value {
        poll(&format!("{id} is {state}"), || {
            let listed = stdout(&self.herd(&["ps", "--all", "-o", "json"]));
            let rows: Vec<Value> =
                serde_json::from_str(&listed).map_err(|error| format!("{error}: {listed}"))?;
            rows.into_iter()
                .rev()
                .find(|row| row["id"] == id)
                .filter(|row| row["state"] == state)
                .ok_or(listed)
        })
    }

    /// The session's program itself: the last of the processes that descend from its keeper.
    pub(crate) fn program(&self, id: &str) -> Pid {
        let mut pid = self.until(id, "bound")["pid"].as_i64().unwrap() as i32;
        loop {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            match children.split_whitespace().next() {
                Some(child) => pid = child.parse().unwrap(),
                None => return Pid::from_raw(pid),
            }
        }
    }

    /// Has the session's program do nothing any more.
    pub(crate) fn hang(&self, id: &str) {
        kill(self.program(id), Signal::SIGSTOP).unwrap();
    }

    /// `herd hold ID` and the first line it printed.
    pub(crate) fn hold(&self, id: &str) -> (Child, String) {
        let mut child = spawn(
            self.command(&["hold", id])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        (child, line)
    }

    /// Ends it as a second Ctrl-C does, and asserts that it is clean.
    fn end(&mut self) {
        let sockets = leak::sockets_held(&self.scope.tag);
        // Two different signals, because the kernel merges equal ones that wait.
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            // It is not reaped yet, so the number is its own.
            kill(Pid::from_raw(self.pid()), signal).unwrap();
        }
        let status = self.wait();
        self.assert_clean(status);
        self.assert_nothing_is_left(&sockets);
    }

    /// What only an end that was asked for has to do: say so, and remove its files.
    pub(crate) fn assert_clean(&self, status: ExitStatus) {
        assert!(status.success(), "{status}:\n{}", self.log.until("\0"));
        assert!(!self.socket().exists(), "the control socket is left behind");
        Snapshot::assert_nothing_added(&self.before, &self.scope);
    }

    /// With SIGKILL: all but the files, which only a next start can sweep, has to go.
    pub(crate) fn kill_and_assert_nothing_survives(mut self) {
        let sockets = leak::sockets_held(&self.scope.tag);
        self.child.kill().unwrap();
        self.wait();
        let _ = std::fs::remove_dir_all(&self.scope.state_dir);
        self.assert_nothing_is_left(&sockets);
    }

    /// A next herd in the same place has to clear away, before it is ready, what this one could not: it was killed.
    pub(crate) fn assert_the_next_sweeps(&self, mode: Mode) {
        self.assert_the_next_sweeps_and(mode, || ());
    }

    /// The same, and does that before the next herd is told to end.
    pub(crate) fn assert_the_next_sweeps_and(&self, mode: Mode, serve: impl FnOnce()) {
        let left = leak::cgroups(&self.scope.state_dir);
        let mut command = start_command_as(mode, self.dir.path(), "state");
        let mut child = spawn(command.stderr(Stdio::piped()));
        let log = Arc::new(Log::default());
        let (lines, writer) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || writer.fill(lines));
        let said = log.until("herd is ready");
        let now = leak::cgroups(&self.scope.state_dir);
        if said.contains("herd is ready") {
            serve();
        }
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}:\n{}", log.until("\0"));
        assert!(
            said.contains("herd is ready"),
            "herd did not start again:\n{said}"
        );
        // Its own group it takes over.
        let of_a_sandbox = |group: &&String| group.contains("/w");
        let kept: Vec<_> = left.intersection(&now).filter(of_a_sandbox).collect();
        assert!(kept.is_empty(), "the next herd did not sweep {kept:?}");
        Snapshot::assert_nothing_added(&self.before, &self.scope);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        poll("herd ends", || {
            let waited = self.child.try_wait().unwrap();
            waited.ok_or_else(|| format!("{:?}", leak::processes(&self.scope.tag)))
        })
    }

    fn assert_nothing_is_left(&self, sockets: &BTreeSet<String>) {
        Snapshot::assert_nothing_added(&self.before, &self.scope);
        let left = leak::sockets_open(sockets);
        assert!(left.is_empty(), "sockets left behind: {left:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let lives = matches!(self.child.try_wait(), Ok(None));
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else if lives {
            self.end();
        } else {
            // The test ended it, and by whichever means: no process may have survived that.
            let _ = std::fs::remove_dir_all(&self.scope.state_dir);
            self.assert_nothing_is_left(&BTreeSet::new());
        }
    }
}

impl Log {
    fn fill(&self, mut from: impl BufRead) {
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let mut held = self.text.lock().unwrap();
            held.0.push_str(&String::from_utf8_lossy(&line));
            line.clear();
            self.changed.notify_all();
        }
        self.text.lock().unwrap().1 = LogState::Ended;
        self.changed.notify_all();
    }

    fn until(&self, text: &str) -> String {
        let held = self.text.lock().unwrap();
        let waiting =
            |(said, state): &mut (String, LogState)| *state == LogState::Open && !said.contains(text);
        let (held, waited) = self.changed.wait_timeout_while(held, CAP, waiting).unwrap();
        assert!(!waited.timed_out(), "never said {text:?}:\n{}", held.0);
        held.0.clone()
    }
}

/// `herd start` with everything it uses in `dir`.
pub(crate) fn start_command(dir: &Path, state: &str) -> Command {
    start_command_as(Mode::Own, dir, state)
}

pub(crate) fn start_command_as(mode: Mode, dir: &Path, state: &str) -> Command {
    if let Some(user) = mode.other_user() {
        chown(dir, Some(user.into()), Some(user.into())).unwrap();
    }
    let mut command = mode.command(&command_program(mode, dir));
    command.arg("start").arg("--config").arg(dir.join("herd.yaml"));
    command.arg("--control-socket").arg(dir.join("run/control.sock"));
    command.arg("--state-dir").arg(dir.join(state));
    command.args(["--log-format", "text"]).stdin(Stdio::null());
    // Keepers and inits have it, too.
    command.env("HERD_TEST_TAG", dir);
    command.envs(mode.environment());
    command
}

fn behind(words: &[&str], command: Command) -> Command {
    let [program, arguments @ ..] = words else {
        return command;
    };
    let mut through = Command::new(program);
    through
        .args(arguments)
        .arg(command.get_program())
        .args(command.get_args());
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    through.envs(set).stdin(Stdio::null());
    through
}

/// herd, or a copy of it that every user may run: the build directory may be private.
fn command_program(mode: Mode, dir: &Path) -> PathBuf {
    if mode.other_user().is_none() {
        return HERD.into();
    }
    let copy = dir.join("herd");
    if !copy.exists() && std::fs::hard_link(HERD, &copy).is_err() {
        std::fs::copy(HERD, &copy).unwrap();
    }
    copy
}

#[allow(clippy::disallowed_methods, reason = "a test is no herd")]
pub(crate) fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap()
}

/// Tries until it succeeds; at the cap, fails with what was seen last.
pub(crate) fn poll<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(found) => return found,
            Err(last) => assert!(start.elapsed() < CAP, "not yet: {what}; last seen: {last}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
