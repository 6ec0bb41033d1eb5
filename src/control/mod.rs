//! The control API: HTTP/1.1 over a UNIX socket that only herd's own user and root can reach. What it serves is the
//! table in [`operations`]; `docs/api.md` tells it to people.
//!
//! It has a thread of its own, so that no flood of questions and no slow reader is felt by the driver or by sessions.
//! Who may use the socket is decided twice: by the file system (a 0700 directory, a 0600 socket) and by the peer's
//! credentials. Over TCP, which is loopback's and off unless asked for, a key decides ([`access`]). Deliberately not here:
//! anything that a session's client needs.

mod access;
mod answer;
pub mod build;
pub mod channels;
mod connection;
mod creating;
mod dashboard;
mod events;
mod exec;
mod former;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod hold;
mod logs;
mod looking;
mod metrics;
mod openapi;
mod operations;
mod pressure;
mod query;
mod router;
mod sessions;
mod site;
mod socket;
#[cfg(test)]
mod tests;
mod time;
mod tokens;
pub mod views;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::geteuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

pub use access::{Admission, ListenError};
pub(crate) use answer::{Answer, Problem};
pub use former::{Former, Writing};
pub use site::{Names, Way};
pub use socket::BindError;
pub use time::is_moment;

use access::{Caller, Used};

use crate::config::Config;
use crate::driver::{By, Handle};

use connection::Connection;
use router::Router;
use socket::Socket;

/// Connections of the socket beyond this wait in the kernel's queue. Every session may have a hold.
const MAX_LOCAL: usize = 16_384;
/// The same of the port.
const MAX_REMOTE: usize = 4096;
/// So many of them stay free of streams, which last as long as their clients like: an operator always gets in.
const FREE_OF_STREAMS: usize = 512;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Out of descriptors, accepting is tried again after this.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// At herd's end, a client that does not read its last answer is not waited for longer.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A thread that looked at processes and has nothing to do ends after this.
const LOOKING_LINGERS: Duration = Duration::from_secs(1);

/// A bound control socket, and the port beside it, if there is one.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
    port: Option<std::net::TcpListener>,
    admission: watch::Sender<Admission>,
    former: Former,
}

/// What clients of the control API have to know of the data port.
#[derive(Debug, Clone)]
pub struct DataPort {
    /// Where it is, as a URL.
    pub url: String,
}

/// Says who is let in from now on.
#[derive(Debug, Clone)]
pub struct Door(watch::Sender<Admission>);

impl Door {
    pub fn renew(&self, admission: Admission) {
        self.0.send_replace(admission);
    }
}

/// A control API that is being served.
#[derive(Debug)]
pub struct Serving {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Serving {
    /// Resolves only if it cannot be served any more.
    pub async fn failed(&mut self) -> io::Error {
        match (&mut self.ended).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => io::Error::other("its thread has ended"),
        }
    }

    /// Lets streams end and running answers be finished, for at most a second.
    pub async fn finish(self) -> io::Result<()> {
        drop(self.stop);
        // A thread that is gone serves nothing.
        self.ended.await.unwrap_or(Ok(()))
    }
}

impl Server {
    /// Whether `bind` could take the socket, as far as a look can tell. Makes nothing.
    pub fn look(path: &Path) -> Result<(), BindError> {
        Socket::look(path)
    }

    /// Takes the socket, or says who has it or what is wrong with its directory. To be called after the
    /// launcher is forked: a child that inherited the lock would keep it after herd's death.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let socket = Socket::bind(path)?;
        Ok(Self {
            socket,
            port: None,
            admission: watch::Sender::default(),
            former: Former::default(),
        })
    }

    /// Serves over TCP as well, if the configuration says so, whom `admission` lets in.
    pub fn listen(mut self, config: &Config, admission: Admission) -> Result<Self, ListenError> {
        self.admission.send_replace(admission);
        if let Some(address) = config.control_tcp {
            let listener = std::net::TcpListener::bind(address)
                .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                .map_err(|source| ListenError { address, source })?;
            self.port = Some(listener);
        }
        Ok(self)
    }

    pub fn door(&self) -> Door {
        Door(self.admission.clone())
    }

    /// Tells of former herds' sessions as well.
    pub fn remembering(mut self, former: Former) -> Self {
        self.former = former;
        self
    }

    /// Where it listens beside the socket.
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.port.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves on a thread of its own.
    pub fn spawn(self, driver: Handle, data: DataPort) -> io::Result<Serving> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .thread_keep_alive(LOOKING_LINGERS)
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, ended) = oneshot::channel();
        thread::Builder::new()
            .name("herd-control".to_owned())
            .spawn(move || {
                let shutdown = async {
                    // A dropped sender means the same.
                    let _ = stopped.await;
                };
                // Nobody listens if herd ends for another reason.
                let _ = tell.send(runtime.block_on(self.serve(driver, data, shutdown)));
            })?;
        Ok(Serving { stop, ended })
    }

    /// Serves until `shutdown`; then streams end, running answers are finished, and the socket and its
    /// lock are removed.
    async fn serve(
        self,
        driver: Handle,
        data: DataPort,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(self.socket.listener.try_clone()?)?;
        let port = self.port.map(TcpListener::from_std).transpose()?;
        let (stop, stopping) = watch::channel(None);
        let router = Router {
            driver,
            data: Arc::new(data),
            stopping,
            creating: Arc::default(),
            looking: Arc::default(),
            admission: self.admission.subscribe(),
            former: Arc::new(self.former),
            streams: Arc::new(Semaphore::new(MAX_LOCAL - FREE_OF_STREAMS)),
        };
        let distant = Router {
            streams: Arc::new(Semaphore::new(MAX_REMOTE - FREE_OF_STREAMS)),
            ..router.clone()
        };
        // Apart, so that connections without a key cannot keep the socket's away.
        let (mut local, mut remote) = (JoinSet::new(), JoinSet::new());
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = local.join_next() => {}
                Some(_) = remote.join_next() => {}
                accepted = listener.accept(), if local.len() < MAX_LOCAL => match accepted {
                    Ok((stream, _)) => {
                        let caller = caller(&stream);
                        local.spawn(serve_connection(stream, router.clone(), caller));
                    }
                    Err(error) => cannot_accept(error).await,
                },
                accepted = accept(port.as_ref()), if remote.len() < MAX_REMOTE => match accepted {
                    Ok(stream) => {
                        let caller = Caller::Unknown(Used::default());
                        remote.spawn(serve_connection(stream, distant.clone(), caller));
                    }
                    Err(error) => cannot_accept(error).await,
                },
            }
        }
        drop(port);
        drop(listener);
        // New clients shall find no socket, rather than one that never answers.
        drop(self.socket);
        stop.send_replace(Some(Stop::HerdEnds));
        let finished = async {
            while local.join_next().await.is_some() {}
            while remote.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, finished).await;
        Ok(())
    }
}

async fn accept(port: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match port {
        Some(port) => port.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn cannot_accept(error: io::Error) {
    tracing::warn!(%error, "the control API cannot accept a connection");
    tokio::time::sleep(ACCEPT_BACKOFF).await;
}

/// Who is at the other end of the socket, as the kernel tells it.
fn caller(stream: &UnixStream) -> Caller {
    // A peer whose credentials cannot be read is nobody.
    let credentials = stream.peer_cred().ok();
    let uid = credentials.map_or(u32::MAX, |peer| peer.uid());
    if uid == 0 || uid == geteuid().as_raw() {
        let pid = credentials.and_then(|peer| peer.pid());
        return Caller::Known(By::Peer { uid, pid });
    }
    tracing::warn!(uid, "a foreign user was refused at the control socket");
    Caller::Foreign { uid }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    caller: Caller,
) {
    let (mut stopping, mut admission) = (router.stopping.clone(), router.admission.clone());
    let (stop, stopped) = watch::channel(None);
    let router = Router {
        stopping: stopped,
        ..router
    };
    let cut = async {
        let why = tokio::select! {
            why = told(&mut stopping) => why,
            key = caller.revoked(&mut admission) => {
                tracing::info!(%key, "a control connection ends: what it was let in by is gone");
                Stop::Revoked
            }
        };
        stop.send_replace(Some(why));
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        () = answer_all(stream, &router, &caller) => {}
        () = cut => {}
    }
}

async fn answer_all(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: &Router,
    caller: &Caller,
) {
    let mut stopping = router.stopping.clone();
    let state = Connection::default();
    let service = service_fn(|request| {
        let state = &state;
        async move { Ok::<Answer, Infallible>(router.answer(request, caller, state).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let served = {
        let mut connection = pin!(connection);
        tokio::select! {
            served = connection.as_mut() => served,
            _ = told(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        }
        // Dropped here: an upgrade that did not come about is told by that.
    };
    if let Err(error) = served {
        // Mostly a client that left in the middle, which is how a hold ends.
        tracing::debug!(%error, "a control connection ended early");
    }
    if let Some(rest) = state.rest() {
        rest.await;
    }
}

/// Why what is open has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    HerdEnds,
    /// A reload has taken away what the connection was let in by.
    Revoked,
}

/// `None` until there is a reason.
type Stopping = watch::Receiver<Option<Stop>>;

/// Resolves when herd, or what let a connection in, is ending.
async fn told(stopping: &mut Stopping) -> Stop {
    // An error means that the sender is gone, which is the same.
    let told = stopping.wait_for(Option::is_some).await;
    told.ok().and_then(|why| *why).unwrap_or(Stop::HerdEnds)
}
