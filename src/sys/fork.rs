//! Raw `clone3`, for what `fork` cannot do: namespaces and a pidfd from the first moment on.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::pidfd::PidFd;

/// Which side of the call this is.
#[derive(Debug)]
pub enum Side {
    /// `pid` is the child's number in the caller's PID namespace.
    Parent {
        pid: i32,
        child: PidFd,
    },
    Child,
}

/// Namespaces for the child, as `CLONE_NEW*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    pub const NONE: Self = Self(0);
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    pub const USER_PID: Self = Self((libc::CLONE_NEWUSER | libc::CLONE_NEWPID) as u64);
    pub const PID_MOUNT: Self = Self((libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
    pub const USER_PID_MOUNT: Self =
        Self((libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
}

/// Forks into `namespaces`. The pidfd exists before the child can exit, so it can never name another process.
///
/// # Safety
/// The process must be single-threaded: a child of a threaded process could find a lock held by a thread that
/// does not exist in it.
pub unsafe fn clone3(namespaces: Namespaces) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is plain integers, for which zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64 | namespaces.0;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `args` is valid for its given size, `pidfd` outlives the call, and without CLONE_VM and a stack
    // the child continues here on its own copy of this one, as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: the call succeeded in the parent, so the kernel has stored a new descriptor there.
            let fd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent {
                pid: pid as i32,
                child: PidFd::from(fd),
            })
        }
    }
}

/// Ends this process without running anything of the program it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}
