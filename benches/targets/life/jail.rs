//! Where the peers run: a process that is the first of its PID namespace and has a mount namespace to itself, so that
//! its end, however it comes, is the end of everything that it started. One thread, because the floor forks.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::floor;
use super::wire::{Ask, How, Said, Start, now};

/// Runs peers for the benchmark
#[derive(Debug, clap::Args)]
pub(crate) struct Jail {
    /// Hierarchies of control groups that stay mounted; the others are taken away, because runtimes join all they see
    #[arg(long, value_delimiter = ',')]
    keep: Vec<String>,
}

impl Jail {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !self.keep.is_empty() {
            keep_hierarchies(&self.keep)?;
        }
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        chld.thread_block()?;
        let signals = SignalFd::with_flags(&chld, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut jail = Inmates::default();
        say(&Said::Ready);
        let mut input = BufReader::with_capacity(1 << 20, std::io::stdin());
        loop {
            let stdin = std::io::stdin();
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            let (asked, child) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
            if child {
                while signals.read_signal()?.is_some() {}
                jail.reap();
            }
            if asked {
                loop {
                    let mut line = String::new();
                    if input.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    jail.obey(serde_json::from_str(&line)?);
                    // poll(2) does not see what was read ahead.
                    if input.buffer().is_empty() {
                        break;
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Inmates {
    tokens: HashMap<Pid, String>,
}

impl Inmates {
    fn obey(&mut self, ask: Ask) {
        match ask {
            Ask::Start(starts) => {
                say(&Said::Began { at: now() });
                for Start { token, how } in starts {
                    match start(&how) {
                        Ok(pid) => {
                            self.tokens.insert(pid, token);
                        }
                        Err(e) => say(&Said::Failed {
                            token,
                            why: format!("{e:#}"),
                        }),
                    }
                }
            }
            Ask::Kill { token } => {
                let found = self.tokens.iter().find(|(_, named)| **named == token);
                let Some(pid) = found.map(|(pid, _)| *pid) else {
                    let why = "there is none of this name".to_owned();
                    return say(&Said::Failed { token, why });
                };
                let began = now();
                // Its own child, not reaped yet: the number cannot be another's.
                let _ = kill(pid, Signal::SIGKILL);
                while waitpid(pid, None) == Err(nix::Error::EINTR) {}
                let took = Some(now() - began);
                self.tokens.remove(&pid);
                say(&Said::Gone { token, took });
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return,
                Ok(status) => {
                    if let Some(token) = status.pid().and_then(|pid| self.tokens.remove(&pid)) {
                        say(&Said::Gone { token, took: None });
                    }
                }
                Err(_) => {}
            }
        }
    }
}

fn start(how: &How) -> anyhow::Result<Pid> {
    match how {
        How::Run { argv, dir } => {
            let (program, arguments) = argv.split_first().context("no program")?;
            let mut command = Command::new(program);
            command.args(arguments).current_dir(dir).stdin(Stdio::null());
            #[allow(clippy::disallowed_methods, reason = "a benchmark is no herd")]
            let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
            Ok(Pid::from_raw(child.id().cast_signed()))
        }
        #[allow(unsafe_code, reason = "the floor forks")]
        // SAFETY: the jail never makes a thread.
        How::Tree { argv } => unsafe { floor::tree(argv) },
        #[allow(unsafe_code, reason = "the floor forks")]
        // SAFETY: the jail never makes a thread.
        How::Sandbox(order) => unsafe { floor::sandbox(order) },
    }
}

fn say(said: &Said) {
    let mut line = serde_json::to_string(said).unwrap_or_default();
    line.push('\n');
    // Whoever listened is gone, and with it this process.
    if std::io::stdout().write_all(line.as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// Runtimes join every hierarchy they see, and crun cannot tell a hybrid machine's versions apart: what is kept is
/// mounted in a place of its own, and that over /sys/fs/cgroup.
fn keep_hierarchies(keep: &[String]) -> anyhow::Result<()> {
    let (none, top) = (None::<&str>, Path::new("/sys/fs/cgroup"));
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let place = tempfile::Builder::new()
        .prefix("herd-bench-cgroups-")
        .tempdir_in("/tmp")?;
    mount(
        Some("cgroups"),
        place.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755,size=64k"),
    )?;
    for name in keep {
        let to = place.path().join(name);
        fs::create_dir(&to)?;
        // Where two are mounted together, their names are links.
        let from = fs::canonicalize(top.join(name)).with_context(|| format!("the hierarchy of {name}"))?;
        mount(Some(&from), &to, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("the hierarchy of {name}"))?;
    }
    let mut mounts = String::new();
    fs::File::open("/proc/self/mountinfo")?.read_to_string(&mut mounts)?;
    let mut points: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(top))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    mount(
        Some(place.path()),
        top,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    umount2(place.path(), MntFlags::MNT_DETACH)?;
    Ok(())
}
