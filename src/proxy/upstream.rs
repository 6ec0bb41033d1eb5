//! Connections to workers: one small pool per session and thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::body::ClientBody;
use super::gather::{self, Gathered};
use crate::driver::Session;
use crate::worker::{Connection, Endpoint};

/// An idle connection older than this is not used again; workers commonly close after 5 s, and a request
/// that meets the close could not be told from a refused one.
const IDLE: Duration = Duration::from_secs(4);

/// A stream to a worker.
#[derive(Debug)]
pub(crate) enum WorkerIo {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl WorkerIo {
    pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(match endpoint.connect().await? {
            Connection::Tcp(stream) => Self::Tcp(stream),
            Connection::Unix(stream) => Self::Unix(stream),
        })
    }
}

macro_rules! either {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            WorkerIo::Tcp($io) => $call,
            WorkerIo::Unix($io) => $call,
        }
    };
}

impl AsyncRead for WorkerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for WorkerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        gather::write(bufs, |gathered| match gathered {
            Gathered::One(bytes) => either!(self, io => Pin::new(io).poll_write(cx, bytes)),
            Gathered::Many(bufs) => either!(self, io => Pin::new(io).poll_write_vectored(cx, bufs)),
        })
    }
}

/// Runs hyper's HTTP/2 tasks on the thread's own `LocalSet`, which owns them.
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

/// A connection to an HTTP/1 worker that serves one exchange at a time.
///
/// Whoever has the exchange drives it, in its own task: no second task is woken for each message. So hyper's
/// own ends of it (the response's future, the body's channel) change only inside [`poll`](Self::poll), and
/// are polled without a waker; what `poll` registers is the socket's.
#[derive(Debug)]
pub(crate) struct Http1 {
    sender: http1::SendRequest<ClientBody>,
    /// `None` once it is closed.
    connection: Option<Box<http1::Connection<TokioIo<WorkerIo>, ClientBody>>>,
}

impl Http1 {
    /// Moves bytes; ready once the connection is closed, which the exchange itself is told of.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            // An error reaches the exchange.
            let _ = ready!(Pin::new(&mut **connection).poll(cx));
            self.connection = None;
        }
        Poll::Ready(())
    }

    /// Sends a request and receives the head of its answer.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<ClientBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<ClientBody>>> {
        let mut response = std::pin::pin!(self.sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            // hyper tells the exchange before it closes, so there is always something to hear of after that.
            let _ = self.poll(cx);
            response.as_mut().poll(&mut quiet())
        })
        .await
    }

    /// Another exchange may begin.
    fn is_ready(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// For what only changes while it is not waited for.
pub(crate) fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
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
            id: HeaderValue::from_str(session.name.id.as_str()).unwrap_or(HeaderValue::from_static("")),
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
        while let Some(conn) = idle.pop() {
            if conn.until > now {
                return Some(conn.connection);
            }
        }
        None
    }

    pub(crate) async fn connect(&self) -> io::Result<Http1> {
        let io = WorkerIo::connect(&self.session.endpoint).await?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        Ok(Http1 {
            sender,
            connection: Some(Box::new(connection)),
        })
    }

    pub(crate) async fn http2(&self) -> io::Result<Http2Sender> {
        if let Some(sender) = &*self.h2.borrow()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let io = WorkerIo::connect(&self.session.endpoint).await?;
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
    pub(crate) fn give_back(&self, mut connection: Http1) {
        // Lets hyper see that the exchange is over, and the socket forget who waited for it.
        if connection.poll(&mut quiet()).is_ready() || self.session.is_closed() {
            return;
        }
        if connection.is_ready() {
            self.idle.borrow_mut().push(Idle {
                connection,
                until: Instant::now() + self.keep.get(),
            });
        } else {
            // The worker answered before it had the whole request, and may want the rest.
            tokio::task::spawn_local(std::future::poll_fn(move |cx| connection.poll(cx)));
        }
    }

    /// Closes the connections that have idled too long or that the worker has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        self.idle
            .borrow_mut()
            .retain_mut(|conn| conn.until > now && conn.connection.poll(&mut quiet()).is_pending());
    }

    pub(crate) fn forget(&self) {
        self.idle.borrow_mut().clear();
        self.h2.borrow_mut().take();
    }
}
