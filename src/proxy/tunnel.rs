//! A tunnel: bytes both ways between a client and its worker after an upgrade.
//!
//! Each direction copies through one buffer of the thread, so an idle tunnel has none of its own; what the
//! other side does not take at once is kept, and nothing more is read before it is gone. A direction that
//! keeps filling the buffer is spliced inside the kernel instead, until it ebbs; of a WebSocket's frames
//! only the payload of a large one, because the heads have to be seen. Half-closes are passed on, except for WebSockets: a client that ends its side has left (RFC 6455 has no half-close).
//!
//! A worker that dies never looks like a clean end: a WebSocket gets a Close frame of herd's own where one
//! may stand, everything else a reset.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scratch;
use super::splice::{self, Conduit, Socket};
use super::transport::{Transport, close_after};
use super::upstream::{CRASH_NEWS, WorkerIo};
use super::websocket::{self, Frames};
use crate::core::EndReason;
use crate::driver::{Hold, Session};
use crate::worker::Connection;

/// Reads in a row that fill the whole buffer before a direction is spliced.
const BULK: u8 = 2;
/// Spliced bytes at a time below which copying is cheaper: many small buffers soon fill a pipe's slots.
const LITTLE: usize = 16 * 1024;
/// How long a client may take to read herd's Close frame.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the tunnel's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    WebSocket,
    Other,
}

/// How a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    /// Both sides were done.
    Closed,
    ClientGone,
    WorkerGone,
    SessionEnded(EndReason),
}

/// Bytes that were read from the client and from the worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// One of a tunnel's two ends.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// What carries the bytes just as they are, if anything does.
    fn socket(&self) -> Option<Socket<'_>>;

    /// The kernel has taken bytes from it, or given it some, that were never seen here.
    fn spliced(&self, _: Way) {}
}

/// Of bytes, as one side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    From,
    To,
}

impl Side for Transport {
    fn socket(&self) -> Option<Socket<'_>> {
        self.socket()
    }
}

impl Side for WorkerIo {
    fn socket(&self) -> Option<Socket<'_>> {
        Some(match self.stream() {
            Connection::Tcp(stream) => Socket::Tcp(stream),
            Connection::Unix(stream) => Socket::Unix(stream),
        })
    }

    fn spliced(&self, way: Way) {
        match way {
            Way::From => self.pulse().said(),
            Way::To => self.pulse().sent(),
        }
    }
}

impl Side for hyper_util::rt::TokioIo<hyper::upgrade::Upgraded> {
    fn socket(&self) -> Option<Socket<'_>> {
        None
    }
}

/// A client's stream that can be ended so that the peer knows something went wrong.
pub(crate) trait ClientStream: Side {
    fn reset(self);
}

impl ClientStream for Transport {
    fn reset(self) {
        self.reset();
    }
}

impl ClientStream for hyper_util::rt::TokioIo<hyper::upgrade::Upgraded> {
    /// h2 resets a stream that is dropped before its end.
    fn reset(self) {}
}

/// How a direction's bytes are moved.
#[derive(Debug)]
enum Manner {
    /// So many reads in a row have filled the buffer, up to `BULK`.
    Copying(u8),
    Splicing(Conduit),
    /// It ebbs: copied again as soon as this is drained.
    Draining(Conduit),
    /// These sockets cannot be spliced.
    OnlyCopying,
}

impl Default for Manner {
    fn default() -> Self {
        Self::Copying(0)
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Read, not yet taken by the other side.
    left: BytesMut,
    unflushed: bool,
    frames: Option<Frames>,
    manner: Manner,
    /// Bytes that were read.
    carried: u64,
    /// Those of them that were never copied.
    spliced: u64,
}

enum Broken {
    Reading,
    Writing,
}

/// What one turn brought.
enum Turn {
    Moved,
    /// Nothing, and the next turn copies.
    Dry,
    End,
}

impl Flow {
    /// Runs until the reading side has ended and everything is written.
    fn poll<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Broken>> {
        // A fast pair of peers must not starve the thread's other connections.
        for _ in 0..16 {
            ready!(self.poll_write_left(cx, to))?;
            let turn = match (from.socket(), to.socket()) {
                (Some(from), Some(to)) => ready!(self.poll_splice(cx, from, to))?,
                _ => Turn::Dry,
            };
            let turn = match turn {
                Turn::Dry => self.poll_copy(cx, from, to),
                turn => {
                    from.spliced(Way::From);
                    to.spliced(Way::To);
                    Poll::Ready(Ok(turn))
                }
            };
            match turn {
                Poll::Ready(Ok(Turn::End)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Turn::Moved | Turn::Dry)) => {}
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    if self.unflushed && ready!(Pin::new(&mut *to).poll_flush(cx)).is_err() {
                        return Poll::Ready(Err(Broken::Writing));
                    }
                    self.unflushed = false;
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_copy<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<Turn, Broken>> {
        scratch::lent(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            if ready!(Pin::new(from).poll_read(cx, &mut buf)).is_err() {
                return Poll::Ready(Err(Broken::Reading));
            }
            let bytes = buf.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(Turn::End));
            }
            self.carried += bytes.len() as u64;
            if let Some(frames) = &mut self.frames {
                frames.advance(bytes);
            }
            if let Manner::Copying(full) = &mut self.manner {
                *full = if bytes.len() == scratch::SIZE {
                    BULK.min(*full + 1)
                } else {
                    0
                };
            }
            let mut written = 0;
            while written < bytes.len() {
                match Pin::new(&mut *to).poll_write(cx, &bytes[written..]) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Broken::Writing)),
                    Poll::Ready(Ok(n)) => written += n,
                    Poll::Pending => break,
                }
            }
            self.unflushed |= written > 0;
            self.left.extend_from_slice(&bytes[written..]);
            Poll::Ready(Ok(Turn::Moved))
        })
    }

    /// Moves one conduit's fill, if this direction is to be spliced now. `left` is empty.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: Socket<'_>,
        to: Socket<'_>,
    ) -> Poll<Result<Turn, Broken>> {
        let most = match &self.frames {
            Some(frames) => usize::try_from(frames.payload_left()).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        if matches!(self.manner, Manner::Copying(BULK)) && most >= scratch::SIZE {
            // Without a descriptor to spare, copying goes on; it is tried again after the next full reads.
            self.manner = Conduit::open().map_or(Manner::Copying(0), Manner::Splicing);
        }
        let conduit = match &mut self.manner {
            Manner::Splicing(conduit) | Manner::Draining(conduit) => conduit,
            Manner::Copying(_) | Manner::OnlyCopying => return Poll::Ready(Ok(Turn::Dry)),
        };
        match ready!(conduit.poll_drain(cx, to)) {
            Ok(()) => {}
            Err(e) if splice::is_refused(&e) => {
                let kept = conduit.take_back(&mut self.left);
                self.manner = Manner::OnlyCopying;
                return Poll::Ready(kept.map(|()| Turn::Moved).map_err(|_| Broken::Writing));
            }
            Err(_) => return Poll::Ready(Err(Broken::Writing)),
        }
        if matches!(self.manner, Manner::Draining(_)) {
            self.retire(Manner::Copying(0));
            return Poll::Ready(Ok(Turn::Dry));
        }
        if most == 0 {
            // The next frame's head is copied; its payload may be as large.
            self.retire(Manner::Copying(BULK));
            return Poll::Ready(Ok(Turn::Dry));
        }
        let Manner::Splicing(conduit) = &mut self.manner else {
            return Poll::Ready(Ok(Turn::Dry));
        };
        let most = most.min(splice::CAPACITY);
        match conduit.fill(from, most) {
            Ok(0) => {
                self.retire(Manner::Copying(0));
                Poll::Ready(Ok(Turn::End))
            }
            Ok(n) => {
                self.carried += n as u64;
                self.spliced += n as u64;
                if let Some(frames) = &mut self.frames {
                    frames.skip(n);
                }
                if n < LITTLE.min(most)
                    && let Manner::Splicing(conduit) = std::mem::take(&mut self.manner)
                {
                    self.manner = Manner::Draining(conduit);
                }
                Poll::Ready(Ok(Turn::Moved))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.retire(Manner::Copying(0));
                Poll::Ready(Ok(Turn::Dry))
            }
            Err(e) if splice::is_refused(&e) => {
                self.retire(Manner::OnlyCopying);
                Poll::Ready(Ok(Turn::Dry))
            }
            // Not left to a copying read: the kernel tells a reset only once.
            Err(_) => Poll::Ready(Err(Broken::Reading)),
        }
    }

    fn retire(&mut self, next: Manner) {
        if let Manner::Splicing(conduit) | Manner::Draining(conduit) =
            std::mem::replace(&mut self.manner, next)
        {
            conduit.retire();
        }
    }

    /// Everything that was read and not written, in memory.
    fn take_left(&mut self) -> io::Result<BytesMut> {
        if let Manner::Splicing(conduit) | Manner::Draining(conduit) = &mut self.manner {
            conduit.take_back(&mut self.left)?;
        }
        Ok(std::mem::take(&mut self.left))
    }

    fn poll_write_left<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), Broken>> {
        while !self.left.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.left)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Writing)),
                Ok(n) => self.left.advance(n),
            }
            self.unflushed = true;
            if self.left.is_empty() {
                // An idle tunnel keeps no buffer.
                self.left = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

enum Event {
    ClientDone,
    WorkerDone,
    ClientGone,
    WorkerGone,
    /// Both sides are done, and have been told.
    Closed,
}

/// How far one direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    /// Its end is on the way to the other side, which may not read.
    Ending,
    Ended,
}

struct Tunnel<C, W = WorkerIo> {
    client: C,
    worker: W,
    up: Flow,
    down: Flow,
    halves: Halves,
}

struct Halves {
    up: Half,
    down: Half,
}

impl<C: Side, W: Side> Tunnel<C, W> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.halves.down {
            Half::Open => match self.down.poll(cx, &mut self.worker, &mut self.client) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::WorkerDone),
                Poll::Ready(Err(Broken::Reading)) => return Poll::Ready(Event::WorkerGone),
                Poll::Ready(Err(Broken::Writing)) => return Poll::Ready(Event::ClientGone),
                Poll::Pending => {}
            },
            Half::Ending => match Pin::new(&mut self.client).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.halves.down = Half::Ended,
                Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientGone),
                Poll::Pending => {}
            },
            Half::Ended => {}
        }
        match self.halves.up {
            Half::Open => match self.up.poll(cx, &mut self.client, &mut self.worker) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::ClientDone),
                Poll::Ready(Err(Broken::Reading)) => return Poll::Ready(Event::ClientGone),
                Poll::Ready(Err(Broken::Writing)) => return Poll::Ready(Event::WorkerGone),
                Poll::Pending => {}
            },
            Half::Ending => match Pin::new(&mut self.worker).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.halves.up = Half::Ended,
                Poll::Ready(Err(_)) => return Poll::Ready(Event::WorkerGone),
                Poll::Pending => {}
            },
            Half::Ended => {}
        }
        match self.halves {
            Halves {
                up: Half::Ended,
                down: Half::Ended,
            } => Poll::Ready(Event::Closed),
            _ => Poll::Pending,
        }
    }
}

/// Runs the tunnel to its end. `early` and `first` were read from the client and the worker already.
pub(crate) async fn run<C: ClientStream>(
    client: C,
    early: Bytes,
    worker: WorkerIo,
    first: Bytes,
    talk: Talk,
    hold: Hold,
) -> (TunnelEnd, Carried) {
    let session = std::sync::Arc::clone(hold.session());
    let frames = (talk == Talk::WebSocket).then(|| {
        let mut frames = Frames::default();
        frames.advance(&first);
        frames
    });
    let mut tunnel = Tunnel {
        client,
        worker,
        up: Flow {
            left: BytesMut::from(&early[..]),
            carried: early.len() as u64,
            ..Flow::default()
        },
        down: Flow {
            left: BytesMut::from(&first[..]),
            carried: first.len() as u64,
            // The answer that opened it may wait with TLS still, should the worker say nothing.
            unflushed: true,
            frames,
            ..Flow::default()
        },
        halves: Halves {
            up: Half::Open,
            down: Half::Open,
        },
    };
    // Even if they are empty, the buffers that they were read into hang on them.
    drop((early, first));
    let end = pump(&mut tunnel, talk, &session).await;
    tracing::trace!(
        up = tunnel.up.spliced,
        down = tunnel.down.spliced,
        "bytes spliced"
    );
    let carried = Carried {
        up: tunnel.up.carried,
        down: tunnel.down.carried,
    };
    match &end {
        TunnelEnd::Closed | TunnelEnd::ClientGone => {}
        TunnelEnd::WorkerGone => tunnel.client.reset(),
        TunnelEnd::SessionEnded(reason) => Box::pin(farewell(tunnel, reason)).await,
    }
    // Only now may the session end for want of holders.
    drop(hold);
    (end, carried)
}

async fn pump<C: ClientStream>(tunnel: &mut Tunnel<C>, talk: Talk, session: &Session) -> TunnelEnd {
    let ended = session.wait_end();
    tokio::pin!(ended);
    loop {
        let event = tokio::select! {
            biased;
            event = std::future::poll_fn(|cx| tunnel.poll(cx)) => event,
            reason = &mut ended => {
                // What the worker said last is still on its way; its death ends that stream.
                let rest = std::future::poll_fn(|cx| tunnel.poll(cx));
                let _ = Box::pin(tokio::time::timeout(CRASH_NEWS, rest)).await;
                return TunnelEnd::SessionEnded(reason);
            }
        };
        match event {
            Event::ClientGone => return TunnelEnd::ClientGone,
            Event::ClientDone if talk == Talk::WebSocket => return TunnelEnd::ClientGone,
            Event::ClientDone => tunnel.halves.up = Half::Ending,
            Event::Closed => return TunnelEnd::Closed,
            Event::WorkerGone => return Box::pin(worker_lost(session)).await,
            Event::WorkerDone => {
                let goodbye = tunnel.down.frames.as_ref().is_some_and(Frames::is_closed);
                if !goodbye && let Some(reason) = Box::pin(session.wait_end_for(CRASH_NEWS)).await {
                    return TunnelEnd::SessionEnded(reason);
                }
                tunnel.halves.down = Half::Ending;
            }
        }
    }
}

async fn worker_lost(session: &Session) -> TunnelEnd {
    match session.wait_end_for(CRASH_NEWS).await {
        Some(reason) => TunnelEnd::SessionEnded(reason),
        None => TunnelEnd::WorkerGone,
    }
}

/// Tells the client that its session is over.
async fn farewell<C: ClientStream>(mut tunnel: Tunnel<C>, reason: &EndReason) {
    let Ok(mut last) = tunnel.down.take_left() else {
        tunnel.client.reset();
        return;
    };
    let may_close = tunnel.down.frames.as_ref().is_some_and(Frames::may_close);
    if !may_close {
        if !tunnel.down.frames.as_ref().is_some_and(Frames::is_closed) || !last.is_empty() {
            tunnel.client.reset();
        }
        return;
    }
    let frame = match reason {
        EndReason::Crashed(_) => websocket::close(1011, "the worker crashed"),
        EndReason::ProbeFailed(_) => websocket::close(1011, "the worker is not alive any more"),
        reason => websocket::close(1001, &format!("session ended: {}", reason.code())),
    };
    last.extend_from_slice(&frame);
    let mut client = tunnel.client;
    let said = tokio::time::timeout(FAREWELL, close_after(&mut client, &last)).await;
    if !matches!(said, Ok(Ok(()))) {
        client.reset();
    }
}

#[cfg(test)]
mod tests;
