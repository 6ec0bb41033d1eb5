//! Answers of workers against hyper's client: what both read, they must read alike, and in whatever pieces it comes it
//! must be the same.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Method, Request};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};

use crate::proxy::http1::answer::{Parsed, Piece, Remaining, Wanted, parse};

use super::http1::LONGEST;

/// A connection that is polled this often with its whole input at hand is going nowhere.
const POLLS_MAX: usize = 10_000;

/// An answer as far as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    status: u16,
    fields: usize,
    body: Vec<u8>,
    /// `false`: it was malformed or broke off in its body.
    whole: bool,
}

/// The first byte chooses the request, the rest is what the worker says.
pub fn answer(input: &[u8]) {
    let Some((first, input)) = input.split_first() else {
        return;
    };
    let input = &input[..input.len().min(LONGEST)];
    let (method, wanted) = match first % 2 {
        0 => (Method::GET, Wanted::Whole),
        _ => (Method::HEAD, Wanted::Head),
    };
    let at_once = read(input, wanted, input.len().max(1));
    for step in [1, 7] {
        let slowly = read(input, wanted, step);
        assert_eq!(
            at_once,
            slowly,
            "in steps of {step} bytes: {}",
            input.escape_ascii()
        );
    }
    if let (Some(ours), Some(theirs)) = (at_once, hyper(input, method)) {
        let shown = input.escape_ascii();
        assert_eq!(ours.status, theirs.status, "{shown}");
        if ours.whole && theirs.whole {
            assert_eq!(
                ours.body.escape_ascii().to_string(),
                theirs.body.escape_ascii().to_string(),
                "{shown}"
            );
        }
    }
}

/// What herd reads when `step` bytes come at a time; `None`: no head.
fn read(input: &[u8], wanted: Wanted, step: usize) -> Option<Seen> {
    let mut have = Vec::new();
    let mut pieces = input.chunks(step);
    let (head, mut rest) = loop {
        let bytes = Bytes::copy_from_slice(&have);
        match parse(&bytes, wanted, HeaderMap::new()).ok()? {
            Parsed::Partial => have.extend_from_slice(pieces.next()?),
            Parsed::Interim(len, _) => drop(have.drain(..len)),
            Parsed::Final(head) => {
                let mut rest = bytes;
                rest.advance(head.len);
                break (head, rest);
            }
        }
    };
    let mut remaining: Remaining = head.body;
    let mut seen = Seen {
        status: head.response.status().as_u16(),
        fields: head.response.headers().len(),
        body: Vec::new(),
        whole: false,
    };
    loop {
        match remaining.take(&mut rest) {
            Ok(Piece::Frame(frame)) => {
                if let Ok(data) = frame.into_data() {
                    seen.body.extend_from_slice(&data);
                }
            }
            Ok(Piece::End) => {
                seen.whole = true;
                return Some(seen);
            }
            Ok(Piece::More) => match pieces.next() {
                Some(piece) => rest = Bytes::copy_from_slice(piece),
                None => {
                    seen.whole = remaining.may_end();
                    return Some(seen);
                }
            },
            Err(_) => return Some(seen),
        }
    }
}

/// What hyper reads; `None`: no head.
fn hyper(input: &[u8], method: Method) -> Option<Seen> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = pin!(hyper::client::conn::http1::handshake(Wire(
        Bytes::copy_from_slice(input)
    )));
    let Poll::Ready(Ok((mut sender, connection))) = handshake.as_mut().poll(&mut cx) else {
        panic!("a handshake of HTTP/1 waits for nobody");
    };
    let mut connection = pin!(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    let mut response = pin!(sender.send_request(request));
    let mut body = None;
    let mut seen = None::<Seen>;
    for _ in 0..POLLS_MAX {
        let closed = connection.as_mut().poll(&mut cx).is_ready();
        if body.is_none() {
            match response.as_mut().poll(&mut cx) {
                Poll::Ready(Ok(answer)) => {
                    let (parts, incoming) = answer.into_parts();
                    seen = Some(Seen {
                        status: parts.status.as_u16(),
                        fields: parts.headers.len(),
                        body: Vec::new(),
                        whole: false,
                    });
                    body = Some(incoming);
                }
                Poll::Ready(Err(_)) => return None,
                Poll::Pending if closed => return None,
                Poll::Pending => continue,
            }
        }
        let (Some(body), Some(seen)) = (&mut body, &mut seen) else {
            continue;
        };
        while let Poll::Ready(next) = Pin::new(&mut *body).poll_frame(&mut cx) {
            match next {
                None => {
                    seen.whole = true;
                    return Some(seen.clone());
                }
                Some(Err(_)) => return Some(seen.clone()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        seen.body.extend_from_slice(&data);
                    }
                }
            }
        }
    }
    panic!("hyper does not end: {}", input.escape_ascii());
}

/// Gives its bytes, then the end; takes everything.
#[derive(Debug)]
struct Wire(Bytes);

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let here = self.0.len().min(buf.remaining());
        buf.put_slice(&self.0.split_to(here));
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
