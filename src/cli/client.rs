//! The verbs' side of the control socket.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::config::paths::User;
use crate::control::views::Problem;
use crate::core::SessionId;
use crate::sys::pipe::unread;
use crate::worker::escape;

/// Which herd to talk to.
#[derive(Debug, clap::Args)]
pub(super) struct Control {
    /// Socket of the herd to talk to [default: /run/herd/control.sock for root, else herd/control.sock
    /// in $XDG_RUNTIME_DIR or /tmp/herd-UID/control.sock]
    #[arg(long, env = "HERD_CONTROL_SOCKET", value_name = "PATH")]
    control_socket: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("herd is not running (no control socket at {}); start it with `herd start`", .0.display())]
    NotRunning(PathBuf),
    #[error(
        "herd is not running (it left its control socket at {} behind); start it with `herd start`",
        .0.display()
    )]
    Dead(PathBuf),
    #[error("not allowed to use {}; run this as the user herd runs as, or as root", .0.display())]
    NotAllowed(PathBuf),
    #[error(
        "there is no herd at {}: it is no socket; --control-socket (or HERD_CONTROL_SOCKET) names herd's control socket",
        .0.display()
    )]
    NotSocket(PathBuf),
    #[error("cannot talk to herd at {}: {source}", .path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("herd has not answered for {} s: it may hang, or be overloaded", .0.as_secs())]
    Silent(Duration),
    #[error("herd went away: {0}")]
    Lost(#[source] hyper::Error),
    /// herd's own words, with the worker's last lines where a start failed.
    #[error("{}", refusal(.0))]
    Refused(Problem),
    #[error("herd's answer ({status}) is not understood: {reason}")]
    Answer { status: StatusCode, reason: String },
}

/// One connection to a running herd.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
    sender: SendRequest<Full<Bytes>>,
    /// Drives the connection; ends with the client.
    _connection: JoinSet<()>,
}

impl Control {
    /// Connects and runs `verb` to its end.
    pub(super) fn run<T, F>(self, verb: impl FnOnce(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let path = self
            .control_socket
            .unwrap_or_else(|| User::current().control_socket());
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async { verb(Client::connect(path).await?).await })
    }

    /// The same for a verb that only tells, and may have nothing to tell for long: it ends with whoever reads its output.
    pub(super) fn run_while_read<T, F>(self, verb: impl FnOnce(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        self.run(|client| async {
            tokio::select! {
                outcome = verb(client) => outcome,
                () = unread(io::stdout()) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            }
        })
    }
}

/// The kernel refuses connections to what is no socket as it does to a socket that nobody listens at.
fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

impl Client {
    pub(super) async fn connect(path: PathBuf) -> Result<Self, ClientError> {
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(source) => {
                return Err(match source.kind() {
                    io::ErrorKind::NotFound => ClientError::NotRunning(path),
                    io::ErrorKind::ConnectionRefused if is_socket(&path) => ClientError::Dead(path),
                    io::ErrorKind::ConnectionRefused => ClientError::NotSocket(path),
                    io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path),
                    _ => ClientError::Connect { path, source },
                });
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Lost)?;
        let mut driver = JoinSet::new();
        driver.spawn(async {
            // Whoever waits for an answer on it hears of its failure.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self {
            path,
            sender,
            _connection: driver,
        })
    }

    /// Another connection to the same herd, for while an answer is being read on this one.
    pub(super) async fn another(&self) -> Result<Self, ClientError> {
        Self::connect(self.path.clone()).await
    }

    /// herd's answer, whatever it is, to a request that somebody else has made.
    pub(super) async fn pass(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.sender.send_request(request).await.map_err(ClientError::Lost)
    }

    /// The answer's body, as it comes.
    pub(super) async fn stream(&mut self, method: Method, path: &str) -> Result<Incoming, ClientError> {
        self.send(method, path, Bytes::new()).await
    }

    /// With a body of JSON, unless it is empty.
    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let answer = self.answer(method, path, HeaderMap::new(), body).await?;
        Ok(answer.into_body())
    }

    /// A WebSocket (RFC 6455, 4.1), whose handshake is done.
    pub(super) async fn upgrade(
        &mut self,
        path: &str,
        protocol: &'static str,
    ) -> Result<Upgraded, ClientError> {
        let key = generate_key();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (CONNECTION, "upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_PROTOCOL, protocol),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let not_understood = |reason: &str| ClientError::Answer {
            status: StatusCode::SWITCHING_PROTOCOLS,
            reason: reason.to_owned(),
        };
        headers.insert(
            SEC_WEBSOCKET_KEY,
            key.parse().map_err(|_| not_understood("no key for it"))?,
        );
        let answer = self.answer(Method::GET, path, headers, Bytes::new()).await?;
        let has = |name: &HeaderName, value: &str| answer.headers().get(name).is_some_and(|has| has == value);
        if !has(&SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes()))
            || !has(&SEC_WEBSOCKET_PROTOCOL, protocol)
        {
            return Err(not_understood(
                "it is no WebSocket of the kind that was asked for",
            ));
        }
        hyper::upgrade::on(answer).await.map_err(ClientError::Lost)
    }

    /// One that is no failure.
    async fn answer(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let json = !body.is_empty();
        let mut request = Request::new(Full::new(body));
        *request.headers_mut() = headers;
        *request.method_mut() = method;
        *request.uri_mut() = path
            .parse()
            .map_err(|error: http::uri::InvalidUri| ClientError::Answer {
                status: StatusCode::BAD_REQUEST,
                reason: format!("{error}: {}", escape(path.as_bytes())),
            })?;
        request
            .headers_mut()
            .insert(http::header::HOST, http::HeaderValue::from_static("herd"));
        if json {
            let json = http::HeaderValue::from_static("application/json");
            request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        }
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(ClientError::Lost)?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(ClientError::Lost)?
            .to_bytes();
        Err(match serde_json::from_slice(&body) {
            Ok(problem) => ClientError::Refused(problem),
            Err(error) => ClientError::Answer {
                status,
                reason: error.to_string(),
            },
        })
    }

    pub(super) async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        self.ask_with(method, path, Bytes::new()).await
    }

    pub(super) async fn ask_with<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let body = self
            .send(method, path, body)
            .await?
            .collect()
            .await
            .map_err(ClientError::Lost)?
            .to_bytes();
        serde_json::from_slice(&body).map_err(|error| ClientError::Answer {
            status: StatusCode::OK,
            reason: error.to_string(),
        })
    }
}

/// The lines of an answer, as they come.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    text: Vec<u8>,
}

impl Lines {
    pub(super) fn of(body: Incoming) -> Self {
        Self {
            body,
            text: Vec::new(),
        }
    }

    /// Without its line end; `None` at the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.text) {
                let rest = self.text.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.text, rest);
                line.pop();
                return Ok(Some(line));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(ClientError::Lost)?.into_data() {
                        self.text.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// Where the API has this session, or what `rest` names of it, with the parameters that are given.
pub(super) fn session_path(session: &SessionId, rest: &str, parameters: &[(&str, Option<String>)]) -> String {
    let whose = ("principal", session.principal().map(str::to_owned));
    let parameters = [&[whose], parameters].concat();
    with_query(&format!("/v1/sessions/{}{rest}", session.id()), &parameters)
}

/// For clap: a wrong id is a usage error, told before anything is asked.
pub(super) fn session_id(text: &str) -> Result<SessionId, String> {
    SessionId::parse(text.as_bytes()).map_err(|error| error.to_string())
}

/// For clap: the name of a principal.
pub(super) fn principal(text: &str) -> Result<String, String> {
    match crate::core::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a principal is a name under `auth.keys:` in herd.yaml".to_owned()),
    }
}

/// For clap: the name of a worker kind.
pub(super) fn kind_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("a worker kind is a name under `workers:` in herd.yaml".to_owned());
    }
    Ok(text.to_owned())
}

/// A path with the parameters that are given.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

fn refusal(problem: &Problem) -> String {
    let mut text = escape(problem.detail.as_bytes()).into_owned();
    if !problem.log.is_empty() {
        text.push_str("\nthe worker's last lines:");
    }
    for line in &problem.log {
        text.push_str("\n  ");
        text.push_str(&escape(line.as_bytes()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_that_is_no_socket_is_not_taken_for_a_dead_herd() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [directory.path().to_owned(), file] {
            let error = Client::connect(path.clone()).await.unwrap_err();
            assert!(
                matches!(error, ClientError::NotSocket(_)),
                "{}: {error}",
                path.display()
            );
        }
        let left = directory.path().join("left");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        assert!(matches!(Client::connect(left).await, Err(ClientError::Dead(_))));
    }
}
