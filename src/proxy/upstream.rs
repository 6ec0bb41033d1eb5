//! Connections to workers: one small pool per session and thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::body::ClientBody;
use super::gather::{self, Gathered};
use super::http1::Http1;
use crate::driver::Session;
use crate::worker::{Connection, Pulse};

/// An idle connection older than this is not used again; workers commonly close after 5 s, and a request
/// that meets the close could not be told from a refused one.
const IDLE: Duration = Duration::from_secs(4);
/// How long it may take to learn that a worker whose connection is broken has crashed, or ended with its session.
pub(crate) const CRASH_NEWS: Duration = Duration::from_millis(250);
/// How long the end of an answer waits for the news that its session's end has cut it: an answer that was whole, too.
pub(crate) const CUT_NEWS: Duration = Duration::from_millis(100);

/// A stream to a worker; tells the worker's pulse of the bytes that it carries.
#[derive(Debug)]
pub(crate) struct WorkerIo {
    stream: Connection,
    pulse: Arc<Pulse>,
}

impl WorkerIo {
    pub(crate) fn new(stream: Connection, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    pub(crate) async fn connect(session: &Session) -> io::Result<Self> {
        let stream = session.endpoint.connect().await?;
        Ok(Self::new(stream, Arc::clone(&session.pulse)))
    }

    pub(crate) fn stream(&self) -> &Connection {
        &self.stream
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Writes what the socket takes at once.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &self.stream {
            Connection::Tcp(stream) => stream.try_write(bytes),
            Connection::Unix(stream) => stream.try_write(bytes),
        };
        if written.is_ok() {
            self.pulse.sent();
        }
        written
    }
}

macro_rules! either {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.stream {
            Connection::Tcp($io) => $call,
            Connection::Unix($io) => $call,
        }
    };
}

impl AsyncRead for WorkerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = either!(self, io => Pin::new(io).poll_read(cx, buf));
        if let Poll::Ready(Ok(())) = read {
            // The stream's end counts, too: somebody has closed it.
            self.pulse.said();
        }
        read
    }
}

impl AsyncWrite for WorkerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = either!(self, io => Pin::new(io).poll_write(cx, buf));
        if let Poll::Ready(Ok(_)) = written {
            self.pulse.sent();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = gather::write(bufs, |gathered| match gathered {
            Gathered::One(bytes) => either!(self, io => Pin::new(io).poll_write(cx, bytes)),
            Gathered::Many(bufs) => either!(self, io => Pin::new(io).poll_write_vectored(cx, bufs)),
        });
        if let Poll::Ready(Ok(_)) = written {
            self.pulse.sent();
        }
        written
    }
}

/// Runs hyper's HTTP/2 tasks on the thread's own runtime, which ends them with itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalTasks;

impl<F> hyper::rt::Executor<F> for LocalTasks
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

pub(crate) type Http2Sender = http2::SendRequest<ClientBody>;

#[derive(Debug)]
struct Idle {
    connection: Http1,
    until: Instant,
}

/// A session as one data-plane thread knows it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) session: Arc<Session>,
    /// The session's id, as every answer carries it.
    pub(crate) id: HeaderValue,
    idle: RefCell<Vec<Idle>>,
    /// The one multiplexed connection of an HTTP/2 worker.
    h2: RefCell<Option<Http2Sender>>,
    /// What the worker's `Keep-Alive` last allowed.
    keep: Cell<Duration>,
}

impl Bound {
    pub(crate) fn new(session: Arc<Session>) -> Rc<Self> {
        Rc::new(Self {
            // A session id is plain ASCII.
            id: HeaderValue::from_str(session.name.id.id()).unwrap_or(HeaderValue::from_static("")),
            session,
            idle: RefCell::new(Vec::new()),
            h2: RefCell::new(None),
            keep: Cell::new(IDLE),
        })
    }

    /// A connection that was used before and idles.
    pub(crate) fn pooled(&self) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        // The latest is the likeliest to be open still.
        while let Some(mut conn) = idle.pop() {
            if conn.until > now && conn.connection.is_quiet() {
                return Some(conn.connection);
            }
        }
        None
    }

    pub(crate) async fn connect(&self) -> io::Result<Http1> {
        WorkerIo::connect(&self.session).await.map(Http1::new)
    }

    pub(crate) async fn http2(&self) -> io::Result<Http2Sender> {
        if let Some(sender) = &*self.h2.borrow()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let io = WorkerIo::connect(&self.session).await?;
        let (sender, connection) = http2::Builder::new(LocalTasks)
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        *self.h2.borrow_mut() = Some(sender.clone());
        Ok(sender)
    }

    /// `Keep-Alive: timeout=N` of an answer: the worker closes after N seconds, herd one second before.
    pub(crate) fn heed_keep_alive(&self, value: Option<&HeaderValue>) {
        let seconds = value.and_then(|v| v.to_str().ok()).and_then(|v| {
            v.split(',')
                .find_map(|p| p.trim().strip_prefix("timeout=")?.trim().parse::<u64>().ok())
        });
        if let Some(seconds) = seconds {
            self.keep
                .set(Duration::from_secs(seconds.saturating_sub(1)).min(Duration::from_secs(60)));
        }
    }

    /// Takes a connection whose answer is complete.
    pub(crate) fn give_back(&self, connection: Http1) {
        if self.session.is_closed() {
            return;
        }
        if connection.is_over() {
            // Whether the worker has closed it is seen before it is used, and by the sweep.
            self.idle.borrow_mut().push(Idle {
                connection,
                until: Instant::now() + self.keep.get(),
            });
        } else if connection.is_sending() {
            let mut connection = connection;
            tokio::task::spawn_local(std::future::poll_fn(move |cx| connection.poll_rest(cx)));
        }
    }

    /// Closes the connections that have idled too long or that the worker has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|conn| conn.until > now && conn.connection.is_quiet());
        if idle.is_empty() {
            // A session that idles keeps nothing.
            idle.shrink_to_fit();
        }
    }

    pub(crate) fn forget(&self) {
        self.idle.borrow_mut().clear();
        self.h2.borrow_mut().take();
    }
}
