//! `herd dashboard`: the control API's page, for the browser of somebody who may use its socket.
//!
//! Browsers open no UNIX sockets. This listens on loopback and passes on what comes with a token that is made anew each
//! time. Other users of this host can connect, too: without the token they get the page, which tells nothing. The token
//! stands in the URL's fragment, which browsers send to nobody; no browser is started here, because other users can read
//! its arguments.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::{Client, Control};
use super::show::{self, Output};
use crate::control::views::Version;
use crate::control::{Answer, Names, Problem, Way};

/// A browser opens six.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Whoever has not shown the token by then has to connect anew: strangers do not keep a place for longer.
const STRANGE: Duration = Duration::from_secs(30);
/// Between two attempts to accept when the process or the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// As large as herd takes one, bytes.
const BODY: usize = 64 << 10;

/// Serve the dashboard to a browser of this host, until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  $ herd dashboard
  http://127.0.0.1:41234/#key=qO3v…
  Open this address in a browser. …

  # From another machine; the address is then http://127.0.0.1:9000/#key=…
  ssh -t -L 9000:127.0.0.1:9000 server herd dashboard --port 9000

Exit codes: 0 after Ctrl-C, 1 failed (herd is not running, the port is taken),
2 wrong usage")]
pub struct Dashboard {
    /// Port of 127.0.0.1 to serve on; 0 takes a free one
    #[arg(short, long, default_value_t = 0)]
    port: u16,
    /// How to print the address
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

#[derive(Debug, Serialize)]
struct At {
    url: String,
}

impl Dashboard {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let token = token()?;
        self.control.run(|mut client| async move {
            // herd has to be there now. Later it may go and come again.
            let _: Version = client.ask(Method::GET, "/v1/version").await?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
                .await
                .with_context(|| format!("cannot listen on 127.0.0.1:{}", self.port))?;
            let url = format!("http://{}/#key={token}", listener.local_addr()?);
            match self.output {
                Output::Data(format) => format.print(&At { url })?,
                Output::Table => {
                    show::print(format!("{url}\n"))?;
                    eprintln!(
                        "Open this address in a browser. Whoever has it may do to this herd what you may; Ctrl-C ends it."
                    );
                }
            }
            let door = Arc::new(Door {
                token: Sha256::digest(&token).into(),
                names: Names::default(),
                client,
            });
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut connections = JoinSet::new();
            let mut accepting = Ok(());
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
                    _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                        match accepted {
                            Ok((stream, _)) => {
                                accepting = Ok(());
                                connections.spawn(serve(stream, Arc::clone(&door)));
                            }
                            // A browser that left at once, or no descriptor is free just now: others come later. Said once in a row.
                            Err(error) => {
                                if accepting != Err(error.kind()) {
                                    accepting = Err(error.kind());
                                    eprintln!("herd: cannot accept a connection: {error}");
                                }
                                sleep(ACCEPT_PAUSE).await;
                            }
                        }
                    }
                }
            }
        })
    }
}

/// 256 bits that nobody can guess, as they may stand in a URL.
fn token() -> anyhow::Result<String> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| anyhow::anyhow!("no randomness for a token: {error}"))?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bits))
}

async fn serve(stream: TcpStream, door: Arc<Door>) {
    let known = OnceLock::new();
    let service = service_fn(|request| {
        let (door, known) = (&door, &known);
        async move {
            if door.knows(&request) {
                // Not the first time: it is known already.
                let _ = known.set(());
            }
            Ok::<_, Infallible>(door.answer(request).await)
        }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    // An error is a browser that has left.
    if timeout(STRANGE, &mut connection).await.is_err() && known.get().is_some() {
        let _ = connection.await;
    }
}

/// What stands between the port and herd's socket.
#[derive(Debug)]
struct Door {
    /// Its SHA-256.
    token: [u8; 32],
    names: Names,
    client: Client,
}

type Broken = Box<dyn std::error::Error + Send + Sync>;
type Passed = Response<UnsyncBoxBody<Bytes, Broken>>;

impl Door {
    async fn answer(&self, request: Request<Incoming>) -> Passed {
        self.pass(request).await.unwrap_or_else(|problem| {
            Answer::from(problem).map(|body| body.map_err(Into::into).boxed_unsync())
        })
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Passed, Problem> {
        self.names.check(&request, Way::Port)?;
        let page = is_page(&request);
        if !page && !self.knows(&request) {
            return Err(Problem::unauthorized(
                "open the address that `herd dashboard` has printed; its token is that of another run, or missing",
            ));
        }
        let (mut head, body) = request.into_parts();
        for name in [AUTHORIZATION, CONNECTION, UPGRADE] {
            head.headers.remove(name);
        }
        // Of strangers, who may have the page, no body is waited for.
        let body = match page {
            true => {
                head.headers.remove(CONTENT_LENGTH);
                head.headers.remove(TRANSFER_ENCODING);
                Bytes::new()
            }
            false => Limited::new(body, BODY)
                .collect()
                .await
                .map_err(|error| Problem::bad_request(format!("the body did not come whole: {error}")))?
                .to_bytes(),
        };
        let unreachable = |error: super::client::ClientError| {
            Problem::new(StatusCode::BAD_GATEWAY, "herd_unreachable", error.to_string())
        };
        let mut client = self.client.another().await.map_err(unreachable)?;
        let request = Request::from_parts(head, Full::new(body));
        let answer = client.pass(request).await.map_err(unreachable)?;
        let (mut head, body) = answer.into_parts();
        head.headers.remove(CONNECTION);
        let body = Passing {
            body,
            _client: client,
        };
        Ok(Response::from_parts(
            head,
            body.map_err(Into::into).boxed_unsync(),
        ))
    }

    fn knows(&self, request: &Request<Incoming>) -> bool {
        let presented = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        presented.is_some_and(|presented| {
            let digest: [u8; 32] = Sha256::digest(presented).into();
            // All of it, always: how long it takes tells nothing.
            digest.iter().zip(self.token).fold(0, |all, (a, b)| all | (a ^ b)) == 0
        })
    }
}

/// The page itself has no data.
fn is_page(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    matches!(*request.method(), Method::GET | Method::HEAD)
        && (path == "/" || path.starts_with("/dashboard/"))
}

/// An answer on its way, and the connection that it comes by. A browser that leaves drops both, and herd notices.
struct Passing {
    body: Incoming,
    _client: Client,
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_token_is_long_always_another_and_fit_for_a_url() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 43);
        assert!(
            one.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }
    /// With a herd behind it that never answers.
    async fn door(dir: &std::path::Path) -> (Arc<Door>, tokio::net::UnixListener) {
        let path = dir.join("control.sock");
        let herd = tokio::net::UnixListener::bind(&path).unwrap();
        let door = Door {
            token: Sha256::digest("token").into(),
            names: Names::default(),
            client: Client::connect(path).await.unwrap(),
        };
        (Arc::new(door), herd)
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_keep_their_places_and_who_knows_the_token_does() {
        let dir = tempfile::tempdir().unwrap();
        let (door, _herd) = door(dir.path()).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        for (asked, ends) in [
            ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), true),
            (
                "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n\r\n"
                    .to_owned(),
                false,
            ),
        ] {
            let mut client = TcpStream::connect(at).await.unwrap();
            client.write_all(asked.as_bytes()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let served = timeout(STRANGE * 100, serve(stream, Arc::clone(&door))).await;
            assert_eq!(served.is_ok(), ends, "{asked}");
        }
    }
}
