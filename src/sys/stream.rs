//! Ends of pipes and terminals, read and written by a task that waits for nobody else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Needs a tokio runtime with I/O, all its life.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// An error where the descriptor is nothing that can be waited for.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        super::fd::set_nonblocking(&fd)?;
        Ok(Self(super::fd::watched(fd)?))
    }

    /// 0: nobody has the other end any more. Cancel-safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| read(fd, buffer)).await
    }

    /// What is there; `WouldBlock` if that is nothing.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(self.0.get_ref(), buffer)
    }

    /// All of it. Not cancel-safe: some of it may be written.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?))
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match nix::unistd::read(fd, buffer) {
        // How a terminal says that no program has it open (pty(7)).
        Err(Errno::EIO) => Ok(0),
        result => Ok(result?),
    }
}
