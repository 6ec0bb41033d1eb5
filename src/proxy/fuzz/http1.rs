//! The framing of HTTP/1 requests against hyper's: a message that both read must end at the same byte, or what
//! one takes for a body the other takes for a request.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;

use crate::proxy::code::Code;
use crate::proxy::framing::{BodyFraming, Chunks, Head, Limits};

pub(super) const LIMITS: Limits = Limits {
    size: 4096,
    fields: 24,
};
/// More bytes show nothing that fewer do not.
pub(super) const LONGEST: usize = 16 * 1024;
const SENTINEL: &[u8] = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n";
/// A connection that is polled this often with its whole input at hand is going nowhere.
const POLLS_MAX: usize = 10_000;

/// A complete request, where it stands in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    head: Range<usize>,
    framing: BodyFraming,
    body: Range<usize>,
}

/// Why there is no further message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Refused(Code, String),
    BadChunk,
    /// The input is over, within a message or between two.
    Over,
}

/// What a request was to hyper.
#[derive(Debug)]
struct Seen {
    method: Method,
    uri: Uri,
    version: Version,
    fields: usize,
    body: Vec<u8>,
    /// `false`: hyper gave up in the middle of the body.
    whole: bool,
}

/// Any bytes as a connection's input.
pub fn http1(input: &[u8]) {
    let input = &input[..input.len().min(LONGEST)];
    let (messages, end) = walk(input, input.len().max(1));
    for step in [1, 7] {
        let (other, other_end) = walk(input, step);
        assert_eq!(
            messages, other,
            "in steps of {step} bytes there are other messages"
        );
        assert_eq!(end, other_end, "in steps of {step} bytes they end otherwise");
    }
    for message in &messages {
        compare(input, message);
    }
}

/// The messages that herd lets through, when `step` bytes come at a time.
pub(super) fn walk(input: &[u8], step: usize) -> (Vec<Message>, End) {
    let mut messages = Vec::new();
    let (mut at, mut available) = (0, 0);
    'message: loop {
        let mut head = Head::default();
        let (length, framing) = loop {
            match head.judge(&input[at..available], LIMITS) {
                Ok(Some(found)) => break found,
                Ok(None) if available == input.len() => return (messages, End::Over),
                Ok(None) => available = (available + step).min(input.len()),
                Err(problem) => return (messages, End::Refused(problem.code, problem.detail)),
            }
        };
        let body = at + length;
        let mut end = body;
        let mut chunks = Chunks::new();
        loop {
            let done = match framing {
                BodyFraming::Length(whole) => {
                    let here = (whole - (end - body) as u64).min((available - end) as u64);
                    end += usize::try_from(here).unwrap();
                    (end - body) as u64 == whole
                }
                BodyFraming::Chunked => match chunks.advance(&input[end..available]) {
                    Ok(here) => {
                        end += here;
                        chunks == Chunks::Done
                    }
                    Err(_) => return (messages, End::BadChunk),
                },
            };
            if done {
                messages.push(Message {
                    head: at..body,
                    framing,
                    body: body..end,
                });
                at = end;
                continue 'message;
            }
            if available == input.len() {
                return (messages, End::Over);
            }
            available = (available + step).min(input.len());
        }
    }
}

/// hyper gets the message, and right behind it another one.
fn compare(input: &[u8], message: &Message) {
    let head = &input[message.head.clone()];
    let body = &input[message.body.clone()];
    let wire = [head, body, SENTINEL].concat();
    let seen = serve(&wire);
    let shown = || format!("{}\n{seen:#?}", wire.escape_ascii());
    let [first, rest @ ..] = seen.as_slice() else {
        panic!("hyper refuses a head that herd lets through: {}", shown());
    };

    let text = head.trim_ascii_start();
    let mut line = text.split(|b| *b == b'\r').next().unwrap().split(|b| *b == b' ');
    assert_eq!(
        first.method.as_str().as_bytes(),
        line.next().unwrap(),
        "{}",
        shown()
    );
    assert_eq!(
        first.uri,
        Uri::try_from(line.next().unwrap()).unwrap(),
        "{}",
        shown()
    );
    let fields = text
        .split(|b| *b == b'\n')
        .filter(|line| line.contains(&b':'))
        .count();
    let in_target = usize::from(text.split(|b| *b == b'\n').next().unwrap().contains(&b':'));
    assert_eq!(first.fields, fields - in_target, "{}", shown());

    let meant = match message.framing {
        BodyFraming::Length(_) => body.to_vec(),
        BodyFraming::Chunked => unchunked(body),
    };
    if !first.whole {
        // hyper is stricter about what stands around the chunks. It then gives up the connection, and herd the request.
        assert_eq!(message.framing, BodyFraming::Chunked, "{}", shown());
        assert!(meant.starts_with(&first.body), "{}", shown());
        assert!(rest.is_empty(), "{}", shown());
        return;
    }
    assert_eq!(
        first.body.escape_ascii().to_string(),
        meant.escape_ascii().to_string()
    );
    match rest {
        [next] => assert_eq!(next.uri, "/sentinel", "{}", shown()),
        // Neither keeps the connection: nothing follows on it.
        [] => assert!(
            first.version == Version::HTTP_10 || head.to_ascii_lowercase().windows(5).any(|w| w == b"close"),
            "{}",
            shown()
        ),
        _ => panic!("one message was several to hyper: {}", shown()),
    }
}

/// The content of a chunked body that is known to be well formed.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = body.iter().position(|b| *b == b'\n').unwrap();
        let digits = body[..line].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&body[..digits]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&body[line + 1..][..size]);
        body = &body[line + 1 + size + 2..];
    }
}

/// All that hyper makes of `wire`.
fn serve(wire: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (parts, mut body) = request.into_parts();
            let (mut content, mut whole) = (Vec::new(), true);
            while let Some(frame) = body.frame().await {
                match frame.map(hyper::body::Frame::into_data) {
                    Ok(Ok(data)) => content.extend_from_slice(&data),
                    Ok(Err(_trailers)) => {}
                    Err(_) => {
                        whole = false;
                        break;
                    }
                }
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            if parts.method == Method::CONNECT {
                // A success would end HTTP on this connection.
                *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
            }
            seen.borrow_mut().push(Seen {
                method: parts.method,
                uri: parts.uri,
                version: parts.version,
                fields: parts.headers.len(),
                body: content,
                whole,
            });
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        Builder::new()
            .header_read_timeout(None)
            .max_headers(LIMITS.fields)
            .half_close(true)
            .serve_connection(Wire(wire), service)
    );
    let mut cx = Context::from_waker(Waker::noop());
    let polls = (0..POLLS_MAX).find(|_| connection.as_mut().poll(&mut cx).is_ready());
    assert!(polls.is_some(), "hyper does not end: {}", wire.escape_ascii());
    seen.take()
}

/// Gives its bytes, then the end; takes everything.
#[derive(Debug)]
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let here = self.0.len().min(buf.remaining());
        buf.put_slice(&self.0[..here]);
        self.0 = &self.0[here..];
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire<'_> {
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
