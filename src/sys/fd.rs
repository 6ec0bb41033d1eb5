//! Descriptors in bulk, and packets that carry descriptors.

use std::ffi::CStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recv,
    recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most descriptors one packet carries.
const MAX_FDS: usize = 8;

/// A connected pair of sockets that keep packet boundaries, close-on-exec.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends one packet. On a non-blocking socket a full buffer is `WouldBlock`.
pub fn send_packet(socket: BorrowedFd<'_>, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = retry(|| {
        sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(body)],
            rights,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_EOR,
            None,
        )
    })?;
    debug_assert_eq!(sent, body.len(), "packets are sent whole");
    Ok(())
}

/// Bytes of the packet that comes next, which is waited for like the packet itself; 0: the peer is gone.
pub fn packet_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    Ok(retry(|| recv(socket.as_raw_fd(), &mut [], flags))?)
}

/// Receives one packet into `buffer`; its length (0: the peer is gone) and the descriptors it carried,
/// close-on-exec. A packet that does not fit is an error, not a shorter packet. One whose descriptors do not fit
/// comes without any: this process has none free (recvmsg(2), `MSG_CTRUNC`), and whom the packet was for can be told.
pub fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let (bytes, flags, fds) = loop {
        let result = recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        match result {
            Ok(message) => {
                let mut fds = Vec::new();
                // An error is `MSG_CTRUNC`. A part that was let in stays open, so nobody whose table may be full is
                // sent more than one.
                for control in message.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel has just installed these descriptors for this call; nothing
                        // else knows them, so each is owned exactly once.
                        fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                break (message.bytes, message.flags, fds);
            }
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet was longer than the protocol allows",
        ));
    }
    Ok((bytes, fds))
}

/// The first bytes (up to 64) of an extended attribute of an open file; `None` where it has none of that name, or
/// this user may not see it.
pub fn attribute(file: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
    let mut value = [0_u8; 64];
    // SAFETY: `name` ends with a NUL, and `value` may be written to its whole given length.
    let length = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    Some(value[..usize::try_from(length).ok()?].to_vec())
}

/// For this open file, whoever else has it.
pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// So that a task can wait for it. Needs a tokio runtime with I/O; an error where the descriptor is nothing that can be
/// waited for.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watched_for(fd, Interest::READABLE | Interest::WRITABLE)
}

/// The same, for nothing else than this.
pub fn watched_for(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open descriptor from here to its drop, and nothing takes it out.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Repeats a call that a signal interrupted.
pub fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            result => return result,
        }
    }
}

/// Closes every descriptor of this process from 3 on except `keep`.
///
/// Only for a freshly forked process that never returns to the code that owned them.
pub fn close_all_except(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first: libc::c_uint = 3;
    for fd in keep {
        let fd = fd as libc::c_uint;
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX, 0)
}

/// Marks every descriptor from 3 on close-on-exec, so that only 0–2 reach the next program.
pub fn cloexec_from_3() -> io::Result<()> {
    close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: three integers; no memory is passed. Closing descriptors that someone owns is the caller's
    // documented business.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_packet_arrives_whole_with_its_descriptors() {
        let (a, b) = packet_pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        send_packet(a.as_fd(), b"hello", &[write.as_fd()]).unwrap();
        drop(write);
        let mut buffer = [0; 64];
        let (len, fds) = receive_packet(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"hello"[..], 1));
        nix::unistd::write(&fds[0], b"x").unwrap();
        let mut byte = [0; 1];
        assert_eq!(nix::unistd::read(&read, &mut byte), Ok(1));
        drop(a);
        assert_eq!(
            receive_packet(b.as_fd(), &mut buffer).unwrap().0,
            0,
            "the peer is gone"
        );
    }

    #[test]
    fn a_packet_that_does_not_fit_is_refused() {
        let (a, b) = packet_pair().unwrap();
        send_packet(a.as_fd(), b"hello", &[]).unwrap();
        let error = receive_packet(b.as_fd(), &mut [0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "a packet was longer than the protocol allows");
    }

    #[test]
    fn a_packet_whose_descriptors_do_not_fit_comes_without_them() {
        let (a, b) = packet_pair().unwrap();
        let (_read, write) = nix::unistd::pipe().unwrap();
        send_packet(a.as_fd(), b"hello", &[write.as_fd(); MAX_FDS + 1]).unwrap();
        let mut buffer = [0; 64];
        let (len, fds) = receive_packet(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"hello"[..], 0));
    }
}
