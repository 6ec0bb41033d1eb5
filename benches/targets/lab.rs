//! What every group is given.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;

/// A run's settings, and its place for files.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The program under test.
    pub(crate) herd: PathBuf,
    /// Empty at start, removed at the end. Short enough for the names of sockets.
    pub(crate) scratch: PathBuf,
    /// Readings per row, after a discarded one.
    pub(crate) rounds: u32,
    /// Show that everything works; how short is the group's choice.
    pub(crate) quick: bool,
    pub(crate) cores: Cores,
    open_files: u64,
    wanted: Vec<String>,
    interrupt: Interrupt,
    began: Instant,
    _scratch: tempfile::TempDir,
}

/// Which CPU does what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The program under test, alone.
    pub(crate) proxy: usize,
    /// The load generator.
    pub(crate) load: usize,
    /// The workers behind the proxy; the load generator's where there are only two.
    pub(crate) upstream: usize,
}

impl Lab {
    /// # Errors
    ///
    /// If there is no such program, or this machine cannot be prepared.
    pub(crate) fn open(herd: &Path, rounds: u32, quick: bool, wanted: Vec<String>) -> anyhow::Result<Self> {
        let herd = herd
            .canonicalize()
            .with_context(|| format!("there is no herd at {}", herd.display()))?;
        let interrupt = Interrupt::listen()?;
        let open_files = raise_open_files()?;
        let scratch = tempfile::Builder::new()
            .prefix("herd-bench-")
            .tempdir_in("/tmp")
            .context("cannot make a directory in /tmp")?;
        Ok(Self {
            herd,
            scratch: scratch.path().to_owned(),
            rounds,
            quick,
            cores: Cores::choose()?,
            open_files,
            wanted,
            interrupt,
            began: Instant::now(),
            _scratch: scratch,
        })
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|prefix| row.starts_with(prefix.as_str()))
    }

    /// Progress, for whoever waits.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("[{:4.0}s] {text}", self.began.elapsed().as_secs_f64());
    }

    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.came()
    }

    /// To be asked between readings.
    ///
    /// # Errors
    /// Somebody wants the run to end.
    pub(crate) fn go_on(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.interrupted(), "interrupted");
        Ok(())
    }

    /// The most that this process, and each that it starts, may have open.
    pub(crate) fn open_files(&self) -> u64 {
        self.open_files
    }

    /// A new directory under `scratch`.
    pub(crate) fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.scratch.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

impl Cores {
    fn choose() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut usable = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let proxy = usable.next().context("no CPU at all")?;
        let load = usable
            .next()
            .context("at least two CPUs are needed: one for the proxy, one for its load")?;
        Ok(Self {
            proxy,
            load,
            upstream: usable.next().unwrap_or(load),
        })
    }
}

/// Thousands of connections, both ends of each on this machine; children inherit it.
fn raise_open_files() -> anyhow::Result<u64> {
    let wanted = 65_536;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Only root may raise the hard limit; without, rows that need more say so.
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    Ok(hard)
}

/// Whether a program is installed, and where. The directories of root's programs count, whoever asks.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin"].iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| Path::is_file(file))
}
