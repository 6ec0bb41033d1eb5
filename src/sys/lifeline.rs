//! "Is my parent still there?", asked by a child that has just armed its parent-death signal.
//!
//! The signal is lost if the parent died before `prctl`. `getppid` cannot tell inside a new PID namespace (it
//! is 0 either way) and pipes are spoiled by inherited ends. A POSIX record lock can: it belongs to the parent
//! process, is not inherited, and vanishes with it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A lock held by the process that made it, for as long as that process lives.
///
/// The parent must keep exactly this one descriptor: closing *any* descriptor of the file drops the lock
/// (fcntl(2)), so there is no `Clone`, and [`Lifeline::keep`] never gives it back.
#[derive(Debug)]
pub struct Lifeline(OwnedFd);

impl Lifeline {
    pub fn tie() -> io::Result<Self> {
        let file = memfd_create(c"herd-lifeline", MFdFlags::MFD_CLOEXEC)?;
        fcntl(&file, FcntlArg::F_SETLK(&whole_file()))?;
        Ok(Self(file))
    }

    /// In the child: whether the process that tied it is gone. `l_pid` means nothing across PID namespaces;
    /// the type of the conflicting lock does.
    pub fn is_cut(&self) -> bool {
        let mut lock = whole_file();
        // SAFETY: F_GETLK reads and writes one `flock`, which outlives the call.
        let result = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
        result == -1 || lock.l_type == libc::F_UNLCK as libc::c_short
    }

    /// In the parent: holds on until the process ends.
    pub fn keep(self) {
        std::mem::forget(self.0);
    }
}

fn whole_file() -> libc::flock {
    // SAFETY: `flock` is plain integers; zero start and length mean the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

impl AsRawFd for Lifeline {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}
