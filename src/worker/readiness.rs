//! When a starting worker may be given requests: it listens where it was told to, the listener is its own, and
//! its health path, if it has one, answers.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::config::{Kind, Protocol};
use crate::launcher::{Door, Keeper, sandbox};
use crate::sys::{listener, timer};

use super::endpoint::{Connection, Endpoint, InsideEndpoint, Standing, TcpEndpoint, standing};

/// The first probe comes at once. Then the pauses grow with the time that has passed, so that a worker is found ready a
/// tenth of its start too late at most.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
const OF_THE_TIME: u32 = 10;

/// One health request may take this long; a worker that hangs on one may answer the next.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// A listener is a stranger's when it was not found in the tree this often in a row: a process that is just
/// being forked can hide from one look.
const STRANGER_AFTER: u32 = 3;

/// Where the worker was told to listen.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Port(u16),
    Socket(Arc<PathBuf>),
    /// The fixed port, or the socket, of a sandbox with a network of its own; nobody else can be there.
    InsidePort,
    InsideSocket,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Ready(Endpoint),
    /// Somebody else listens on the worker's port.
    Stranger,
    /// herd has no descriptor free to look with: as for a process that cannot be made, nobody waits for one.
    Short(io::Error),
}

/// Probes until there is a verdict; `last` always tells what the latest probe saw.
pub(super) async fn verdict(
    kind: &Kind,
    target: &Target,
    keeper: &Arc<Keeper>,
    last: &RefCell<String>,
) -> Verdict {
    let began = Instant::now();
    let pause = || (began.elapsed() / OF_THE_TIME).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    let mut strange = 0;
    let mut inside = None;
    loop {
        match listening(target, keeper, &mut inside).await {
            Ok(endpoint) => match healthy(kind, &endpoint).await {
                Ok(()) => return Verdict::Ready(endpoint),
                Err(Unwell::Because(text)) => last.replace(text),
                Err(Unwell::Short(e)) => return Verdict::Short(e),
            },
            Err(NotYet::Because(text)) => last.replace(text),
            Err(NotYet::Short(e)) => return Verdict::Short(e),
            Err(NotYet::Stranger) => {
                strange += 1;
                if strange == STRANGER_AFTER {
                    return Verdict::Stranger;
                }
                timer::pause(pause()).await;
                continue;
            }
        };
        strange = 0;
        timer::pause(pause()).await;
    }
}

enum NotYet {
    Because(String),
    Stranger,
    Short(io::Error),
}

impl NotYet {
    fn failed(what: &str, e: io::Error) -> Self {
        match is_short(&e) {
            true => Self::Short(e),
            false => Self::Because(format!("{what}: {e}")),
        }
    }
}

/// Why a worker did not answer as it should.
pub(super) enum Unwell {
    Because(String),
    /// herd has no descriptor free to ask with.
    Short(io::Error),
}

fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// `inside` is a socket for questions about a sandbox's listeners, kept from one call to the next.
async fn listening(
    target: &Target,
    keeper: &Arc<Keeper>,
    inside: &mut Option<OwnedFd>,
) -> Result<Endpoint, NotYet> {
    match target {
        Target::InsidePort => inside_port(keeper, inside).await,
        Target::InsideSocket => match keeper.open(Door::Unix).await {
            Ok(_) => Ok(Endpoint::Inside(InsideEndpoint::socket(Arc::clone(keeper)))),
            Err(e) => Err(NotYet::failed("connecting to the worker's socket", e)),
        },
        Target::Port(port) => on_port(*port, keeper).await,
        Target::Socket(path) => {
            let endpoint = Endpoint::Unix(Arc::clone(path));
            match endpoint.connect().await {
                Ok(_) => Ok(endpoint),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    Err(NotYet::Because(format!("{} does not exist", path.display())))
                }
                Err(e) => Err(NotYet::failed(&format!("connecting to {}", path.display()), e)),
            }
        }
    }
}

async fn inside_port(keeper: &Arc<Keeper>, inside: &mut Option<OwnedFd>) -> Result<Endpoint, NotYet> {
    let unheard = |e| NotYet::failed("cannot ask for the sandbox's listeners", e);
    let socket = match inside.take() {
        Some(socket) => socket,
        None => keeper.open(Door::Listeners).await.map_err(unheard)?,
    };
    let mut found = None;
    for addr in loopback(sandbox::PORT) {
        match listener::at_from(&socket, addr) {
            Ok(Some(_)) => found = found.or(Some(addr)),
            Ok(None) => {}
            Err(e) if addr.is_ipv6() && !is_short(&e) => {
                tracing::debug!("cannot ask for listeners at {addr}: {e}")
            }
            Err(e) => return Err(unheard(e)),
        }
    }
    *inside = Some(socket);
    match found {
        Some(addr) => Ok(Endpoint::Inside(InsideEndpoint::port(addr, Arc::clone(keeper)))),
        None => Err(NotYet::Because(format!(
            "nothing listens on port {} in the sandbox",
            sandbox::PORT
        ))),
    }
}

fn loopback(port: u16) -> [SocketAddr; 2] {
    [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ]
}

/// Asks the kernel instead of connecting: a worker without a health path sees no connection that is not a
/// client's, and a stranger sees none at all.
async fn on_port(port: u16, keeper: &Arc<Keeper>) -> Result<Endpoint, NotYet> {
    for addr in loopback(port) {
        match standing(addr, keeper).await {
            Ok(Standing::Proven(listener)) => {
                return Ok(Endpoint::Tcp(TcpEndpoint::new(
                    addr,
                    listener,
                    Arc::clone(keeper),
                )));
            }
            // On the second address a stranger is no obstacle: the worker may still come on the first.
            Ok(Standing::Stranger) if addr.is_ipv4() => return Err(NotYet::Stranger),
            Ok(Standing::Unknown(processes)) => {
                return Err(NotYet::Because(format!(
                    "something listens at {addr}, and {processes} processes of the worker do not let herd see \
                     whether it is theirs"
                )));
            }
            Ok(Standing::Nobody | Standing::Stranger) => {}
            // No IPv6 on this host.
            Err(e) if addr.is_ipv6() && !is_short(&e) => {}
            Err(e) => return Err(NotYet::failed(&format!("cannot ask who listens at {addr}"), e)),
        }
    }
    Err(NotYet::Because(format!("nothing listens on port {port}")))
}

async fn healthy(kind: &Kind, endpoint: &Endpoint) -> Result<(), Unwell> {
    let Some(path) = &kind.health_path else {
        return Ok(());
    };
    ask(endpoint, kind.protocol, path, PROBE_LIMIT).await
}

/// Asks for `path`; well is who answers 200 to 399 within `limit`.
pub(super) async fn ask(
    endpoint: &Endpoint,
    protocol: Protocol,
    path: &str,
    limit: Duration,
) -> Result<(), Unwell> {
    let because = |text| Unwell::Because(format!("GET {path}{text}"));
    let probe = async {
        let connection = endpoint.connect().await.map_err(|e| match is_short(&e) {
            true => Unwell::Short(e),
            false => because(format!(": connecting: {e}")),
        })?;
        let asked = match connection {
            Connection::Tcp(stream) => status(stream, protocol, path).await,
            Connection::Unix(stream) => status(stream, protocol, path).await,
        };
        asked.map_err(|text| because(format!(": {text}")))
    };
    match tokio::time::timeout(limit, probe).await {
        Ok(Ok(status)) if (200..400).contains(&status.as_u16()) => Ok(()),
        Ok(Ok(status)) => Err(because(format!(" answered {status}"))),
        Ok(Err(unwell)) => Err(unwell),
        Err(_) => Err(because(format!(" was not answered within {limit:?}"))),
    }
}

async fn status<S>(stream: S, protocol: Protocol, path: &str) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = TokioIo::new(stream);
    // Dropped, and with it the connection, once the head of the answer is here.
    let mut connection = JoinSet::new();
    let failed = |e: hyper::Error| e.to_string();
    let response = match protocol {
        Protocol::Http1 => {
            let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
            connection.spawn_local(driver);
            let request = Request::get(path)
                .header(header::HOST, "localhost")
                .header(header::CONNECTION, "close")
                .body(Empty::<Bytes>::new())
                .map_err(|e| e.to_string())?;
            sender.send_request(request).await.map_err(failed)?
        }
        Protocol::H2 => {
            let (mut sender, driver) = hyper::client::conn::http2::handshake(OwnThread, io)
                .await
                .map_err(failed)?;
            connection.spawn_local(driver);
            let request = Request::get(format!("http://localhost{path}"))
                .body(Empty::<Bytes>::new())
                .map_err(|e| e.to_string())?;
            sender.send_request(request).await.map_err(failed)?
        }
    };
    Ok(response.status())
}

/// Runs the tasks of an h2 connection on this thread; they end with the connection.
#[derive(Debug, Clone, Copy)]
struct OwnThread;

impl<F> hyper::rt::Executor<F> for OwnThread
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
