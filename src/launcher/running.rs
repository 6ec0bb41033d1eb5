//! herd's side of a command beside a worker's program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::stream::Stream;
use crate::sys::terminal;

use super::wire::{self, On, Word};

/// A command that was started, or tried to.
#[derive(Debug)]
pub struct Running {
    pub line: Line,
    pub streams: Streams,
}

/// What a command lives by: dropping it ends the command, and with the streams hangs a terminal up.
#[derive(Debug)]
pub struct Line(AsyncFd<OwnedFd>);

/// herd's ends.
#[derive(Debug)]
pub enum Streams {
    Pipes {
        stdin: Option<Stream>,
        stdout: Stream,
        stderr: Stream,
    },
    Terminal(Stream),
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("{most} commands run in this session, and more cannot at a time")]
    Busy { most: usize },
    #[error("{message}")]
    Refused { message: String },
    #[error("the session has ended")]
    Ended,
    #[error("the worker cannot be asked: {0}")]
    Gone(#[source] io::Error),
}

impl Running {
    pub(super) async fn begin(line: AsyncFd<OwnedFd>, on: On) -> Result<Self, ExecError> {
        let lost = || ExecError::Gone(io::ErrorKind::ConnectionReset.into());
        match next(&line).await.map_err(ExecError::Gone)? {
            Some((Word::Runs, ends)) => Ok(Self {
                line: Line(line),
                streams: streams(on, ends).map_err(ExecError::Gone)?,
            }),
            Some((Word::Busy { most }, _)) => Err(ExecError::Busy { most }),
            Some((Word::Refused { message } | Word::NotRun { message, .. }, _)) => {
                Err(ExecError::Refused { message })
            }
            Some((Word::Exited { .. } | Word::Signalled { .. }, _)) | None => Err(lost()),
        }
    }
}

impl Line {
    /// What became of it, once; `None`: it was killed together with whoever would have told. Cancel-safe.
    pub async fn ended(&self) -> Option<Word> {
        // What cannot be understood is no better than nothing.
        next(&self.0).await.ok().flatten().map(|(word, _)| word)
    }

    /// Kills the command, and returns when it is dead.
    pub async fn kill(self) {
        // It fails where the other side has closed it: then all is dead there.
        if shutdown(self.0.as_raw_fd(), Shutdown::Write).is_ok() {
            // Its end may have come just before, and its last word be unread; either is the last.
            let _ = self.ended().await;
        }
    }
}

async fn next(line: &AsyncFd<OwnedFd>) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
    let mut buffer = Vec::new();
    line.async_io(Interest::READABLE, |line| {
        wire::receive(line.as_fd(), &mut buffer)
    })
    .await
}

/// They come out of a sandbox, so what they are is looked at.
fn streams(on: On, ends: Vec<OwnedFd>) -> io::Result<Streams> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut ends = ends.into_iter();
    let mut pipe = || {
        let end = ends.next().ok_or_else(wrong)?;
        match is_pipe(&end)? {
            true => Stream::new(end),
            false => Err(wrong()),
        }
    };
    match on {
        On::Outputs | On::Pipes => Ok(Streams::Pipes {
            stdout: pipe()?,
            stderr: pipe()?,
            stdin: match on {
                On::Pipes => Some(pipe()?),
                On::Outputs | On::Terminal(_) => None,
            },
        }),
        On::Terminal(_) => {
            let end = ends.next().ok_or_else(wrong)?;
            match terminal::is_driver(end.as_fd())? {
                true => Ok(Streams::Terminal(Stream::new(end)?)),
                false => Err(wrong()),
            }
        }
    }
}

fn is_pipe(end: &OwnedFd) -> io::Result<bool> {
    use nix::sys::stat::{SFlag, fstat};
    let mode = SFlag::from_bits_truncate(fstat(end)?.st_mode);
    Ok(mode & SFlag::S_IFMT == SFlag::S_IFIFO)
}
