//! The control API: HTTP/1.1 over a UNIX socket that only herd's own user and root can reach. What it serves is the
//! table in [`operations`]; `docs/api.md` tells it to people.
//!
//! It has a thread of its own, so that no flood of questions and no slow reader is felt by the driver or by sessions.
//! Who may connect is decided twice: by the file system (a 0700 directory, a 0600 socket) and by the peer's credentials.
//! Deliberately not here: TCP, keys, and anything that a session's client needs.

mod answer;
mod creating;
mod events;
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
mod socket;
#[cfg(test)]
mod tests;
mod time;
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
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub use socket::BindError;

use crate::driver::{Handle, Peer};

use answer::{Answer, Problem};
use router::Router;
use socket::Socket;

/// Connections beyond this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Out of descriptors, accepting is tried again after this.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// At herd's end, a client that does not read its last answer is not waited for longer.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A thread that looked at processes and has nothing to do ends after this.
const LOOKING_LINGERS: Duration = Duration::from_secs(1);

/// A bound control socket.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
}

/// What clients of the control API have to know of the data port.
#[derive(Debug, Clone)]
pub struct DataPort {
    /// Where it is, as a URL.
    pub url: String,
    /// The header that carries a session's id.
    pub session_header: String,
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
    /// Takes the socket, or says who has it or what is wrong with its directory. To be called after the
    /// launcher is forked: a child that inherited the lock would keep it after herd's death.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Socket::bind(path).map(|socket| Self { socket })
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
        let (stop, stopping) = watch::channel(false);
        let router = Router {
            driver,
            data: Arc::new(data),
            stopping,
            creating: Arc::default(),
            looking: Arc::default(),
        };
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve_connection(stream, router.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot accept a connection");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
        drop(listener);
        // New clients shall find no socket, rather than one that never answers.
        drop(self.socket);
        stop.send_replace(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_ANSWERS, finished).await;
        Ok(())
    }
}

async fn serve_connection(stream: UnixStream, router: Router) {
    // A peer whose credentials cannot be read is nobody.
    let credentials = stream.peer_cred().ok();
    let uid = credentials.map_or(u32::MAX, |peer| peer.uid());
    let pid = credentials.and_then(|peer| peer.pid());
    let peer = Peer { uid, pid };
    let trusted = uid == 0 || uid == geteuid().as_raw();
    if !trusted {
        tracing::warn!(uid, "a foreign user was refused at the control socket");
    }
    let mut stopping = router.stopping.clone();
    let service = service_fn(|request| {
        let router = &router;
        async move {
            Ok::<Answer, Infallible>(match trusted {
                true => router.answer(request, peer).await,
                false => Problem::forbidden(uid).into(),
            })
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = told(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = served {
        // Mostly a client that left in the middle, which is how a hold ends.
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// Resolves when herd is ending.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}
