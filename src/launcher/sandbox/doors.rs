//! Connections into a sandbox, made by its keeper, which stands in its network namespace and sees its files.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::sys::listener;
use crate::sys::mounts::open_in;

use super::super::wire::Door;
use super::files;

pub(super) fn open(door: Door) -> io::Result<OwnedFd> {
    let stream = |family| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(family, SockType::Stream, flags, None)
    };
    match door {
        Door::Tcp4 => Ok(stream(AddressFamily::Inet)?),
        Door::Tcp6 => Ok(stream(AddressFamily::Inet6)?),
        Door::Listeners => listener::open(),
        Door::Unix => {
            let unix = stream(AddressFamily::Unix)?;
            connect_inside(&unix)?;
            Ok(unix)
        }
    }
}

/// The worker owns the directory, so what is found there is looked at first: a link must not lead this process
/// anywhere. It is connected to by descriptor, so it is what was looked at.
fn connect_inside(unix: &OwnedFd) -> io::Result<()> {
    let root = nix::fcntl::open(files::ROOT, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let path = Path::new(files::SOCKET_DIR).join(files::SOCKET);
    let found = open_in(
        root.as_fd(),
        &path,
        OFlag::O_PATH | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )?;
    if fstat(&found)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFSOCK.bits() {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    let address = UnixAddr::new(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str())?;
    Ok(connect(unix.as_raw_fd(), &address)?)
}
