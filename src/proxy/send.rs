//! One exchange with a worker: a request sent, an answer's head received, or why not.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::body::{ClientBody, Fate, Upload};
use super::code::{Code, Problem};
use super::thread::ended;
use super::upstream::{Bound, Http1, WorkerIo};
use crate::config::Protocol;

/// How long a broken worker connection may wait for the news that the worker crashed.
const NEWS: Duration = Duration::from_millis(250);
pub(crate) const BROKEN_BODY: &str = "the request's body broke off or is malformed";

/// Why there is no answer from the worker.
pub(crate) enum Lost {
    Connect(io::Error),
    Exchange(hyper::Error),
}

impl Lost {
    pub(crate) async fn problem(self, bound: &Bound, upload: &Upload) -> Problem {
        if upload.fate.get() != Fate::Sound {
            return Problem::new(Code::BadRequest, BROKEN_BODY);
        }
        if let Some(reason) = bound.session.wait_end_for(NEWS).await {
            return ended(&reason);
        }
        match self {
            Self::Connect(e) => Problem::new(
                Code::WorkerConnectionLost,
                format!("the worker cannot be reached: {e}"),
            ),
            Self::Exchange(e) if e.is_parse() => Problem::new(
                Code::BadWorkerAnswer,
                format!("the worker's answer is not HTTP: {e}"),
            ),
            Self::Exchange(e) => Problem::new(
                Code::WorkerConnectionLost,
                format!("the worker lives, but closed the connection before it answered: {e}"),
            ),
        }
    }
}

pub(crate) async fn send(
    bound: &Rc<Bound>,
    request: Request<ClientBody>,
) -> Result<(Response<Incoming>, Option<Http1>), Lost> {
    match bound.session.kind.protocol {
        Protocol::Http1 => send_http1(bound, request).await,
        Protocol::H2 => Box::pin(send_http2(bound, request)).await,
    }
}

async fn send_http1(
    bound: &Rc<Bound>,
    mut request: Request<ClientBody>,
) -> Result<(Response<Incoming>, Option<Http1>), Lost> {
    loop {
        let (mut connection, fresh) = match bound.pooled() {
            Some(connection) => (connection, false),
            None => (Box::pin(bound.connect()).await.map_err(Lost::Connect)?, true),
        };
        match connection.exchange(request).await {
            Ok(response) => return Ok((response, Some(connection))),
            Err(mut e) => match e.take_message() {
                // Not a byte of it was written: the pooled connection had been closed meanwhile.
                Some(unsent) if !fresh => request = unsent,
                _ => return Err(Lost::Exchange(e.into_error())),
            },
        }
    }
}

async fn send_http2(
    bound: &Bound,
    request: Request<ClientBody>,
) -> Result<(Response<Incoming>, Option<Http1>), Lost> {
    let mut sender = bound.http2().await.map_err(Lost::Connect)?;
    sender.ready().await.map_err(Lost::Exchange)?;
    let response = sender.send_request(request).await.map_err(Lost::Exchange)?;
    Ok((response, None))
}

pub(crate) type Shaken = (Response<Incoming>, oneshot::Receiver<(WorkerIo, Bytes)>);

/// Sends an upgrade request over a connection of its own. The receiver yields the stream after a 101.
pub(crate) async fn shake_hands(bound: &Bound, request: Request<ClientBody>) -> Result<Shaken, Lost> {
    let io = WorkerIo::connect(&bound.session.endpoint)
        .await
        .map_err(Lost::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(hyper_util::rt::TokioIo::new(io))
        .await
        .map_err(Lost::Exchange)?;
    let (handover, worker) = oneshot::channel();
    tokio::task::spawn_local(async move {
        if let Ok(parts) = connection.without_shutdown().await {
            // Nobody waits for it unless the answer was 101.
            let _ = handover.send((parts.io.into_inner(), parts.read_buf));
        }
    });
    let response = sender.send_request(request).await.map_err(Lost::Exchange)?;
    Ok((response, worker))
}
