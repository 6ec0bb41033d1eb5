//! Who lives, who has died, and how long that took beside a bare kill in the same minute.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll as wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::running::{poll, spawn};

/// A tree that is not gone by then counts as a survivor. Nothing else about time decides a test: machines are loaded.
const LONGEST: Duration = Duration::from_secs(10);
/// Processes by descriptors, so that no other can be meant.
#[derive(Debug)]
pub(crate) struct Watched(Vec<(i32, OwnedFd)>);

/// How long after the fault the last of them was gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) after: Duration,
    pub(crate) ratio: f64,
}

impl Watched {
    /// Whoever is gone already is not watched.
    pub(crate) fn new(pids: impl IntoIterator<Item = i32>) -> Self {
        Self(
            pids.into_iter()
                .filter_map(|pid| Some((pid, pidfd(pid)?)))
                .collect(),
        )
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        self.0.iter().map(|(pid, _)| *pid).collect()
    }

    /// Waits until all have died.
    pub(crate) fn gone(&self, since: Instant, baseline: Duration) -> Gone {
        assert!(!self.0.is_empty(), "nobody was watched");
        for (pid, fd) in &self.0 {
            let left = LONGEST.saturating_sub(since.elapsed());
            let timeout = PollTimeout::try_from(left).unwrap();
            let died = wait_for(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
            assert!(died == 1, "process {pid} survived for {LONGEST:?}");
        }
        let after = since.elapsed();
        let ratio = after.as_secs_f64() / baseline.as_secs_f64();
        Gone { after, ratio }
    }

    pub(crate) fn assert_all_live(&self) {
        for (pid, fd) in &self.0 {
            let died = wait_for(
                &mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)],
                PollTimeout::ZERO,
            );
            assert_eq!(died, Ok(0), "process {pid} died");
        }
    }
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: takes numbers; what it returns is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to {pid}: {e}"));
}

pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// With everything below it.
pub(crate) fn tree(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        found.extend(children(found[next]));
        next += 1;
    }
    found
}

/// The name that the kernel knows it by; empty if it is gone.
pub(crate) fn comm(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim_end().to_owned()
}

/// What the kernel alone needs to kill a PID namespace with three processes: the median of three.
pub(crate) fn baseline() -> Duration {
    let mut took: Vec<Duration> = (0..3).map(|_| bare_kill()).collect();
    took.sort();
    took[1]
}

fn bare_kill() -> Duration {
    let mut unshare = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--pid", "--fork", "sh", "-c", "sleep 60 & sleep 60 & wait"]);
    let mut child = spawn(unshare.stdin(Stdio::null()).stderr(Stdio::null()));
    let outer = child.id() as i32;
    let inner = poll("a bare PID namespace", || {
        let pids = tree(outer);
        let ready = pids.iter().filter(|pid| comm(**pid) == "sleep").count() == 2;
        ready.then(|| pids[1..].to_vec()).ok_or(format!("{pids:?}"))
    });
    let watched = Watched::new(inner.clone());
    let since = Instant::now();
    signal(inner[0], Signal::SIGKILL);
    let gone = watched.gone(since, LONGEST);
    child.wait().unwrap();
    gone.after
}
