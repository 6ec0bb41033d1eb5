//! One exchange with a worker: a request sent, an answer's head received, or why not.

use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::body::{Answer, ClientBody, Fate, Upload};
use super::code::{Code, Problem};
use super::http1::{Broken, Exchange, Http1};
use super::thread::ended;
use super::upstream::{Bound, CRASH_NEWS, WorkerIo};
use crate::config::Protocol;

pub(crate) const BROKEN_BODY: &str = "the request's body broke off or is malformed";

/// Why there is no answer from the worker.
pub(crate) enum Lost {
    Connect(io::Error),
    Exchange(Broken),
    /// As hyper tells it.
    Hyper(hyper::Error),
}

impl Lost {
    pub(crate) async fn problem(self, bound: &Bound, upload: &Upload) -> Problem {
        if upload.fate.get() != Fate::Sound {
            return Problem::new(Code::BadRequest, BROKEN_BODY);
        }
        if let Some(reason) = bound.session.wait_end_for(CRASH_NEWS).await {
            return ended(&reason);
        }
        match self {
            // It was not what its head had announced.
            Self::Exchange(Broken::Request(_)) => Problem::new(Code::BadRequest, BROKEN_BODY),
            Self::Connect(e) => Problem::new(
                Code::WorkerConnectionLost,
                format!("the worker cannot be reached: {e}"),
            ),
            Self::Exchange(Broken::Malformed(e)) => not_http(&e),
            Self::Exchange(e) => broke_off(&e),
            Self::Hyper(e) if e.is_parse() => not_http(&e),
            // One that does not know HTTP/2 does what one in trouble does.
            Self::Hyper(e) if bound.session.kind.protocol == Protocol::H2 => Problem::new(
                Code::WorkerConnectionLost,
                format!(
                    "the worker lives, but does not go on in HTTP/2, which `protocol: h2` says it speaks: {e}"
                ),
            ),
            Self::Hyper(e) => broke_off(&e),
        }
    }
}

fn not_http(error: &dyn std::error::Error) -> Problem {
    Problem::new(
        Code::BadWorkerAnswer,
        format!("the worker's answer is not HTTP: {error}"),
    )
}

fn broke_off(error: &dyn std::error::Error) -> Problem {
    Problem::new(
        Code::WorkerConnectionLost,
        format!("the worker lives, but closed the connection before it answered: {error}"),
    )
}

/// Sends a request and receives the head of its answer. Over a connection that idles it is sent in this call: what
/// is kept until the answer comes is small then.
pub(crate) fn send(
    bound: &Rc<Bound>,
    request: Request<ClientBody>,
) -> impl Future<Output = Result<Response<Answer>, Lost>> + use<> {
    let begun = match bound.session.kind.protocol {
        Protocol::Http1 => begin(bound, request).map_err(|request| {
            let afresh = send_afresh(Rc::clone(bound), *request);
            Box::pin(afresh) as Sending
        }),
        Protocol::H2 => Err(Box::pin(send_http2(Rc::clone(bound), request)) as Sending),
    };
    async move {
        match begun {
            Ok(exchange) => answered(exchange).await,
            Err(sending) => sending.await,
        }
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<Response<Answer>, Lost>>>>;

/// Over a connection that idles, if there is one that takes the request. One that has just been closed takes not a
/// byte of it.
fn begin(bound: &Bound, mut request: Request<ClientBody>) -> Result<Exchange, Box<Request<ClientBody>>> {
    while let Some(connection) = bound.pooled() {
        match connection.begin(request) {
            Ok(exchange) => return Ok(exchange),
            Err(unsent) => request = *unsent.request,
        }
    }
    Err(Box::new(request))
}

async fn answered(exchange: Exchange) -> Result<Response<Answer>, Lost> {
    match exchange.await {
        Ok(response) => Ok(response.map(Answer::Http1)),
        Err(broken) => Err(Lost::Exchange(broken)),
    }
}

async fn send_afresh(bound: Rc<Bound>, request: Request<ClientBody>) -> Result<Response<Answer>, Lost> {
    let connection: Http1 = bound.connect().await.map_err(Lost::Connect)?;
    match connection.begin(request) {
        Ok(exchange) => answered(exchange).await,
        Err(unsent) => Err(Lost::Exchange(unsent.error.into())),
    }
}

async fn send_http2(bound: Rc<Bound>, request: Request<ClientBody>) -> Result<Response<Answer>, Lost> {
    let mut sender = bound.http2().await.map_err(Lost::Connect)?;
    sender.ready().await.map_err(Lost::Hyper)?;
    let response = sender.send_request(request).await.map_err(Lost::Hyper)?;
    Ok(response.map(Answer::Hyper))
}

pub(crate) type Shaken = (Response<Incoming>, oneshot::Receiver<(WorkerIo, Bytes)>);

/// Sends an upgrade request over a connection of its own. The receiver yields the stream after a 101.
pub(crate) async fn shake_hands(bound: &Bound, request: Request<ClientBody>) -> Result<Shaken, Lost> {
    let io = WorkerIo::connect(&bound.session).await.map_err(Lost::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(hyper_util::rt::TokioIo::new(io))
        .await
        .map_err(Lost::Hyper)?;
    let (handover, worker) = oneshot::channel();
    tokio::task::spawn_local(async move {
        if let Ok(parts) = connection.without_shutdown().await {
            // Nobody waits for it unless the answer was 101.
            let _ = handover.send((parts.io.into_inner(), parts.read_buf));
        }
    });
    let response = sender.send_request(request).await.map_err(Lost::Hyper)?;
    Ok((response, worker))
}
