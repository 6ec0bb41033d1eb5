//! The network namespace this process is in.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings the loopback interface up; it is down in a new namespace (network_namespaces(7)).
pub fn bring_loopback_up() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is plain bytes and integers; zero is an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: netdevice(7): SIOCSIFFLAGS reads one `ifreq`, which outlives the call. musl's ioctl takes an `int`.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::PermissionDenied => io::Error::new(
                e.kind(),
                "it takes CAP_NET_ADMIN, which a container has with --cap-add NET_ADMIN",
            ),
            e => e,
        }),
    }
}
