//! The data plane: one listening socket, one thread per core, each with its own runtime, its own
//! connections and its own pools of worker connections.
//!
//! ```text
//! listener ─ dup ─ thread: accept ─ connection ─ gate (HTTP/1 framing) ─ hyper ─ forward ─ worker
//!                                        └──────────── after a 101 ─────────── tunnel ─ worker
//! ```
//!
//! | module | what |
//! |---|---|
//! | `accept` | a thread's connections: limits, timeouts, HTTP/1 or HTTP/2, the hand-over to a tunnel |
//! | `opening`, `proxy_protocol`, `tls` | what stands before a connection's first request |
//! | `transport` | a client's connection, in the clear or not |
//! | `peers` | which clients are gone without a word |
//! | `places` | how many connections there may be |
//! | `framing`, `gate` | judge each HTTP/1 request before hyper parses it |
//! | `entry`, `origin` | who a request is from, where that is asked; which web pages may open WebSockets |
//! | `identity` | which session and kind a request is for |
//! | `forward`, `send` | one request, and its exchange with the worker |
//! | `http1` | a connection to an HTTP/1 worker: requests written, answers read |
//! | `thread`, `upstream` | the sessions a thread knows, and its connections to their workers |
//! | `fields`, `body`, `gather`, `scratch`, `tunnel`, `splice`, `websocket` | what passes between client and worker |
//! | `record` | what becomes known of a request, for the access log and traces |
//! | `code` | every error that herd makes |
//!
//! It never starts, stops or counts workers: it asks the driver for a session once, and from then on only
//! counts its own holders on that session. It has no control API; that is never on the data port.

mod accept;
mod body;
mod code;
mod entry;
mod fields;
mod forward;
mod framing;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod gate;
mod gather;
mod http1;
mod identity;
mod opening;
mod origin;
mod peers;
mod places;
mod proxy_protocol;
mod record;
mod scratch;
mod send;
mod splice;
mod thread;
mod tls;
mod transport;
mod tunnel;
mod upstream;
mod websocket;
mod websocket_over_h2;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::access::InForce;
use crate::config::{Config, listening};
use crate::driver::Handle;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::traces::Traces;

pub use tls::{Identity, Tls, TlsError};

use places::Places;

const BACKLOG: i32 = 4096;

/// How far the shutdown has gone; only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Serving,
    /// Accept nothing, close what idles, finish what is under way.
    Finishing,
    Abort,
}

/// The bound listening socket.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    log: Option<Arc<AccessLog>>,
    traces: Option<Arc<Traces>>,
}

impl Server {
    /// Binds `network.data_bind`.
    ///
    /// # Errors
    /// Names the address; a second herd on it gets "address in use".
    pub fn bind(config: &Config) -> io::Result<Self> {
        let addr = config.network.data_bind;
        let named = |e: io::Error| {
            let hint = listening::advice(&e, "network.data_bind");
            io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}{hint}"))
        };
        let bound = || {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
            // For a quick restart; unlike SO_REUSEPORT it does not let two listeners share the port.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&addr.into())?;
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        };
        Ok(Self::on(bound().map_err(named)?))
    }

    /// Serves where somebody else listens already: a service manager, which goes on listening while herd is restarted.
    pub fn on(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
            log: None,
            traces: None,
        }
    }

    /// Speaks TLS, and nothing else.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// The address, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Requests leave their lines here, while the configuration has `access_log`.
    #[must_use]
    pub fn logging_to(self, log: Arc<AccessLog>) -> Self {
        Self {
            log: Some(log),
            ..self
        }
    }

    /// Requests leave their spans here, while the configuration has `traces`.
    #[must_use]
    pub fn tracing_to(self, traces: Option<Arc<Traces>>) -> Self {
        Self { traces, ..self }
    }

    /// Starts `threads` data-plane threads.
    ///
    /// # Errors
    /// A thread or its descriptors could not be made; those that run already are stopped.
    pub fn serve(self, driver: Handle, threads: usize) -> io::Result<Proxy> {
        let (_, InForce { config, access }) = driver.config().get();
        if config.auth.is_some() && access.is_none() {
            return Err(io::Error::other(
                "auth is configured, and nobody was named who may",
            ));
        }
        let (stage, stages) = watch::channel(Stage::Serving);
        let (running, done) = mpsc::channel(1);
        let threads = threads.max(1);
        let places = Arc::new(Places::new(config.network.max_connections));
        let mut proxy = Proxy {
            stage,
            done,
            threads: Vec::with_capacity(threads),
        };
        for index in 0..threads {
            let listener = self.listener.try_clone()?;
            let share = Share {
                tls: self.tls.clone(),
                observers: (self.log.clone(), self.traces.clone()),
                driver: driver.clone(),
                places: Arc::clone(&places),
                stages: stages.clone(),
                running: running.clone(),
            };
            let (built, outcome) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(move || share.run(listener, &built))?;
            proxy.threads.push(thread);
            outcome
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("a data-plane thread ended at once")))?;
        }
        Ok(proxy)
    }
}

/// What one thread is started with.
struct Share {
    tls: Option<Arc<Tls>>,
    observers: thread::Observers,
    driver: Handle,
    places: Arc<Places>,
    stages: watch::Receiver<Stage>,
    running: mpsc::Sender<()>,
}

impl Share {
    fn run(self, listener: TcpListener, built: &SyncSender<io::Result<()>>) {
        let Self {
            tls,
            observers,
            driver,
            places,
            stages,
            running,
        } = self;
        // Made on the thread that it stays on.
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
        {
            Ok(runtime) => runtime,
            Err(e) => {
                // Whoever started this thread waits for it.
                let _ = built.send(Err(e));
                return;
            }
        };
        let _ = built.send(Ok(()));
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let thread = thread::Thread::new(tls, observers, driver);
                    accept::run(thread, listener, places, stages).await;
                }
                Err(e) => tracing::error!(error = %e, "a data-plane thread cannot use the listening socket"),
            }
        });
        // The tasks go first, and with them every hold; only then is this thread done.
        drop(runtime);
        drop(running);
    }
}

/// The running data plane.
#[derive(Debug)]
pub struct Proxy {
    stage: watch::Sender<Stage>,
    /// Closes when the last thread is done.
    done: mpsc::Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Closes the listening socket and idle connections; requests and tunnels go on.
    pub fn stop_accepting(&self) {
        self.stage.send_if_modified(|stage| {
            let serving = *stage == Stage::Serving;
            if serving {
                *stage = Stage::Finishing;
            }
            serving
        });
    }

    /// Resolves when everything open is finished, or cut at `deadline`.
    pub async fn finish(mut self, deadline: Instant) {
        self.stop_accepting();
        if tokio::time::timeout_at(deadline, self.done.recv()).await.is_err() {
            self.stage.send_replace(Stage::Abort);
            // An aborted thread only drops its tasks, which never blocks.
            self.done.recv().await;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a data-plane thread panicked");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stage.send_replace(Stage::Abort);
    }
}
