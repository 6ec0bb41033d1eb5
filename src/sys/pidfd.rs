//! Processes by descriptor: never by a number that could have been reused.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// One process, alive or dead.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl PidFd {
    /// Opens what has the number `pid` now. Numbers are reused: the caller has to check afterwards, while this
    /// descriptor's process lives, that it is the one that was meant.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: two integers; no memory is passed.
        match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the call succeeded, so this is a new descriptor that nothing else knows.
            fd => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
        }
    }

    /// Signals it. A process that is already gone is no error: what was wanted is the case.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: a descriptor, a number, a null pointer (allowed: "as kill(2)") and no flags.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Its number in the namespace of this process's `/proc`; `None` once it was reaped.
    pub fn pid(&self) -> io::Result<Option<i32>> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let pid = info
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|n| n.trim().parse().ok());
        Ok(pid.filter(|pid| *pid > 0))
    }

    /// Blocks until it has exited.
    pub fn wait(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        super::fd::retry(|| poll(&mut fds, PollTimeout::NONE))?;
        Ok(())
    }

    /// Whether it has exited (reaped or not).
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
    }
}
