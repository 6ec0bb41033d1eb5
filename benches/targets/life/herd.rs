//! herd, started for a row.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::fd::AsFd;

use ::herd::sys::pidfd::PidFd;

use super::client::Client;
use super::tiny::Tiny;
use super::who::Who;
use super::wire::now;
use crate::lab::Lab;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Herd {
    child: Child,
    dir: PathBuf,
    address: String,
    next: u64,
}

impl Herd {
    /// `workers` is what herd.yaml has under that key.
    pub(super) fn start(lab: &Lab, name: &str, who: Who, workers: &str) -> anyhow::Result<Self> {
        let dir = lab.dir(name)?;
        who.give(&dir)?;
        let file = dir.join("herd.yaml");
        let text = format!(
            "network: {{data_bind: \"127.0.0.1:0\", idle_timeout: 1h, max_connections: 30000}}\ndrain_timeout: 1ms\n\
             defaults: {{max: 20000, ttl: never, queue: {{max: 1000}}}}\nworkers:\n{workers}"
        );
        fs::write(&file, text)?;
        let words = who.words();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(who.program(&lab.herd, &lab.scratch)?);
        command
            .args(["start", "--log-format", "json", "--config"])
            .arg(&file);
        command.arg("--state-dir").arg(dir.join("s"));
        command.arg("--control-socket").arg(dir.join("c/c.sock"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        #[allow(clippy::disallowed_methods, reason = "a benchmark is no herd")]
        let mut child = command.spawn().context("cannot start herd")?;
        let from = BufReader::new(child.stderr.take().context("piped")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                // Read to its end also when nobody waits for it any more: herd must be able to log.
                let _ = send.send(line);
            }
        });
        let mut said = String::new();
        let address = loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                let _ = child.wait();
                bail!("herd did not start:\n{said}");
            };
            if let Some((_, rest)) = line.split_once("\"data\":\"http://") {
                break rest.split('"').next().unwrap_or_default().to_owned();
            }
            said += &line;
            said.push('\n');
        };
        Ok(Self {
            child,
            dir,
            address,
            next: 0,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Always a new connection: herd closes those that were idle for a while.
    pub(super) fn control(&self) -> anyhow::Result<Client<UnixStream>> {
        Client::unix(&self.control_socket())
    }

    pub(super) fn control_socket(&self) -> PathBuf {
        self.dir.join("c/c.sock")
    }

    pub(super) fn connect(&self) -> anyhow::Result<Client<TcpStream>> {
        Client::tcp(&self.address)
    }

    /// An id that was never used.
    pub(super) fn id(&mut self) -> String {
        self.next += 1;
        format!("s{}", self.next)
    }

    /// One request for each, all sent at once; ms until each answer.
    pub(super) fn first_requests(&self, sessions: &[(String, String)]) -> anyhow::Result<Vec<f64>> {
        Ok(self
            .first_answers(sessions)?
            .into_iter()
            .map(|(took, _)| took)
            .collect())
    }

    /// The same, with what was answered.
    pub(super) fn first_answers(&self, sessions: &[(String, String)]) -> anyhow::Result<Vec<(f64, Vec<u8>)>> {
        let mut clients = sessions
            .iter()
            .map(|_| self.connect())
            .collect::<anyhow::Result<Vec<_>>>()?;
        let began = now();
        for (client, (id, kind)) in clients.iter_mut().zip(sessions) {
            client.send(
                "GET",
                "/",
                &format!("X-Session-ID: {id}\r\nX-Herd-Worker: {kind}\r\n"),
            )?;
        }
        let mut took = vec![None; clients.len()];
        while took.iter().any(Option::is_none) {
            let waiting: Vec<_> = (0..clients.len()).filter(|at| took[*at].is_none()).collect();
            let mut fds: Vec<_> = waiting
                .iter()
                .map(|at| PollFd::new(clients[*at].as_fd(), PollFlags::POLLIN))
                .collect();
            match poll(&mut fds, PollTimeout::from(30_000u16)) {
                Ok(0) => bail!("no answer within 30 s"),
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            let ready: Vec<_> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
            let at_ns = now();
            for (at, _) in waiting.iter().zip(ready).filter(|(_, ready)| *ready) {
                let body = clients[*at].receive()?.expect_success()?;
                took[*at] = Some(((at_ns - began) as f64 / 1e6, body));
            }
        }
        Ok(took.into_iter().flatten().collect())
    }

    pub(super) fn end_session(&mut self, id: &str) -> anyhow::Result<()> {
        self.control()?.ask("DELETE", &format!("/v1/sessions/{id}"), "")?;
        Ok(())
    }

    pub(super) fn sessions(&mut self) -> anyhow::Result<Vec<Value>> {
        let body = self.control()?.ask("GET", "/v1/sessions", "")?;
        let mut list: Value = serde_json::from_slice(&body)?;
        match list["sessions"].take() {
            Value::Array(sessions) => Ok(sessions),
            other => bail!("no list of sessions: {other}"),
        }
    }

    /// The keeper of the session's worker, as the host numbers it.
    pub(super) fn keeper(&mut self, id: &str) -> anyhow::Result<i32> {
        let body = self.control()?.ask("GET", &format!("/v1/sessions/{id}"), "")?;
        let session: Value = serde_json::from_slice(&body)?;
        let pid = session["pid"].as_i64().context("the session has no worker")?;
        Ok(pid as i32)
    }

    /// Until so many workers of the first kind are warm.
    pub(super) fn until_warm(&mut self, count: u64) -> anyhow::Result<()> {
        until("workers are warm", || {
            let body = self.control()?.ask("GET", "/v1/workers", "")?;
            let pools: Value = serde_json::from_slice(&body)?;
            Ok(pools["workers"][0]["warm"].as_u64() == Some(count))
        })
    }

    fn launcher(&self) -> anyhow::Result<i32> {
        let children = children(self.pid())?;
        children.first().copied().context("herd has no launcher")
    }

    /// Keepers of sandboxes that no session has.
    fn spare(&mut self) -> anyhow::Result<Vec<i32>> {
        let sessions = self.sessions()?;
        let bound: Vec<_> = sessions
            .iter()
            .filter_map(|session| session["pid"].as_i64())
            .collect();
        let mut keepers = children(self.launcher()?)?;
        keepers.retain(|pid| !bound.contains(&i64::from(*pid)));
        Ok(keepers)
    }

    /// Until exactly so many sandboxes wait, completely locked up, and none is being made or removed.
    pub(super) fn until_stocked(&mut self, count: usize) -> anyhow::Result<()> {
        until("sandboxes are made ahead", || {
            let spare = self.spare()?;
            Ok(spare.len() == count && spare.into_iter().all(is_created))
        })?;
        // What their making leaves to do, such as the reading of a report, is not the next start's.
        std::thread::sleep(Duration::from_millis(3));
        Ok(())
    }

    /// Takes all sandboxes made ahead away, so that the next start has to make its own. herd notices when it wants one;
    /// it has no reason to look before.
    pub(super) fn without_stock(&mut self) -> anyhow::Result<()> {
        for keeper in self.spare()? {
            let pidfd = PidFd::open(keeper)?;
            pidfd.signal(Signal::SIGKILL)?;
            until("a sandbox is dead", || Ok(pidfd.has_exited()))?;
        }
        until("they are reaped", || Ok(self.spare()?.is_empty()))?;
        // The launcher removes their control groups, and that is not the next start's either.
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    /// The number of a worker that is started now, for a session of its own.
    pub(super) fn worker_number(&mut self) -> anyhow::Result<u64> {
        let id = self.id();
        let mut client = self.connect()?;
        client.ask("GET", "/", &format!("X-Session-ID: {id}\r\n"))?;
        let body = self.control()?.ask("GET", &format!("/v1/sessions/{id}"), "")?;
        let session: Value = serde_json::from_slice(&body)?;
        self.end_session(&id)?;
        let worker = session["worker"].as_str().and_then(|name| name.strip_prefix('w'));
        worker
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("no number: {session}"))
    }

    /// SIGKILL, and its reaping.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Its child is the sandbox's first process, with its filter loaded.
fn is_created(keeper: i32) -> bool {
    children(keeper).unwrap_or_default().iter().any(|pid| {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.contains("Name:\therd-init") && status.contains("Seccomp:\t2"))
    })
}

pub(super) fn children(pid: i32) -> anyhow::Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect())
}

/// Looks again and again, with a cap that only a hang reaches.
pub(super) fn until(what: &str, mut is: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is()? {
        ensure!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// A kind of bare workers, and one of sandboxed ones.
pub(super) fn bare(name: &str, worker: &Path, more: &str) -> String {
    let worker = worker.display();
    format!("  {name}: {{cmd: [\"{worker}\", \"{{{{.Socket}}}}\"], sandbox: off{more}}}\n")
}

pub(super) fn sandboxed(name: &str, bundle: &Path, limits: &str) -> String {
    let bundle = bundle.display();
    format!(
        "  {name}: {{cmd: [\"/worker\", \"{{{{.Socket}}}}\"], sandbox: {{bundle: \"{bundle}\"{limits}}}}}\n"
    )
}

/// herd reads no more of it than the root filesystem.
pub(super) fn bundle(lab: &Lab, tiny: &Tiny) -> anyhow::Result<PathBuf> {
    let dir = lab.dir("bundle")?;
    let config = serde_json::json!({"ociVersion": "1.0.2", "root": {"path": tiny.rootfs},
        "process": {"cwd": "/", "args": ["/worker"], "user": {"uid": 1000, "gid": 1000}}});
    std::fs::write(dir.join("config.json"), config.to_string())?;
    Ok(dir)
}

impl Drop for Herd {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = Pid::from_raw(self.pid());
        // The second signal ends everything at once; two different ones, because equal ones that wait are merged.
        let _ = kill(pid, Signal::SIGTERM);
        let _ = kill(pid, Signal::SIGINT);
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        eprintln!("!!! herd had to be killed");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
