//! User namespaces as values: their id maps, and a descriptor of one for idmapped mounts.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;

use super::fd;
use super::fork::{Namespaces, Side, clone3, exit_now};

/// One line of a uid or gid map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLine {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

pub fn map_text(lines: &[MapLine]) -> String {
    let mut text = String::new();
    for line in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", line.inside, line.outside, line.count);
    }
    text
}

/// A user namespace with nobody in it, for [`super::mounts::Tree::map_ids`].
///
/// # Safety
/// The process must be single-threaded, as for [`clone3`].
pub unsafe fn with_maps(uids: &[MapLine], gids: &[MapLine]) -> io::Result<OwnedFd> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (ready, there) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the caller's.
    match unsafe { clone3(Namespaces::USER) }? {
        Side::Child => {
            drop((write, ready));
            // The maps of a process that is not dumpable, as its parent may be, belong to the host's root.
            let _ = nix::sys::prctl::set_dumpable(true);
            drop(there);
            let _ = fd::retry(|| nix::unistd::read(&read, &mut [0; 1]));
            exit_now(0)
        }
        Side::Parent { pid, child } => {
            drop((read, there));
            let _ = fd::retry(|| nix::unistd::read(&ready, &mut [0; 1]));
            let result = map(pid, uids, gids);
            // It may have been killed by a signal meant for a whole group: then there is nothing to kill.
            let _ = child.signal(Signal::SIGKILL);
            let _ = fd::retry(|| nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None));
            result
        }
    }
}

/// Writes the maps of the user namespace that a process was made in, and opens it. The process has to be dumpable: the
/// maps of another belong to the host's root.
pub fn map(pid: i32, uids: &[MapLine], gids: &[MapLine]) -> io::Result<OwnedFd> {
    fs::write(format!("/proc/{pid}/uid_map"), map_text(uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), map_text(gids))?;
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}
