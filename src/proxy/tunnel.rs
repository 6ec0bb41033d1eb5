//! A tunnel: bytes both ways between a client and its worker after an upgrade.
//!
//! Each direction copies through one buffer of the thread, so an idle tunnel has none of its own; what the
//! other side does not take at once is kept, and nothing more is read before it is gone. Half-closes are
//! passed on, except for WebSockets: a client that ends its side has left (RFC 6455 has no half-close).
//!
//! A worker that dies never looks like a clean end: a WebSocket gets a Close frame of herd's own where one
//! may stand, everything else a reset.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::upstream::WorkerIo;
use super::websocket::{self, Frames};
use crate::core::EndReason;
use crate::driver::{Hold, Session};

const SCRATCH: usize = 64 * 1024;
/// How long the worker's end of stream may wait for the news that the session has ended.
const NEWS: Duration = Duration::from_millis(250);
/// How long a client may take to read herd's Close frame.
const FAREWELL: Duration = Duration::from_secs(2);

thread_local! {
    static COPY: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

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

/// A client's stream that can be ended so that the peer knows something went wrong.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    fn reset(self);
}

impl ClientStream for TcpStream {
    fn reset(self) {
        // If this fails the peer sees a plain close; there is nothing better to do.
        let _ = socket2::SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

impl ClientStream for hyper_util::rt::TokioIo<hyper::upgrade::Upgraded> {
    /// h2 resets a stream that is dropped before its end.
    fn reset(self) {}
}

#[derive(Debug, Default)]
struct Pipe {
    /// Read, not yet taken by the other side.
    left: BytesMut,
    unflushed: bool,
    frames: Option<Frames>,
}

enum Broken {
    Reading,
    Writing,
}

impl Pipe {
    /// Runs until the reading side has ended and everything is written.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // A fast pair of peers must not starve the thread's other connections.
        for _ in 0..16 {
            ready!(self.poll_write_left(cx, to))?;
            let read = COPY.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Reading)),
                    Poll::Ready(Ok(())) => {}
                }
                let bytes = buf.filled();
                if let Some(frames) = &mut self.frames {
                    frames.advance(bytes);
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
                Poll::Ready(Ok(bytes.len()))
            });
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
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
}

struct Tunnel<C> {
    client: C,
    worker: WorkerIo,
    up: Pipe,
    down: Pipe,
    up_open: bool,
    down_open: bool,
}

impl<C: ClientStream> Tunnel<C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.down_open {
            match self.down.poll(cx, &mut self.worker, &mut self.client) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::WorkerDone),
                Poll::Ready(Err(Broken::Reading)) => return Poll::Ready(Event::WorkerGone),
                Poll::Ready(Err(Broken::Writing)) => return Poll::Ready(Event::ClientGone),
                Poll::Pending => {}
            }
        }
        if self.up_open {
            match self.up.poll(cx, &mut self.client, &mut self.worker) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::ClientDone),
                Poll::Ready(Err(Broken::Reading)) => return Poll::Ready(Event::ClientGone),
                Poll::Ready(Err(Broken::Writing)) => return Poll::Ready(Event::WorkerGone),
                Poll::Pending => {}
            }
        }
        Poll::Pending
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
) -> TunnelEnd {
    let session = std::sync::Arc::clone(hold.session());
    let frames = (talk == Talk::WebSocket).then(|| {
        let mut frames = Frames::default();
        frames.advance(&first);
        frames
    });
    let mut tunnel = Tunnel {
        client,
        worker,
        up: Pipe {
            left: BytesMut::from(&early[..]),
            ..Pipe::default()
        },
        down: Pipe {
            left: BytesMut::from(&first[..]),
            frames,
            unflushed: false,
        },
        up_open: true,
        down_open: true,
    };
    let end = pump(&mut tunnel, talk, &session).await;
    match &end {
        TunnelEnd::Closed | TunnelEnd::ClientGone => {}
        TunnelEnd::WorkerGone => tunnel.client.reset(),
        TunnelEnd::SessionEnded(reason) => farewell(tunnel, reason).await,
    }
    // Only now may the session end for want of holders.
    drop(hold);
    end
}

async fn pump<C: ClientStream>(tunnel: &mut Tunnel<C>, talk: Talk, session: &Session) -> TunnelEnd {
    let ended = session.wait_end();
    tokio::pin!(ended);
    while tunnel.up_open || tunnel.down_open {
        let event = tokio::select! {
            biased;
            event = std::future::poll_fn(|cx| tunnel.poll(cx)) => event,
            reason = &mut ended => {
                // What the worker said last is still on its way; its death ends that stream.
                let rest = std::future::poll_fn(|cx| tunnel.poll(cx));
                let _ = tokio::time::timeout(NEWS, rest).await;
                return TunnelEnd::SessionEnded(reason);
            }
        };
        match event {
            Event::ClientGone => return TunnelEnd::ClientGone,
            Event::ClientDone if talk == Talk::WebSocket => return TunnelEnd::ClientGone,
            Event::ClientDone => {
                tunnel.up_open = false;
                if tunnel.worker.shutdown().await.is_err() {
                    return worker_lost(session).await;
                }
            }
            Event::WorkerGone => return worker_lost(session).await,
            Event::WorkerDone => {
                let goodbye = tunnel.down.frames.as_ref().is_some_and(Frames::is_closed);
                if !goodbye && let Some(reason) = session.wait_end_for(NEWS).await {
                    return TunnelEnd::SessionEnded(reason);
                }
                tunnel.down_open = false;
                if tunnel.client.shutdown().await.is_err() {
                    return TunnelEnd::ClientGone;
                }
            }
        }
    }
    TunnelEnd::Closed
}

async fn worker_lost(session: &Session) -> TunnelEnd {
    match session.wait_end_for(NEWS).await {
        Some(reason) => TunnelEnd::SessionEnded(reason),
        None => TunnelEnd::WorkerGone,
    }
}

/// Tells the client that its session is over.
async fn farewell<C: ClientStream>(mut tunnel: Tunnel<C>, reason: &EndReason) {
    let may_close = tunnel.down.frames.as_ref().is_some_and(Frames::may_close);
    if !may_close {
        if !tunnel.down.frames.as_ref().is_some_and(Frames::is_closed) || !tunnel.down.left.is_empty() {
            tunnel.client.reset();
        }
        return;
    }
    let frame = match reason {
        EndReason::Crashed(_) => websocket::close(1011, "the worker crashed"),
        reason => websocket::close(1001, &format!("session ended: {}", reason.code())),
    };
    let mut last = std::mem::take(&mut tunnel.down.left);
    last.extend_from_slice(&frame);
    let mut client = tunnel.client;
    let said = async {
        client.write_all(&last).await?;
        client.shutdown().await?;
        // Closing with unread input would reset the connection and could overtake the frame.
        let mut sink = [0; 512];
        while client.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    if !matches!(tokio::time::timeout(FAREWELL, said).await, Ok(Ok(()))) {
        client.reset();
    }
}
