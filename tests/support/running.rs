//! A real `herd start` with the built-in worker, and the other verbs run against it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const HERD: &str = env!("CARGO_BIN_EXE_herd");

/// Long enough for any machine; nothing is decided by it.
pub(crate) const CAP: Duration = Duration::from_secs(60);

/// A running herd; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) dir: tempfile::TempDir,
    /// Kept open, so that herd can go on logging.
    _log: BufReader<ChildStderr>,
}

impl Running {
    /// Returns when herd says that it is ready.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    pub(crate) fn start_in(dir: tempfile::TempDir) -> Self {
        std::fs::write(
            dir.path().join("herd.yaml"),
            format!(
                "network: {{ data_bind: 127.0.0.1:0 }}\n\
                 workers:\n  runner:\n    cmd: [{HERD:?}, runner, --listen, \"{{{{.Port}}}}\"]\n\
                 \x20   health_path: /healthz\n    min: 0\n    max: 3\n"
            ),
        )
        .unwrap();
        let mut child = spawn(start_command(dir.path(), "state").stderr(Stdio::piped()));
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("herd is ready") {
            assert!(
                log.read_line(&mut said).unwrap() > 0,
                "herd did not start:\n{said}"
            );
        }
        Self {
            child,
            dir,
            _log: log,
        }
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
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `herd start` with everything it uses in `dir`.
pub(crate) fn start_command(dir: &Path, state: &str) -> Command {
    let mut command = Command::new(HERD);
    command.arg("start").arg("--config").arg(dir.join("herd.yaml"));
    command.arg("--control-socket").arg(dir.join("run/control.sock"));
    command.arg("--state-dir").arg(dir.join(state));
    command.args(["--log-format", "text"]).stdin(Stdio::null());
    command
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
