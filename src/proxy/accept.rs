//! A data-plane thread: accepts connections from its share of the one listening socket and serves them.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Stage;
use super::code::Problem;
use super::forward::{self, Client, Upgrade};
use super::framing::Limits;
use super::gate::{Gate, Line, Phase};
use super::opening::{Opened, Speaks, Unopened, late, open};
use super::places::{Place, Places};
use super::record;
use super::thread::Thread;
use super::transport::{Transport, close_after};
use super::tunnel;
use super::upstream::LocalTasks;
use crate::config::Network;

/// Between two attempts to accept when the process or the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After so long without a request a connection gives its buffers back.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// So many header fields hyper takes without being told, and has room for without asking for memory.
const HYPER_FIELDS: usize = 100;
/// How long input is still read after a refusal, so that a reset does not overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
/// When herd ends, a connection that has said nothing yet has this long from its accept to do so.
const LAST_MOMENT: Duration = Duration::from_secs(1);
const MAX_H2_STREAMS: u32 = 256;
/// Streams that were reset before herd took them up (CVE-2023-44487), or by herd for the peer's errors
/// (CVE-2025-8671).
const MAX_H2_RESETS: usize = 64;

/// Accepts until told to stop, then finishes what is open; returns early at `Stage::Abort`.
pub(crate) async fn run(
    thread: Rc<Thread>,
    listener: TcpListener,
    places: Arc<Places>,
    mut stage: watch::Receiver<Stage>,
) {
    let mut connections = JoinSet::new();
    let mut reserve = Reserve::new();
    let tidy = tokio::task::spawn_local(Rc::clone(&thread).tidy(Arc::clone(&places)));
    let watching = Rc::clone(&thread);
    let watch = tokio::task::spawn_local(async move {
        let dead_after = || watching.config().network.dead_peer_timeout;
        watching.peers.look_after(dead_after).await;
    });
    let mut stopping = stage.clone();
    loop {
        tokio::select! {
            // Ended connections are reaped before new ones come.
            biased;
            _ = stopping.wait_for(|s| *s != Stage::Serving) => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &places, &mut reserve) => {
                if let Some((stream, peer, place)) = accepted {
                    connections.spawn_local(connection(
                        Rc::clone(&thread), stream, peer, place, stage.clone(),
                    ));
                }
            }
        }
    }
    drop(listener);
    thread.drain();
    loop {
        tokio::select! {
            biased;
            _ = stage.wait_for(|s| *s == Stage::Abort) => break,
            next = connections.join_next() => if next.is_none() { break },
        }
    }
    connections.abort_all();
    tidy.abort();
    watch.abort();
}

/// A descriptor to give up when there are none left, so that a waiting client can be turned away instead
/// of left hanging.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Until it is there again: another thread may have been faster, or who gave it up was cancelled since.
    async fn restored(&mut self) {
        while self.0.is_none() {
            *self = Self::new();
            if self.0.is_none() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Places>,
    reserve: &mut Reserve,
) -> Option<(TcpStream, SocketAddr, Place)> {
    // At the limit this thread keeps nobody but leaves them in the kernel's queue.
    let place = places.take().await;
    // Without it a client would be left hanging when there is none free.
    reserve.restored().await;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            tracing::warn!(error = %e, "out of file descriptors: turning connections away; raise LimitNOFILE");
            reserve.0 = None;
            // Who waits there now. If another thread was faster, that is nobody, and who comes later may find one free.
            let _ = std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
            *reserve = Reserve::new();
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
        Err(e) => {
            // The client was gone before it was accepted, or memory is short.
            tracing::debug!(error = %e, "accept failed");
            if !matches!(
                e.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            ) {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// The kernel looks after a connection on which nothing is under way; see `peers` for the others.
fn prepare(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let third = (dead_after / 3).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(third)
            .with_interval(third)
            .with_retries(2),
    )
}

async fn connection(
    thread: Rc<Thread>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    mut stage: watch::Receiver<Stage>,
) {
    // What holds for a connection is what was in force when it came.
    let config = thread.config();
    let network = &config.network;
    if let Err(e) = prepare(&stream, network.dead_peer_timeout) {
        tracing::debug!(%peer, error = %e, "the client left at once");
        return;
    }
    let watching = Rc::clone(&thread);
    let Ok(_watched) = watching.peers.watch(stream.as_raw_fd()) else {
        return;
    };
    // Who connected a moment before the end has its request on the way, and gets an answer.
    let expected = Instant::now() + LAST_MOMENT;
    let last_moment = async {
        // An error means that herd ends, too.
        let _ = stage.wait_for(|s| *s != Stage::Serving).await;
        sleep_until(expected).await;
    };
    let opened = tokio::select! {
        opened = open(network, thread.tls.as_deref(), stream, peer) => opened,
        () = last_moment => return,
    };
    match opened {
        // Boxed apart, so that neither takes the room of the other.
        Ok(opened) if opened.speaks == Speaks::Http2 => Box::pin(http2(thread, network, opened, stage)).await,
        Ok(opened) => Box::pin(http1(thread, network, opened, stage)).await,
        Err(Unopened::Gone) => {}
        Err(Unopened::Refused(stream, problem)) => {
            record::refused(&watching, peer, &problem);
            Box::pin(refuse(stream, problem)).await;
        }
    }
    drop(place);
}

/// Answers a request that hyper never saw, and closes.
async fn refuse(mut stream: Transport, problem: Problem) {
    tracing::debug!(
        code = problem.code.as_str(),
        status = problem.status().as_u16(),
        "request refused"
    );
    let answer = problem.into_http1();
    // Whether the client read it is its own matter.
    let _ = timeout(LINGER, close_after(&mut stream, &answer)).await;
}

/// A connection's requests. Between them, what it takes to serve one is given back.
async fn http1(thread: Rc<Thread>, network: &Network, opened: Opened, mut stage: watch::Receiver<Stage>) {
    let Opened {
        mut stream,
        mut first,
        peer,
        sender,
        ..
    } = opened;
    let line = Line::new();
    let client = Client::new(peer, sender, Some(Rc::clone(&line)));
    loop {
        let served = Box::pin(serve(
            (&thread, network),
            &client,
            &line,
            stream,
            std::mem::take(&mut first),
            &mut stage,
        ));
        stream = match served.await {
            Some(Served::Parked(stream, early)) => {
                first = early.into();
                stream
            }
            Some(Served::Upgraded(stream, early, upgrade)) => {
                let Ok((worker, first)) = upgrade.worker.await else {
                    tunnel::ClientStream::reset(stream);
                    return;
                };
                let Upgrade {
                    talk, hold, record, ..
                } = upgrade;
                let _open = thread.traffic.tunnel();
                let tunnel = tunnel::run(stream, early.freeze(), worker, first, talk, hold);
                let (end, carried) = Box::pin(tunnel).await;
                tracing::debug!(%peer, ?end, "tunnel closed");
                if let Some(record) = record {
                    record.tunnel_ended(end, carried);
                }
                return;
            }
            Some(Served::Refused(stream, problem)) => {
                record::refused(&thread, peer, &problem);
                return Box::pin(refuse(stream, problem)).await;
            }
            Some(Served::Done(stream)) => return Box::pin(linger(stream)).await,
            None => return,
        };
        if !first.is_empty() {
            continue;
        }
        let (_, since) = line.phase();
        tokio::select! {
            biased;
            // News, or the client's end: hyper finds out which.
            _ = stream.wire().readable() => {}
            _ = stage.wait_for(|s| *s != Stage::Serving) => return Box::pin(linger(stream)).await,
            () = sleep_until(since + network.idle_timeout) => return Box::pin(linger(stream)).await,
        }
    }
}

/// What a connection has come to.
enum Served {
    /// Nothing is under way, and nothing has been for a while.
    Parked(Transport, BytesMut),
    /// The client's bytes after its request, and the worker's side of the tunnel.
    Upgraded(Transport, BytesMut, Upgrade),
    Refused(Transport, Problem),
    Done(Transport),
}

/// Serves requests until there are none for a while; `None` if the connection broke.
async fn serve(
    (thread, network): (&Rc<Thread>, &Network),
    client: &Rc<Client>,
    line: &Rc<Line>,
    stream: Transport,
    first: Vec<u8>,
    stage: &mut watch::Receiver<Stage>,
) -> Option<Served> {
    let limits = Limits {
        size: network.max_header_size,
        fields: network.max_headers,
    };
    let gate = Gate::new(stream, &first, limits, Rc::clone(line));
    drop(first);
    let watch = gate.watch();
    let service = service_fn(|request| forward::serve(Rc::clone(thread), Rc::clone(client), request));
    let mut connection = hyper_settings(network).serve_connection(gate, service);
    // Herd ends, and so shall the connection, once a request that has begun is answered.
    let mut ending = thread.is_draining();
    // hyper was told to close.
    let mut closing = false;
    let mut alarm = pin!(sleep_until(Instant::now() + PARK_AFTER));
    let mut over = None;
    loop {
        let turn = tokio::select! {
            biased;
            turn = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                if let Poll::Ready(served) = polled {
                    return Poll::Ready(Turn::Served(served.map_err(io::Error::other)));
                }
                // hyper has not seen a head that is incomplete, and would close without an answer.
                let may_close = line.is_refused() || (ending && line.phase().0 != Phase::Head);
                if may_close && !closing {
                    return Poll::Ready(Turn::Close);
                }
                let gone = || Turn::Served(Err(io::ErrorKind::UnexpectedEof.into()));
                watch.poll_gone(cx).map(|_| gone())
            }) => turn,
            _ = stage.wait_for(|s| *s != Stage::Serving), if !ending => {
                ending = true;
                continue;
            }
            () = alarm.as_mut(), if !closing => match Look::at(line, network) {
                Look::Again(at) => {
                    alarm.as_mut().reset(at);
                    continue;
                }
                Look::Close => Turn::Close,
                done => {
                    over = Some(done);
                    break;
                }
            },
        };
        match turn {
            Turn::Served(Err(e)) => {
                tracing::trace!(peer = %client.peer, error = %e, "connection broke");
                if client.old.get()
                    && let Ok((stream, _)) = connection.into_parts().io.into_parts()
                {
                    stream.reset();
                }
                return None;
            }
            Turn::Served(Ok(())) => break,
            Turn::Close => {
                // Lets an answer that is under way be finished, and no request follow.
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let (stream, early) = connection.into_parts().io.into_parts().ok()?;
    Some(match over {
        Some(Look::Park) => Served::Parked(stream, early),
        // A head that did not come in time.
        Some(_) => Served::Refused(stream, late(network.header_timeout)),
        None => match (client.upgrade.borrow_mut().take(), line.take_refusal()) {
            (Some(upgrade), _) => Served::Upgraded(stream, early, upgrade),
            (None, Some(problem)) => Served::Refused(stream, problem),
            (None, None) => Served::Done(stream),
        },
    })
}

/// What is to happen to a connection that hyper serves.
enum Turn {
    /// hyper has come to its end.
    Served(io::Result<()>),
    /// hyper is to end it.
    Close,
}

fn hyper_settings(network: &Network) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The gate has judged size and number already; hyper's own limits must not be tighter.
    builder.header_read_timeout(None);
    if network.max_headers > HYPER_FIELDS {
        builder.max_headers(network.max_headers);
    }
    // hyper is not to read while it serves, only to notice that the client leaves: the watch does.
    builder.half_close(true);
    builder
}

/// Closes so that the last answer is read even if input is left unread.
async fn linger(mut stream: Transport) {
    let _ = timeout(LINGER, close_after(&mut stream, b"")).await;
}

/// What to do with a connection that has been left alone for a moment.
enum Look {
    Again(Instant),
    /// It has idled a while.
    Park,
    /// It has idled too long.
    Close,
    /// Its head has been incomplete too long.
    Late,
}

impl Look {
    fn at(line: &Line, network: &Network) -> Self {
        let now = Instant::now();
        let (phase, since) = line.phase();
        match phase {
            Phase::Idle if since + network.idle_timeout <= now => Self::Close,
            Phase::Idle if since + PARK_AFTER <= now && line.is_flushed() => Self::Park,
            Phase::Head if since + network.header_timeout <= now => Self::Late,
            Phase::Head => Self::Again((since + network.header_timeout).min(now + PARK_AFTER)),
            // Requests have no limit; look again when the next one may have begun and stalled.
            Phase::Idle | Phase::Serving => Self::Again(now + PARK_AFTER),
        }
    }
}

async fn http2(thread: Rc<Thread>, network: &Network, opened: Opened, mut stage: watch::Receiver<Stage>) {
    let Opened {
        stream,
        first,
        peer,
        sender,
        ..
    } = opened;
    let client = Client::new(peer, sender, None);
    let service = service_fn(|request| forward::serve(Rc::clone(&thread), Rc::clone(&client), request));
    let mut builder = http2::Builder::new(LocalTasks);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_pending_accept_reset_streams(MAX_H2_RESETS)
        .max_local_error_reset_streams(MAX_H2_RESETS)
        .max_header_list_size(u32::try_from(network.max_header_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(network.dead_peer_timeout / 2)
        .keep_alive_timeout(network.dead_peer_timeout / 2);
    let io = Replay { first, at: 0, stream };
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut closing = thread.is_draining();
    if closing {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => {
                if let Err(e) = served {
                    tracing::trace!(%peer, error = %e, "connection broke");
                }
                return;
            }
            _ = stage.wait_for(|s| *s != Stage::Serving), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A stream whose first bytes were read already.
struct Replay {
    first: Vec<u8>,
    at: usize,
    stream: Transport,
}

impl tokio::io::AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        if self.at < self.first.len() {
            let here = buf.remaining().min(self.first.len() - self.at);
            buf.put_slice(&self.first[self.at..self.at + here]);
            self.at += here;
            if self.at == self.first.len() {
                self.first = Vec::new();
                self.at = 0;
            }
            return std::task::Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Replay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
