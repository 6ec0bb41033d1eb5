//! One exchange with a worker: a request sent, an answer's head received, or why not.

use std::io;
use std::pin::Pin;
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

/// An answer's head, and the HTTP/1 connection that its body comes over.
pub(crate) type Answer = (Response<Incoming>, Option<Http1>);

/// Sends a request and receives the head of its answer. Over a connection that idles it is sent in this call: what
/// is kept until the answer comes is small then.
pub(crate) fn send(
    bound: &Rc<Bound>,
    request: Request<ClientBody>,
) -> impl Future<Output = Result<Answer, Lost>> + use<> {
    let bound = Rc::clone(bound);
    let begun = match bound.session.kind.protocol {
        Protocol::Http1 => match bound.pooled() {
            Some(connection) => Ok(connection.begin(request)),
            None => Err(Box::pin(send_http1_afresh(Rc::clone(&bound), request)) as Sending),
        },
        Protocol::H2 => Err(Box::pin(send_http2(Rc::clone(&bound), request)) as Sending),
    };
    async move {
        match begun {
            Ok(begun) => match begun.await {
                Ok((response, connection)) => Ok((response, Some(connection))),
                Err(mut e) => match e.take_message() {
                    // Not a byte of it was written: the idle connection had been closed meanwhile.
                    Some(unsent) => Box::pin(send_http1_again(bound, unsent)).await,
                    None => Err(Lost::Exchange(e.into_error())),
                },
            },
            Err(sending) => sending.await,
        }
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<Answer, Lost>>>>;

/// Other idle connections may have been closed as well.
async fn send_http1_again(bound: Rc<Bound>, mut request: Request<ClientBody>) -> Result<Answer, Lost> {
    while let Some(connection) = bound.pooled() {
        match connection.begin(request).await {
            Ok((response, connection)) => return Ok((response, Some(connection))),
            Err(mut e) => match e.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(Lost::Exchange(e.into_error())),
            },
        }
    }
    send_http1_afresh(bound, request).await
}

async fn send_http1_afresh(bound: Rc<Bound>, request: Request<ClientBody>) -> Result<Answer, Lost> {
    let connection = bound.connect().await.map_err(Lost::Connect)?;
    let (response, connection) = connection
        .begin(request)
        .await
        .map_err(|e| Lost::Exchange(e.into_error()))?;
    Ok((response, Some(connection)))
}

async fn send_http2(bound: Rc<Bound>, request: Request<ClientBody>) -> Result<Answer, Lost> {
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
