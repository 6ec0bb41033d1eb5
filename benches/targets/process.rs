//! Children: pinned, ended with this process, and what the kernel says of them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// After a polite signal.
const PATIENCE: Duration = Duration::from_secs(10);
/// For what a new process has to get ready.
const READY: Duration = Duration::from_secs(20);

/// A program that runs on one CPU until this is dropped, or until this process ends, however it does.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// What it says goes to `dir`. Must be called from the main thread: the kernel ends the child with the thread
    /// that made it.
    pub(crate) fn start(
        name: &str,
        core: usize,
        dir: &Path,
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let output = dir.join(format!("{name}.log"));
        let log = File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
        // Both replace themselves by what follows, so that the child's pid is the program's.
        let mut command = Command::new("taskset");
        command
            .args([
                "--cpu-list",
                &core.to_string(),
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
            ])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self {
            name: name.to_owned(),
            child: spawn(&mut command).with_context(|| format!("cannot start {name}"))?,
            output,
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Everything it has said.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Tries until it succeeds, while the process lives.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut attempt: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            let error = match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before {what}:\n{}", self.name, self.said());
            }
            if began.elapsed() > READY {
                bail!(
                    "{}: not within {READY:?}: {what}: {error:#}\n{}",
                    self.name,
                    self.said()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let pid = Pid::from_raw(self.pid());
        // herd drains at the first, and ends everything at the second.
        for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGKILL] {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            kill(pid, signal)?;
            let patience = if signal == Signal::SIGKILL {
                PATIENCE
            } else {
                PATIENCE / 4
            };
            let sent = Instant::now();
            while sent.elapsed() < patience {
                if self.child.try_wait()?.is_some() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        bail!("still there after {:?}", began.elapsed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("!!! {} could not be ended: {e:#}", self.name);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a benchmark is no herd")]
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    command.spawn()
}

/// CPU time of all threads of a process, ended ones included.
///
/// The kernel keeps this clock from the same counters as /proc/PID/task/*/schedstat: nanoseconds on a CPU, not ticks.
pub(crate) fn cpu_time(pid: i32) -> anyhow::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("no such process")?;
    Ok(Duration::from(clock_gettime(clock)?))
}

/// What of a process is in memory, in kB (1024 bytes).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// Not shared with any other process.
    pub(crate) private: f64,
}

pub(crate) fn memory(pid: i32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kb = |name: &str| -> anyhow::Result<f64> {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .with_context(|| format!("{path} has no {name}"))?;
        Ok(value.trim().trim_end_matches(" kB").parse()?)
    };
    Ok(Memory {
        resident: kb("Rss")?,
        private: kb("Private_Clean")? + kb("Private_Dirty")?,
    })
}

pub(crate) fn open_files(pid: i32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

pub(crate) fn threads(pid: i32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}
