//! Sockets that the service manager has opened for this process (sd_listen_fds(3)).

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

/// The listening TCP socket that was handed over; `None`: this process was started without one. Once per process.
///
/// # Errors
/// More than one was, or something else: what for is not known.
pub fn listener() -> io::Result<Option<TcpListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    let mut sockets = sd_notify::listen_fds()?.map(|fd| {
        // SAFETY: the service manager opened it for this process, by number and by LISTEN_PID, and this is the only
        // place that takes it, once.
        unsafe { OwnedFd::from_raw_fd(fd) }
    });
    match (sockets.next(), sockets.next()) {
        (None, _) => Ok(None),
        (Some(socket), None) => listening_tcp(socket).map(Some),
        (Some(_), Some(_)) => Err(wrong("more than one socket was handed over")),
    }
}

fn listening_tcp(socket: OwnedFd) -> io::Result<TcpListener> {
    let address: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(&socket))
        .map_err(|_| wrong("what was handed over is no socket"))?;
    let inet = matches!(address.family(), Some(AddressFamily::Inet | AddressFamily::Inet6));
    let stream = getsockopt(&socket, sockopt::SockType).ok() == Some(SockType::Stream);
    let listens = getsockopt(&socket, sockopt::AcceptConn).ok() == Some(true);
    if !(inet && stream && listens) {
        return Err(wrong("what was handed over is not a listening TCP socket"));
    }
    fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("socket activation: {what}; herd takes one ListenStream= with an address and port"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_tcp_socket_is_taken() {
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = good.local_addr().unwrap();
        assert_eq!(listening_tcp(good.into()).unwrap().local_addr().unwrap(), address);

        let listens = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listens.local_addr().unwrap()).unwrap();
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        for socket in [OwnedFd::from(connected), datagram.into()] {
            let error = listening_tcp(socket).unwrap_err().to_string();
            assert!(error.contains("not a listening TCP socket"), "{error}");
        }
        let error = listening_tcp(pipe.into()).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
    }
}
