//! A request on its way to a worker: its head written out, its body framed as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST,
    MAX_FORWARDS, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use crate::proxy::body::ClientBody;
use crate::proxy::upstream::WorkerIo;

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, or no more of it.
    Nothing,
    Length(u64),
    Chunked,
}

/// Writes a head. What delimits the body is told by the body, not by the fields that came with it.
pub(super) fn encode(parts: &Parts, body: &ClientBody, into: &mut Vec<u8>) -> Framing {
    into.extend_from_slice(parts.method.as_str().as_bytes());
    into.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    into.extend_from_slice(target.as_bytes());
    into.extend_from_slice(b" HTTP/1.1\r\n");
    let framing = match (body.is_end_stream(), body.size_hint().exact()) {
        (true, _) => Framing::Nothing,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Chunked,
    };
    let mut sized = false;
    for (name, value) in &parts.headers {
        match *name {
            CONTENT_LENGTH => sized = true,
            TRANSFER_ENCODING => {}
            _ => field(name, value, into),
        }
    }
    match framing {
        Framing::Nothing if sized => into.extend_from_slice(b"content-length: 0\r\n"),
        Framing::Nothing => {}
        Framing::Length(length) => field(&CONTENT_LENGTH, &HeaderValue::from(length), into),
        Framing::Chunked => into.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    into.extend_from_slice(b"\r\n");
    framing
}

fn field(name: &HeaderName, value: &HeaderValue, into: &mut Vec<u8>) {
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Why no more of a request is sent.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The client's body broke off, or was not what was announced.
    Body(Option<hyper::Error>),
    /// The worker takes no more. It may have answered already.
    Worker(io::Error),
}

/// What is still to be sent of a request.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Goes before `data`.
    head: Vec<u8>,
    data: Bytes,
    /// Goes after it.
    tail: &'static [u8],
    body: ClientBody,
    framing: Framing,
    /// Trailers that the request has announced; others do not pass (RFC 9110 section 6.5.1).
    announced: Vec<HeaderName>,
}

impl Outgoing {
    /// `head` has been encoded, but for what was sent of it.
    pub(super) fn new(head: Vec<u8>, body: ClientBody, framing: Framing, fields: &HeaderMap) -> Self {
        let announced = match framing {
            Framing::Chunked => announced(fields),
            _ => Vec::new(),
        };
        Self {
            head,
            data: Bytes::new(),
            tail: b"",
            body,
            framing,
            announced,
        }
    }

    /// The worker has asked for the body.
    pub(crate) fn permit(&mut self) {
        self.body.permit();
    }

    /// Ready once all is sent.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, io: &mut WorkerIo) -> Poll<Result<(), Stopped>> {
        loop {
            let mut waiting = false;
            if self.framing != Framing::Nothing && self.data.is_empty() {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Pending => waiting = true,
                    Poll::Ready(None) => self.end(None)?,
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(Stopped::Body(Some(e)))),
                    Poll::Ready(Some(Ok(frame))) => self.frame(frame)?,
                }
            }
            ready!(self.poll_write(cx, io)).map_err(Stopped::Worker)?;
            if self.framing == Framing::Nothing {
                return Poll::Ready(Ok(()));
            }
            if waiting {
                return Poll::Pending;
            }
        }
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<(), Stopped> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        // An empty chunk would end the body.
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Nothing => return Err(Stopped::Body(None)),
            Framing::Length(left) => match left.checked_sub(data.len() as u64) {
                None => return Err(Stopped::Body(None)),
                Some(0) => self.framing = Framing::Nothing,
                Some(rest) => *left = rest,
            },
            Framing::Chunked => {
                self.head
                    .extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.tail = b"\r\n";
            }
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Stopped> {
        match std::mem::replace(&mut self.framing, Framing::Nothing) {
            Framing::Nothing => {}
            Framing::Length(_) => return Err(Stopped::Body(None)),
            Framing::Chunked => {
                self.head.extend_from_slice(b"0\r\n");
                for (name, value) in &trailers.unwrap_or_default() {
                    if self.announced.contains(name) {
                        field(name, value, &mut self.head);
                    }
                }
                self.head.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut WorkerIo) -> Poll<io::Result<()>> {
        while !self.head.is_empty() || !self.data.is_empty() || !self.tail.is_empty() {
            let pieces = [&self.head, &*self.data, self.tail].map(IoSlice::new);
            let mut n = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &pieces))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = n.min(self.head.len());
            self.head.drain(..of_head);
            n -= of_head;
            let of_data = n.min(self.data.len());
            self.data.advance(of_data);
            self.tail = &self.tail[n - of_data..];
        }
        Poll::Ready(Ok(()))
    }
}

/// The fields that `Trailer` names, without those that have no business there.
fn announced(fields: &HeaderMap) -> Vec<HeaderName> {
    let never = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        MAX_FORWARDS,
        SET_COOKIE,
        TRAILER,
        TRANSFER_ENCODING,
        TE,
    ];
    fields
        .get_all(TRAILER)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !never.contains(name))
        .collect()
}
