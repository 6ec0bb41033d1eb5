//! Sockets of either family, for the servers of this program.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

const BACKLOG: i32 = 4096;

/// Non-blocking, on loopback.
pub(super) fn tcp(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    listen(socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
}

pub(super) fn unix(path: &Path) -> io::Result<Socket> {
    listen(
        Socket::new(Domain::UNIX, Type::STREAM, None)?,
        &SockAddr::unix(path)?,
    )
}

fn listen(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The next connection, without delay on small writes; `None` if there is none yet.
pub(super) fn accept(listener: &Socket) -> io::Result<Option<Stream>> {
    let (socket, from) = match listener.accept() {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        accepted => accepted?,
    };
    socket.set_nonblocking(true)?;
    if !from.is_unix() {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(Some(socket.into()))
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Stream(Socket);

impl Stream {
    /// `None`: nothing there yet.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked((&self.0).read(into))
    }

    /// `None`: no room yet.
    pub(super) fn write(&self, from: &[u8]) -> io::Result<Option<usize>> {
        unless_blocked((&self.0).write(from))
    }
}

impl From<Socket> for Stream {
    /// The socket is connected and does not block.
    fn from(socket: Socket) -> Self {
        Self(socket)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}
