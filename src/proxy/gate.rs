//! The client's side of an HTTP/1 connection, as hyper sees it.
//!
//! The gate reads the socket, judges each request head as a whole (see [`super::framing`]) and hands hyper
//! only what passed, one message at a time. So that
//!
//! - a refused request never reaches hyper, and is answered by herd with a code,
//! - bytes after a request that asks for an upgrade stay here until the upgrade is decided,
//! - the connection's owner knows whether it idles, waits for the rest of a head, or serves,
//! - a client that leaves is noticed at once, even when input of it lies unread.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::code::Problem;
use super::framing::{BodyFraming, Chunks, Head, Limits};
use super::gather::{self, Gathered};
use super::scratch;
use super::transport::Transport;

/// Bytes of following requests that are read while one is being served.
const READ_AHEAD: usize = 16 * 1024;

/// What the connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    /// The first bytes of a head have come.
    Head,
    Serving,
}

/// What the gate, the service and the connection's owner share. All of one task.
#[derive(Debug)]
pub(crate) struct Line {
    phase: Cell<(Phase, Instant)>,
    refused: RefCell<Option<Problem>>,
    /// Woken when the next request may be judged.
    next: RefCell<Option<Waker>>,
    /// Every byte of an answer that was begun has gone to the socket.
    flushed: Cell<bool>,
}

impl Line {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new((Phase::Idle, Instant::now())),
            refused: RefCell::new(None),
            next: RefCell::new(None),
            flushed: Cell::new(true),
        })
    }

    /// Since when it is in this phase.
    pub(crate) fn phase(&self) -> (Phase, Instant) {
        self.phase.get()
    }

    /// The response is complete; the next request may be read.
    pub(crate) fn served(&self) {
        self.enter(Phase::Idle);
        if let Some(waker) = self.next.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.get()
    }

    /// The request that could not be let through, if there was one.
    pub(crate) fn take_refusal(&self) -> Option<Problem> {
        self.refused.borrow_mut().take()
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.borrow().is_some()
    }

    fn enter(&self, phase: Phase) {
        if self.phase.get().0 != phase {
            self.phase.set((phase, Instant::now()));
        }
    }
}

#[derive(Debug)]
enum Expect {
    Head(Head),
    Length(u64),
    Chunks(Chunks),
    /// A request was refused; nothing more is read.
    Nothing,
}

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filled {
    Pending,
    Passed,
    End,
}

/// Notices that the client has left while a request is served and nobody reads.
#[derive(Debug)]
pub(crate) struct Watch {
    io: Weak<RefCell<Transport>>,
    line: Rc<Line>,
}

impl Watch {
    /// Ready once the client has closed its side or is gone.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(io) = self.io.upgrade() else {
            return Poll::Pending;
        };
        if self.line.phase().0 != Phase::Serving {
            return Poll::Pending;
        }
        io.borrow().wire().poll_left(cx)
    }
}

#[derive(Debug)]
pub(crate) struct Gate {
    io: Rc<RefCell<Transport>>,
    line: Rc<Line>,
    limits: Limits,
    expect: Expect,
    /// Read, not judged.
    pending: BytesMut,
    /// Judged, not yet taken by hyper; always the front part of what was read.
    passed: BytesMut,
}

impl Gate {
    /// `already` was read from the socket before.
    pub(crate) fn new(io: Transport, already: &[u8], limits: Limits, line: Rc<Line>) -> Self {
        Self {
            io: Rc::new(RefCell::new(io)),
            line,
            limits,
            expect: Expect::Head(Head::default()),
            pending: BytesMut::from(already),
            passed: BytesMut::new(),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            io: Rc::downgrade(&self.io),
            line: Rc::clone(&self.line),
        }
    }

    /// The socket, and what was read from it but not used.
    ///
    /// # Errors
    /// The socket cannot be registered again, or (never) a watch is looking at it just now.
    pub(crate) fn into_parts(self) -> io::Result<(Transport, BytesMut)> {
        let io = Rc::into_inner(self.io).ok_or(io::ErrorKind::ResourceBusy)?;
        Ok((io.into_inner().renewed()?, self.pending))
    }

    /// Reads once into `pending`, or straight through to hyper if that is all there is to it.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        to: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<Filled>> {
        scratch::lent(|scratch| {
            let most = most.min(scratch.len());
            let n = ready!(self.poll_recv(cx, &mut scratch[..most]))?;
            let read = &scratch[..n];
            if read.is_empty() {
                return Poll::Ready(Ok(Filled::End));
            }
            if self.pending.is_empty() && self.is_plain_request(read) && read.len() <= to.remaining() {
                self.line.enter(Phase::Serving);
                to.put_slice(read);
                return Poll::Ready(Ok(Filled::Passed));
            }
            self.pending.extend_from_slice(read);
            Poll::Ready(Ok(Filled::Pending))
        })
    }

    fn poll_recv(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Whether the input is one whole request without a body, the next to be served: most are.
    fn is_plain_request(&self, input: &[u8]) -> bool {
        matches!(&self.expect, Expect::Head(head) if head.is_new())
            && self.line.phase().0 != Phase::Serving
            && matches!(
                Head::default().judge(input, self.limits),
                Ok(Some((len, BodyFraming::Length(0)))) if len == input.len()
            )
    }

    /// Moves as much from `pending` to `passed` as may pass. Whether anything did.
    fn judge(&mut self) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        match &mut self.expect {
            Expect::Nothing => Ok(false),
            Expect::Head(_) if self.line.phase().0 == Phase::Serving => Ok(false),
            Expect::Head(head) => match head.judge(&self.pending, self.limits) {
                Ok(None) => {
                    self.line.enter(Phase::Head);
                    Ok(false)
                }
                Ok(Some((len, framing))) => {
                    self.line.enter(Phase::Serving);
                    self.passed = self.pending.split_to(len);
                    self.expect = match framing {
                        BodyFraming::Length(0) => Expect::Head(Head::default()),
                        BodyFraming::Length(length) => Expect::Length(length),
                        BodyFraming::Chunked => Expect::Chunks(Chunks::new()),
                    };
                    Ok(true)
                }
                Err(problem) => {
                    *self.line.refused.borrow_mut() = Some(problem);
                    self.expect = Expect::Nothing;
                    Ok(false)
                }
            },
            Expect::Length(left) => {
                let here = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(self.pending.len());
                self.passed = self.pending.split_to(here);
                *left -= here as u64;
                if *left == 0 {
                    self.expect = Expect::Head(Head::default());
                }
                Ok(true)
            }
            Expect::Chunks(chunks) => {
                let here = chunks
                    .advance(&self.pending)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                self.passed = self.pending.split_to(here);
                if *chunks == Chunks::Done {
                    self.expect = Expect::Head(Head::default());
                }
                Ok(true)
            }
        }
    }
}

impl Read for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.passed.is_empty() {
                let here = self.passed.len().min(buf.remaining());
                buf.put_slice(&self.passed[..here]);
                self.passed.advance(here);
                return Poll::Ready(Ok(()));
            }
            if self.judge()? {
                continue;
            }
            let most = match &self.expect {
                // The owner of the connection sees the refusal and ends it.
                Expect::Nothing => return Poll::Pending,
                Expect::Head(_) if self.line.phase().0 == Phase::Serving => {
                    // Only to notice the client's leaving; woken again once the response is complete.
                    *self.line.next.borrow_mut() = Some(cx.waker().clone());
                    READ_AHEAD.saturating_sub(self.pending.len())
                }
                Expect::Head(_) => READ_AHEAD,
                Expect::Length(_) | Expect::Chunks(_) => buf.remaining(),
            };
            if most == 0 {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(cx, most, &mut buf))? {
                Filled::Pending => {}
                Filled::Passed | Filled::End => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Write for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.line.flushed.set(false);
        Pin::new(&mut *self.io.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written everything.
        ready!(Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx))?;
        self.line.flushed.set(true);
        Poll::Ready(Ok(()))
    }

    /// Left to the connection's owner, who may have an answer of its own to write.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.line.flushed.set(false);
        let mut io = self.io.borrow_mut();
        let io = Pin::new(&mut *io);
        gather::write(bufs, |gathered| match gathered {
            Gathered::One(bytes) => io.poll_write(cx, bytes),
            Gathered::Many(bufs) => io.poll_write_vectored(cx, bufs),
        })
    }
}
