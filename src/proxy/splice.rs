//! Moves bytes from socket to socket inside the kernel, through a pipe (splice(2)).
//!
//! Cheaper than copying for bulk, dearer for everything else; when to do it is the tunnel's to decide.
//!
//! A conduit is filled only while it is empty. So a would-block means one thing each: nothing to read when
//! filling, no room at the receiver when draining.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::sys::fd::retry;

/// Most bytes that a conduit holds; the kernel may allow less.
pub(crate) const CAPACITY: usize = 256 * 1024;
/// Empty pipes that a thread keeps, because the frames of a bulk WebSocket each use one for a moment.
const KEPT: usize = 4;

thread_local! {
    static IDLE: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A socket that the kernel can splice.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Socket<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

impl Socket<'_> {
    fn try_io(
        self,
        interest: Interest,
        call: impl Fn(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_io(interest, || Ok(retry(|| call(s.as_fd()))?)),
            Self::Unix(s) => s.try_io(interest, || Ok(retry(|| call(s.as_fd()))?)),
        }
    }

    fn poll_write_ready(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_write_ready(cx),
            Self::Unix(s) => s.poll_write_ready(cx),
        }
    }
}

/// A pipe between two sockets.
#[derive(Debug)]
pub(crate) struct Conduit {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Conduit {
    /// # Errors
    /// The process or the system is out of descriptors.
    pub(crate) fn open() -> io::Result<Self> {
        let (read, write) = match IDLE.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => {
                let ends = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
                // Past the user's limit for pipes it stays as small as it is, and works.
                let _ = fcntl(&ends.1, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
                ends
            }
        };
        Ok(Self { read, write, held: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes up to `most` bytes from the socket; 0 is its end.
    pub(crate) fn fill(&mut self, from: Socket<'_>, most: usize) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "filled before it was drained");
        let n = from.try_io(Interest::READABLE, |socket| {
            splice(socket, None, &self.write, None, most, flags())
        })?;
        self.held = n;
        Ok(n)
    }

    /// Runs until everything held is with the socket.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, to: Socket<'_>) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let sent = to.try_io(Interest::WRITABLE, |socket| {
                splice(&self.read, None, socket, None, self.held, flags())
            });
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.held -= n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Empties it into memory.
    pub(crate) fn take_back(&mut self, into: &mut BytesMut) -> io::Result<()> {
        let start = into.len();
        into.resize(start + self.held, 0);
        while self.held > 0 {
            let at = into.len() - self.held;
            match retry(|| nix::unistd::read(&self.read, &mut into[at..])) {
                Ok(n) if n > 0 => self.held -= n,
                result => {
                    into.truncate(at);
                    result?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }

    /// Gives the pipe back to the thread if it can serve another tunnel; dropping closes it.
    pub(crate) fn retire(self) {
        if self.is_empty() {
            IDLE.with_borrow_mut(|idle| {
                if idle.len() < KEPT {
                    idle.push((self.read, self.write));
                }
            });
        }
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// The kernel, or a filter in front of it, does not splice these sockets; copying them works.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::ENOMEM)
    )
}
