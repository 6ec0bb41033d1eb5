//! What the kernel knows of the other end of a TCP connection.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// What no other socket has had or will have: descriptors' numbers come again.
pub fn cookie(socket: RawFd) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    get(socket, (libc::SOL_SOCKET, libc::SO_COOKIE), &mut cookie)?;
    Ok(cookie)
}

/// For how long the peer has acknowledged nothing, if it owes an acknowledgement: of the data that were sent last, for the
/// first time or again, or of the question whether it has room for data. One that has none acknowledges both.
pub fn unanswered(socket: RawFd) -> io::Result<Option<Duration>> {
    // SAFETY: `tcp_info` is integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    get(socket, (libc::IPPROTO_TCP, libc::TCP_INFO), &mut info)?;
    let sent = info.tcpi_unacked > 0 && info.tcpi_last_ack_recv > info.tcpi_last_data_sent;
    // One question alone may be lost, and is by intent where it follows another within half a second
    // (tcp_invalid_ratelimit); and they come ever more seldom.
    let owes = sent || info.tcpi_probes > 1;
    Ok(owes.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into())))
}

/// `T` has to be integers only: the kernel writes any bytes into it, or fewer.
fn get<T: Copy>(socket: RawFd, (level, name): (i32, i32), into: &mut T) -> io::Result<()> {
    let mut size = size_of::<T>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `size` bytes to `into`, which has them and outlives the call.
    match unsafe { libc::getsockopt(socket, level, name, (&raw mut *into).cast(), &raw mut size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the connection at once, as if its peer had reset it: whoever uses the socket finds that.
pub fn abort(socket: RawFd) -> io::Result<()> {
    // SAFETY: `sockaddr` is integers, for which zero is a value.
    let mut nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let size = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: connect(2) reads `size` bytes of an address that outlives the call. AF_UNSPEC dissolves the connection.
    match unsafe { libc::connect(socket, &raw const nobody, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn who_was_asked_nothing_owes_no_answer() {
        let (one, _other) = pair();
        assert_eq!(unanswered(one.as_raw_fd()).unwrap(), None);
    }

    #[test]
    fn every_socket_has_a_cookie_of_its_own() {
        let (one, other) = pair();
        assert_ne!(
            cookie(one.as_raw_fd()).unwrap(),
            cookie(other.as_raw_fd()).unwrap()
        );
    }

    #[test]
    fn both_ends_find_an_aborted_connection_reset() {
        let (mut one, mut other) = pair();
        abort(one.as_raw_fd()).unwrap();
        for end in [&mut one, &mut other] {
            let error = end.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
