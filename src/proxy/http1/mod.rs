//! A connection to an HTTP/1 worker, which serves one exchange at a time.
//!
//! ```text
//! begin ─▶ Exchange ──head of the answer──▶ the connection again, with the answer's body ──over──▶ idle
//!             └── request's body goes out meanwhile, and longer if the worker answers early ──┘
//! ```
//!
//! Not hyper's: a proxy needs neither its queue in front of the connection nor its channel behind, and while it
//! idles, a connection is nothing but its socket. Whoever has the exchange drives it, in its own task.

pub(super) mod answer;
mod outgoing;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::body::ClientBody;
use super::scratch;
use super::upstream::WorkerIo;
use answer::{MAX_HEAD, Malformed, Parsed, Piece, Remaining, Wanted};
use outgoing::{Framing, Outgoing, Stopped};

/// Most bytes of a large body that are read at once.
const BULK: usize = 256 * 1024;
/// Reads that bring less than this are no bulk: an exact copy of them is cheaper than what it takes to read in place.
const LITTLE: usize = 16 * 1024;

thread_local! {
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// For what only changes while it is not waited for.
fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Why an exchange has come to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the connection was closed in the middle of a message")]
    Closed,
    /// The request could not be sent to its end.
    #[error("the request's body broke off")]
    Request(#[source] Option<hyper::Error>),
}

/// A request of which not one byte could be written.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) request: Box<Request<ClientBody>>,
    pub(crate) error: io::Error,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Http1 {
    io: WorkerIo,
    /// What is still to be sent of the request.
    outgoing: Option<Box<Outgoing>>,
    /// Read, and not taken yet.
    input: Bytes,
    remaining: Remaining,
    /// Another exchange may follow.
    keep: bool,
    /// How much is read at once in place, into `buffer`; zero while little comes.
    bulk: usize,
    buffer: BytesMut,
}

impl Http1 {
    pub(crate) fn new(io: WorkerIo) -> Self {
        Self {
            io,
            outgoing: None,
            input: Bytes::new(),
            remaining: Remaining::Nothing,
            keep: true,
            bulk: 0,
            buffer: BytesMut::new(),
        }
    }

    /// Sends a request; most are sent when this returns.
    pub(crate) fn begin(mut self, request: Request<ClientBody>) -> Result<Exchange, Unsent> {
        let (parts, body) = request.into_parts();
        let written = WRITE.with_borrow_mut(|head| {
            head.clear();
            let framing = outgoing::encode(&parts, &body, head);
            let sent = match framing {
                Framing::Nothing => match self.io.try_write(head) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(error),
                },
                // Goes together with the first of the body.
                Framing::Length(_) | Framing::Chunked => 0,
            };
            Ok((framing, head[sent..].to_vec()))
        });
        let (framing, rest) = match written {
            Ok(written) => written,
            Err(error) => {
                let request = Box::new(Request::from_parts(parts, body));
                return Err(Unsent { request, error });
            }
        };
        if framing != Framing::Nothing || !rest.is_empty() {
            self.outgoing = Some(Box::new(Outgoing::new(rest, body, framing, &parts.headers)));
        }
        let wanted = Wanted::by(&parts.method);
        // Its room is used again, for the answer.
        let mut headers = parts.headers;
        headers.clear();
        Ok(Exchange {
            connection: Some(self),
            wanted,
            headers,
            partial: BytesMut::new(),
        })
    }

    /// Goes on with the request. Only the request's own breaking off is an error: a worker that takes no more may
    /// have answered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let Some(outgoing) = &mut self.outgoing else {
            return Ok(());
        };
        match outgoing.poll(cx, &mut self.io) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Stopped::Body(cut))) => return Err(Broken::Request(cut)),
            Poll::Ready(Err(Stopped::Worker(error))) => {
                tracing::trace!(%error, "the worker does not take the whole request");
                self.keep = false;
            }
        }
        self.outgoing = None;
        Ok(())
    }

    /// What comes next; nothing at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if self.bulk == 0 {
            return scratch::lent(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
                if buf.remaining() == 0 {
                    self.bulk = 2 * scratch::SIZE;
                }
                Poll::Ready(Ok(Bytes::copy_from_slice(buf.filled())))
            });
        }
        // What was read before has mostly been sent on, and its room is free again.
        self.buffer.reserve(self.bulk);
        let room = self.buffer.capacity();
        let n = ready!(pin!(self.io.read_buf(&mut self.buffer)).poll(cx))?;
        let read = self.buffer.split().freeze();
        if n < LITTLE {
            self.bulk = 0;
            self.buffer = BytesMut::new();
        } else if n == room {
            self.bulk = BULK.min(2 * n);
        }
        Poll::Ready(Ok(read))
    }

    /// The next of the answer's body.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.poll_send(cx)?;
        loop {
            match self.remaining.take(&mut self.input)? {
                Piece::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Piece::End => return Poll::Ready(None),
                Piece::More => {}
            }
            self.input = ready!(self.poll_read(cx))?;
            if self.input.is_empty() {
                return Poll::Ready(match self.remaining.may_end() {
                    true => None,
                    false => Some(Err(Broken::Closed)),
                });
            }
        }
    }

    /// The answer's body is complete.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.remaining.is_over()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.remaining {
            Remaining::Nothing => SizeHint::with_exact(0),
            Remaining::Length(left) => SizeHint::with_exact(*left),
            Remaining::Chunked(_) | Remaining::ToEnd => SizeHint::default(),
        }
    }

    /// Only the worker's closing the connection ends the answer.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.remaining, Remaining::ToEnd)
    }

    /// The last exchange is over, and the worker is willing to have another.
    pub(crate) fn is_over(&self) -> bool {
        self.keep && self.outgoing.is_none() && self.remaining.is_over() && self.input.is_empty()
    }

    /// Of a connection that idles: the worker has neither closed it nor said what nobody asked for. Makes the socket
    /// forget who waited for it.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        Pin::new(&mut self.io)
            .poll_read(&mut quiet(), &mut ReadBuf::new(&mut byte))
            .is_pending()
    }

    /// The worker has answered before it had the whole request, and may want the rest.
    pub(crate) fn is_sending(&self) -> bool {
        self.outgoing.is_some() && self.remaining.is_over()
    }

    /// Sends the rest of a request that was answered early; ready when there is nobody left to send it to, either.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_send(cx).is_err() || self.outgoing.is_none() {
            return Poll::Ready(());
        }
        while let Ok(said) = ready!(self.poll_read(cx)) {
            if said.is_empty() {
                break;
            }
        }
        Poll::Ready(())
    }
}

/// A request that was sent, or is being sent, until the head of its answer is here.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// `None` once it is over.
    connection: Option<Http1>,
    wanted: Wanted,
    /// Empty.
    headers: HeaderMap,
    /// The beginning of a head that did not come at once.
    partial: BytesMut,
}

impl Future for Exchange {
    type Output = Result<Response<Http1>, Broken>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(connection) = &mut this.connection else {
            return Poll::Pending;
        };
        loop {
            connection.poll_send(cx)?;
            if connection.input.is_empty() {
                let read = ready!(connection.poll_read(cx))?;
                if read.is_empty() {
                    return Poll::Ready(Err(Broken::Closed));
                }
                match whole(&mut this.partial, read)? {
                    Some(input) => connection.input = input,
                    None => continue,
                }
            }
            match answer::parse(&connection.input, this.wanted, std::mem::take(&mut this.headers))? {
                Parsed::Partial => this.partial = std::mem::take(&mut connection.input).into(),
                Parsed::Interim(len, status) => {
                    bytes::Buf::advance(&mut connection.input, len);
                    if status == StatusCode::CONTINUE
                        && let Some(outgoing) = &mut connection.outgoing
                    {
                        outgoing.permit();
                    }
                }
                Parsed::Final(head) => {
                    bytes::Buf::advance(&mut connection.input, head.len);
                    connection.remaining = head.body;
                    connection.keep &= head.keep;
                    let response = head.response;
                    return Poll::Ready(match this.connection.take() {
                        Some(connection) => Ok(response.map(|()| connection)),
                        None => Err(Broken::Closed),
                    });
                }
            }
        }
    }
}

/// What has come so far, if it may have the end of a head.
fn whole(partial: &mut BytesMut, read: Bytes) -> Result<Option<Bytes>, Malformed> {
    if partial.is_empty() {
        return Ok(Some(read));
    }
    // An end that began in what was here before takes two bytes of it.
    let from = partial.len().saturating_sub(2);
    partial.extend_from_slice(&read);
    let new = &partial[from..];
    if memmem::find(new, b"\n\r\n").is_some() || memmem::find(new, b"\n\n").is_some() {
        return Ok(Some(std::mem::take(partial).freeze()));
    }
    match partial.len() > MAX_HEAD {
        true => Err(Malformed::TooLarge),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests;
