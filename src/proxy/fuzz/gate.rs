//! The gate in front of hyper, on a real socket: hyper serves exactly the messages that the framing found.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::http1::{End, LIMITS, LONGEST, walk};
use crate::proxy::gate::{Gate, Line};
use crate::proxy::transport::{Transport, Wire};

/// Far more than any input takes.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

/// The first byte says how the rest is cut into writes.
pub fn gate(input: &[u8]) {
    let Some((step, input)) = input.split_first() else {
        return;
    };
    let input = &input[..input.len().min(LONGEST)];
    let step = usize::from(*step) * 16 + 1;
    let (messages, end) = walk(input, input.len().max(1));
    RUNTIME.with(|runtime| runtime.block_on(through(input, step, messages.len(), &end)));
}

async fn through(input: &[u8], step: usize, messages: usize, end: &End) {
    let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    // The gate wants a TCP socket for its address family's sake only; a pair costs no port and no handshake.
    let server = TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(server))).unwrap();
    let line = Line::new();
    let server = Transport::Tcp(Wire::new(server));
    let gate = Gate::new(server, &[], LIMITS, Rc::clone(&line));
    let served = Rc::new(Cell::new(0));
    let broken = Rc::new(Cell::new(false));
    let closing = Rc::new(RefCell::new(None));
    let service = service_fn(|request: Request<Incoming>| {
        let (line, served, broken) = (Rc::clone(&line), Rc::clone(&served), Rc::clone(&broken));
        let closing = Rc::clone(&closing);
        async move {
            let last = request.version() == http::Version::HTTP_10
                || request.headers().get_all("connection").iter().any(|value| {
                    value
                        .as_bytes()
                        .to_ascii_lowercase()
                        .windows(5)
                        .any(|w| w == b"close")
                });
            let connect = *request.method() == Method::CONNECT;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    broken.set(true);
                    return Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()));
                }
            }
            served.set(served.get() + 1);
            line.served();
            if last {
                closing.replace(Some(()));
            }
            let mut response = Response::new(Empty::new());
            if connect {
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            Ok(response)
        }
    });
    let connection = Builder::new()
        .header_read_timeout(None)
        .max_headers(LIMITS.fields)
        .half_close(false)
        .serve_connection(gate, service);
    let mut connection = pin!(connection);
    let settled = async {
        let mut ended = false;
        for piece in input.chunks(step) {
            client.write_all(piece).unwrap();
            tokio::select! {
                biased;
                _ = connection.as_mut(), if !ended => ended = true,
                () = tokio::task::yield_now() => {}
            }
        }
        while !ended && !(served.get() == messages && (line.is_refused() || !matches!(end, End::Refused(..))))
        {
            tokio::select! {
                biased;
                _ = connection.as_mut() => ended = true,
                () = tokio::task::yield_now() => {}
            }
        }
        ended
    };
    let shown = || {
        format!(
            "{} of {messages} messages, then {end:?}: {}",
            served.get(),
            input.escape_ascii()
        )
    };
    let Ok(ended) = tokio::time::timeout(PATIENCE, settled).await else {
        panic!("the gate holds something back: {}", shown());
    };
    assert!(served.get() <= messages, "hyper found more: {}", shown());
    // What ends a connection early: a request that asked for it, or a chunked body that hyper does not take.
    assert!(
        served.get() == messages || ended && (closing.borrow().is_some() || broken.get()),
        "hyper left: {}",
        shown()
    );
    if served.get() == messages && !ended {
        assert_eq!(line.is_refused(), matches!(end, End::Refused(..)), "{}", shown());
    }
}
