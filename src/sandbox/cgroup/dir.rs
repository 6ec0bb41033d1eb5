//! One directory of cgroupfs, held open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, unlinkat};

use crate::sys::fd;
use crate::sys::pidfd::PidFd;

use super::remove::Removal;

/// Most bytes read of one file. A list of pids may be long; the rest are a few lines.
const MOST: u64 = 4 << 20;

/// Everything in it is done relative to the descriptor; the path is for messages.
#[derive(Debug)]
pub(super) struct Dir {
    file: File,
    path: PathBuf,
}

impl Dir {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
        Ok(Self {
            file: OpenOptions::new().read(true).custom_flags(flags).open(path)?,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn child(&self, name: &str) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self {
            file: File::from(openat(&self.file, name, flags, Mode::empty())?),
            path: self.path.join(name),
        })
    }

    /// Fails if it is there already. Others may not look into it: whoever can open a directory can lock it.
    pub(super) fn make(&self, name: &str) -> io::Result<()> {
        Ok(mkdirat(&self.file, name, Mode::S_IRWXU)?)
    }

    /// Removes a child that has no children and no processes. One that is gone already is gone.
    pub(super) fn remove(&self, name: &str) -> io::Result<Removal> {
        match unlinkat(&self.file, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(Removal::Gone),
            Err(Errno::EBUSY) => Ok(Removal::Busy),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        faccessat(&self.file, name, AccessFlags::F_OK, AtFlags::empty()).is_ok()
    }

    /// Whether this process could change the file or directory: `Err` says why not.
    pub(super) fn writable(&self, name: &str) -> nix::Result<()> {
        faccessat(&self.file, name, AccessFlags::W_OK, AtFlags::AT_EACCESS)
    }

    pub(super) fn attribute(&self, name: &std::ffi::CStr) -> Option<Vec<u8>> {
        fd::attribute(self.file.as_fd(), name)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.file, name, flags, Mode::empty())?);
        let mut text = String::new();
        file.take(MOST).read_to_string(&mut text)?;
        Ok(text)
    }

    pub(super) fn open_to_write(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.file, name, flags, Mode::empty())?)
    }

    /// In one `write`: the kernel takes what each call brings as a whole.
    pub(super) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let mut file = File::from(self.open_to_write(name)?);
        match file.write(value.as_bytes())? {
            n if n == value.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// The processes in it, as this process's PID namespace numbers them; 0 for those that are not in it.
    pub(super) fn pids(&self) -> io::Result<Vec<i32>> {
        let text = self.read("cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Its children. Needs `/proc`.
    pub(super) fn children(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(format!("/proc/self/fd/{}", self.raw_fd()))?;
        Ok(entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    /// Whether the path still leads here.
    pub(super) fn is_linked(&self) -> bool {
        let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let here = self.file.metadata().map(identity);
        let there = fs::symlink_metadata(&self.path).map(identity);
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }

    /// Held until every copy of the descriptor, those of forked processes included, is closed. `false`:
    /// somebody else holds it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    /// Kills everything in it and, where the kernel does it itself, below it. Returns at once. `cgroup.kill`
    /// (Linux 5.14, version 2) also gets what is being forked; without it call this until the directory can be
    /// removed.
    pub(super) fn kill(&self) -> io::Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.kill_each(),
            result => result,
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        let found: Vec<(i32, PidFd)> = self
            .pids()?
            .into_iter()
            .filter(|pid| *pid > 0)
            .filter_map(|pid| Some((pid, PidFd::open(pid).ok()?)))
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        // A number may have passed to a stranger before its descriptor was opened. If the number is still
        // listed here, and the descriptor's process lives after that was read, it has had the number all along.
        let listed = self.pids()?;
        for (pid, process) in found {
            if listed.contains(&pid) && !process.has_exited() {
                process.signal(Signal::SIGKILL)?;
            }
        }
        Ok(())
    }
}
