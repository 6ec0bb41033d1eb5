//! The built-in worker, `herd runner`: a small HTTP server that keeps a value in memory, runs commands
//! with streamed output and echoes WebSockets.
//!
//! It is a **worker**, not a part of the proxy: herd starts it like any other program, knows nothing of
//! it but its port or socket, and kills it with everything it started. That is why this module, alone in
//! the crate, starts processes by itself, and why it uses nothing of herd's other modules but the alphabet of session ids.
//!
//! ```text
//! accept ──▶ one task per connection ──▶ router ──▶ value | run | echo
//!                                                   │
//!                     client leaves: the response body is dropped, and with it the command's
//!                     process group is killed
//! ```
//!
//! Deliberately not here: authentication and limits on what a command may do. Whoever reaches the
//! runner may run anything its user may; herd decides who reaches it, the sandbox what that means.

mod answer;
mod command;
mod echo;
mod listen;
mod output;
mod router;

use std::rc::Rc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

pub use listen::{Listen, ListenError};

use listen::Listener;
use router::Runner;

/// A request head must be complete within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot set up the runner: {0}")]
    Setup(#[source] std::io::Error),
    #[error("cannot accept connections on {listen}: {source}")]
    Accept { listen: String, source: std::io::Error },
}

/// Serves until SIGTERM or SIGINT, then lets running requests finish; a second signal ends at once.
pub fn run(listen: &Listen) -> Result<(), RunnerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunnerError::Setup)?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate()).map_err(RunnerError::Setup)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunnerError::Setup)?;
        let listener = Listener::bind(listen)?;
        let announced = listener.address();
        eprintln!("herd runner: pid {} listens on {announced}", std::process::id());
        serve(listener, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
        .map_err(|source| RunnerError::Accept {
            listen: announced,
            source,
        })
    })
}

/// Accepts until `signalled` resolves, which it may be made to do twice: the second time ends at once.
async fn serve(listener: Listener, signalled: impl Future<Output = ()>) -> std::io::Result<()> {
    let runner = Rc::new(Runner::default());
    let mut children = signal(SignalKind::child())?;
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut signalled = std::pin::pin!(signalled);
    loop {
        tokio::select! {
            () = &mut signalled => break,
            _ = children.recv() => runner.graveyard().sweep(),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    let connection = serve_connection(stream, Rc::clone(&runner), stopping.clone());
                    connections.spawn_local(connection);
                }
                // One connection that failed before it was accepted says nothing about the next.
                Err(error) if is_transient(&error) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let mut again = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            finished = connections.join_next() => if finished.is_none() { return Ok(()) },
            _ = again.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
        }
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        // Out of descriptors: those in use come back when connections close.
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

async fn serve_connection<S>(stream: S, runner: Rc<Runner>, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // The connection's own task serves the WebSocket too, so that no other task is needed.
    let upgrade = Rc::new(echo::Slot::default());
    let service = service_fn(|request| {
        let (runner, upgrade) = (Rc::clone(&runner), Rc::clone(&upgrade));
        async move { Ok::<_, std::convert::Infallible>(runner.answer(request, &upgrade).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = told(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    // A broken connection is the client's business; there is nobody left to tell.
    if served.is_ok()
        && let Some(upgrade) = upgrade.take()
        && let Ok(upgraded) = upgrade.await
    {
        echo::serve(upgraded, stopping).await;
    }
}

/// Resolves when the runner was told to stop.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}
