//! What code inside a sandbox tries against the host, herd and its neighbours, with every way herd can be run.
//! `tests/support/prober.rs` is the worker that does it. No attack can do harm even where no sandbox holds: its
//! arguments can only fail, or it only opens what it would have to write to.

mod calls;
mod files;
mod limits;
mod mistakes;
mod network;
mod processes;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::client::Client;
use crate::running::{HERD, Running};
use crate::supervised::Mode;

/// A herd whose workers probe their sandboxes. Dropping it asserts that it left nothing.
struct Probed {
    mode: Mode,
    herd: Running,
    client: Client,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Done(Value),
    Refused(i32),
    /// herd's answer in place of the worker's.
    NotAsked(String),
}

/// What a test asks for; the rest is the same for all.
struct Settings<'a> {
    /// `rootfs: host`, or `bundle: DIR/name`; `DIR` is the test's directory.
    root: &'a str,
    /// Further lines of `sandbox`, as in `, pids: 64`.
    sandbox: &'a str,
    /// `, {source: …}`
    mounts: &'a str,
    /// The prober's argument: `{{.Port}}` or `{{.Socket}}`.
    place: &'a str,
    /// Further lines of the kind.
    kind: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            root: "rootfs: host",
            sandbox: "",
            mounts: "",
            place: "{{.Port}}",
            kind: "",
        }
    }
}

impl Settings<'_> {
    fn yaml(&self, dir: &Path) -> String {
        let Self {
            root,
            sandbox,
            mounts,
            place,
            kind,
        } = self;
        let text = format!(
            "network: {{ data_bind: 127.0.0.1:0 }}\n\
             workers:\n  prober:\n    cmd: [/probe, \"{place}\"]\n    env: {{ HERD_TEST_TAG: DIR }}\n    max: 3\n\
             \x20   sandbox: {{ {root}, mounts: [{{ source: DIR/prober, target: /probe }}{mounts}]{sandbox} }}\n\
             {kind}\n"
        );
        text.replace("DIR", &dir.display().to_string())
    }
}

impl Probed {
    fn start(mode: Mode, settings: &Settings) -> Self {
        Self::start_in(place(), mode, settings)
    }

    fn start_in(dir: tempfile::TempDir, mode: Mode, settings: &Settings) -> Self {
        Self::start_through(&[], dir, mode, settings)
    }

    /// By a command that becomes the one that follows it.
    fn start_through(through: &[&str], dir: tempfile::TempDir, mode: Mode, settings: &Settings) -> Self {
        match Self::try_start(through, dir, mode, settings) {
            Ok(started) => started,
            Err(herd) => panic!("herd did not start:\n{}", herd.said()),
        }
    }

    /// The herd that refused to start, if it did.
    fn try_start_in(dir: tempfile::TempDir, mode: Mode, settings: &Settings) -> Result<Self, Box<Running>> {
        Self::try_start(&[], dir, mode, settings)
    }

    fn try_start(
        through: &[&str],
        dir: tempfile::TempDir,
        mode: Mode,
        settings: &Settings,
    ) -> Result<Self, Box<Running>> {
        let yaml = settings.yaml(dir.path());
        give(mode, &dir.path().join("bundle"));
        let herd = Running::launch_through(through, dir, mode, &yaml);
        match Client::of(&herd) {
            Some(client) => Ok(Self { mode, herd, client }),
            None => Err(Box::new(herd)),
        }
    }

    fn ask(&self, session: &str, probe: &Value) -> Outcome {
        let answer = match self.client.ask(session, "POST /", &probe.to_string()) {
            Ok(answer) => answer,
            Err(e) => return Outcome::NotAsked(e.to_string()),
        };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if !head.starts_with("HTTP/1.1 200") {
            return Outcome::NotAsked(answer);
        }
        let body: Value = match serde_json::from_str(body) {
            Ok(body) => body,
            // The prober died while it answered.
            Err(e) if e.is_eof() => return Outcome::NotAsked(answer),
            Err(e) => panic!("{e}: {answer}"),
        };
        match (body.get("ok"), body.get("errno").and_then(Value::as_i64)) {
            (Some(done), _) => Outcome::Done(done.clone()),
            (_, Some(errno)) => Outcome::Refused(errno as i32),
            _ => panic!("{probe}: {body}"),
        }
    }

    /// What a probe found; it must not be refused.
    fn found(&self, session: &str, probe: &Value) -> Value {
        match self.ask(session, probe) {
            Outcome::Done(found) => found,
            other => panic!("{:?}: {probe}: {other:?}", self.mode),
        }
    }

    fn text(&self, session: &str, path: &str) -> String {
        let text = self.found(session, &json!({"read": {"path": path}}));
        text.as_str().unwrap().to_owned()
    }

    fn names(&self, session: &str, path: &str) -> Vec<String> {
        let names = self.found(session, &json!({"list": {"path": path}}));
        let mut names: Vec<String> = serde_json::from_value(names).unwrap();
        names.sort();
        names
    }

    /// One of the errors; anything else is the attack's success.
    fn refuses(&self, session: &str, probe: &Value, with: &[i32]) {
        let outcome = self.ask(session, probe);
        let refused = matches!(&outcome, Outcome::Refused(errno) if with.contains(errno));
        assert!(
            refused,
            "{:?}: {probe}: {outcome:?}, not one of {with:?}",
            self.mode
        );
    }

    /// The session's worker is the one it was, and works.
    fn lives(&self, session: &str) {
        assert_eq!(self.text(session, "/proc/self/comm"), "probe\n");
    }
}

fn call(number: i64, arguments: &[Value]) -> Value {
    json!({"call": {"number": number, "arguments": arguments}})
}

/// As an argument of another call.
fn result_of(number: i64, arguments: &[Value]) -> Value {
    json!({"number": number, "arguments": arguments})
}

fn read(path: &str) -> Value {
    json!({"read": {"path": path}})
}

/// An open that changes nothing.
fn open(path: &str, flags: i32) -> Value {
    json!({"open": {"path": path, "flags": flags}})
}

fn write(path: &str, text: &str) -> Value {
    json!({"write": {"path": path, "text": text}})
}

/// A directory for a herd, with the prober in it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(prober(), dir.path().join("prober")).unwrap();
    dir
}

/// `cargo test` builds it before any test runs; `cargo test --test integration` alone does not.
fn prober() -> PathBuf {
    let built = Path::new(HERD).parent().unwrap().join("examples/prober");
    assert!(
        built.exists(),
        "{} does not exist: first run `cargo build --example prober`",
        built.display()
    );
    built
}

/// A bundle `name` in `dir`, in which the prober runs. `add` puts more into its root.
fn bundle(dir: &Path, name: &str, add: impl FnOnce(&Path)) -> PathBuf {
    let bundle = dir.join(name);
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root).unwrap();
    for library in libraries() {
        let inside = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(&library, inside).unwrap();
    }
    fs::copy(prober(), root.join("probe")).unwrap();
    add(&root);
    fs::write(bundle.join("config.json"), CONFIG).unwrap();
    bundle
}

/// The directories of a bundle to the user who runs herd: one who made a bundle may write in it.
fn give(mode: Mode, dir: &Path) {
    let Some(user) = mode.other_user() else { return };
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give(mode, &entry.path());
        }
    }
    // Even without effect it would be a change to the directory.
    if fs::metadata(dir).is_ok_and(|meta| meta.uid() != user) {
        std::os::unix::fs::chown(dir, Some(user), Some(user)).unwrap();
    }
}

const CONFIG: &str = r#"{"ociVersion": "1.0.2", "root": {"path": "rootfs"},
    "process": {"cwd": "/", "args": ["/probe"], "user": {"uid": 1000, "gid": 1000}}}"#;

/// What the prober is linked with, as the loader finds it.
fn libraries() -> Vec<PathBuf> {
    let listed = std::process::Command::new("ldd").arg(prober()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let paths: Vec<PathBuf> = listed
        .lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = path
                .split_whitespace()
                .next()
                .filter(|path| path.starts_with('/'))?;
            Some(path.into())
        })
        .collect();
    assert!(paths.len() > 1, "{listed}");
    paths
}
