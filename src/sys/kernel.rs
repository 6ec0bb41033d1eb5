//! Which kernel this is.

use std::io;

/// The kernel is older than herd needs, or does not say what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("herd needs Linux 5.11 or newer; this kernel is {running}")]
pub struct TooOld {
    running: String,
}

/// `close_range` with `CLOSE_RANGE_CLOEXEC` came with 5.11 and is the newest call herd relies on.
pub fn require_5_11() -> Result<(), TooOld> {
    require(&release())
}

/// The release of the running kernel, like `6.1.0-18-amd64`.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_else(|e| format!("unknown (uname: {e})"))
}

/// The first two numbers of a release; zeros if it has none.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

fn require(release: &str) -> Result<(), TooOld> {
    if version(release) >= (5, 11) {
        Ok(())
    } else {
        Err(TooOld {
            running: release.to_owned(),
        })
    }
}

/// A system call that herd needs. An old kernel lacks it, and the filter of a container may hide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Clone3,
    PidfdOpen,
    Openat2,
    MountSetattr,
}

impl Call {
    /// Why it cannot be made here; `None` if it can.
    pub fn refusal(self) -> Option<io::Error> {
        // SAFETY: no call gets past its first check with these arguments: no size, no descriptor, no process has
        // the number -1, and no address is given.
        let result = unsafe {
            match self {
                Self::Clone3 => libc::syscall(libc::SYS_clone3, 0, 0),
                Self::PidfdOpen => libc::syscall(libc::SYS_pidfd_open, -1, 0),
                Self::Openat2 => libc::syscall(libc::SYS_openat2, -1, 0, 0, 0),
                Self::MountSetattr => libc::syscall(libc::SYS_mount_setattr, -1, 0, -1, 0, 0),
            }
        };
        let error = io::Error::last_os_error();
        // Any other complaint is about the arguments.
        let refused = [libc::ENOSYS, libc::EPERM, libc::EACCES].contains(&error.raw_os_error().unwrap_or(0));
        (result == -1 && refused).then_some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_from_5_11_on_are_accepted() {
        for release in ["5.11.0", "5.15.0-91-generic", "6.1", "6.18.44-fc", "10.0-rc1"] {
            assert_eq!(require(release), Ok(()), "{release}");
        }
    }

    #[test]
    fn calls_of_any_kernel_that_herd_accepts_are_found() {
        for call in [Call::Clone3, Call::PidfdOpen, Call::Openat2] {
            assert!(call.refusal().is_none(), "{call:?}: {:?}", call.refusal());
        }
    }

    #[test]
    fn an_older_kernel_is_named() {
        for release in ["5.10.209", "4.19.0-26-amd64", "5.4", "3.10.0-1160.el7", "strange"] {
            let error = require(release).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("herd needs Linux 5.11 or newer; this kernel is {release}")
            );
        }
    }
}
