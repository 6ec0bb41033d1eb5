//! Answers in any number of pieces, and what is refused.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::answer::{Malformed, Parsed, Piece, Wanted, parse};
use super::*;
use crate::worker::Connection;

fn io(stream: UnixStream) -> WorkerIo {
    WorkerIo::new(Connection::Unix(stream), Arc::default())
}

/// Status, body and trailers of one answer, and whether its connection can be used again; `end` closes it.
async fn answer(
    method: &str,
    pieces: &[&[u8]],
    end: bool,
) -> Result<(u16, Vec<u8>, HeaderMap, bool), Broken> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let request = Request::builder()
        .method(method)
        .uri("/a?b")
        .body(ClientBody::empty())
        .unwrap();
    let exchange = Http1::new(io(ours)).begin(request).unwrap();
    let worker = async {
        let mut request = [0; 64];
        let n = theirs.read(&mut request).await.unwrap();
        assert_eq!(
            &request[..n],
            format!("{method} /a?b HTTP/1.1\r\n\r\n").as_bytes()
        );
        for piece in pieces {
            if theirs.write_all(piece).await.is_err() {
                // What came so far was refused already.
                break;
            }
            tokio::task::yield_now().await;
        }
        if end {
            drop(theirs);
            return None;
        }
        Some(theirs)
    };
    let client = async {
        let (parts, mut connection) = exchange.await?.into_parts();
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = std::future::poll_fn(|cx| connection.poll_frame(cx)).await {
            match frame?.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        let again = connection.is_over() && connection.is_quiet();
        Ok((parts.status.as_u16(), body, trailers, again))
    };
    let (_open, answer) = tokio::join!(worker, client);
    answer
}

/// In one piece, and byte by byte.
async fn both(method: &str, text: &str, end: bool) -> Result<(u16, String, HeaderMap, bool), Broken> {
    let whole = answer(method, &[text.as_bytes()], end).await;
    let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
    let slowly = answer(method, &bytes, end).await;
    match (&whole, &slowly) {
        (Ok(whole), Ok(slowly)) => assert_eq!(whole, slowly, "{text:?}"),
        (Err(whole), Err(slowly)) => assert_eq!(whole.to_string(), slowly.to_string(), "{text:?}"),
        _ => panic!("{text:?} is {whole:?} at once and {slowly:?} slowly"),
    }
    whole.map(|(status, body, trailers, again)| (status, String::from_utf8(body).unwrap(), trailers, again))
}

async fn read(text: &str, end: bool) -> (u16, String, bool) {
    let (status, body, _, again) = both("GET", text, end).await.unwrap();
    (status, body, again)
}

#[tokio::test]
async fn each_way_to_delimit_a_body_is_understood() {
    let ok = |body: &str, again| (200, body.to_owned(), again);
    for (text, end, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            false,
            ok("hi", true),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nhi",
            false,
            ok("hi", true),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            false,
            ok("", true),
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\nhi",
            false,
            ok("hi", false),
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            false,
            ok("hi", false),
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
            false,
            ok("hi", true),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhi", true, ok("hi", false)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
            false,
            ok("hi", true),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 7\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            false,
            ok("hi", false),
        ),
        (
            "HTTP/1.1 102 \r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            false,
            ok("hi", true),
        ),
        (
            "HTTP/1.1 204 No Content\r\n\r\n",
            false,
            (204, String::new(), true),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
            false,
            (304, String::new(), true),
        ),
    ] {
        assert_eq!(read(text, end).await, expected, "{text:?}");
    }
    let (status, body, _, again) = both("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false)
        .await
        .unwrap();
    assert_eq!((status, &*body, again), (200, "", true));
}

#[tokio::test]
async fn what_comes_after_an_answer_ends_the_connections_use() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n";
    let (_, body, _, again) = answer("GET", &[text.as_bytes()], false).await.unwrap();
    assert_eq!((&*body, again), (&b"hi"[..], false));
}

#[tokio::test]
async fn trailers_are_told() {
    let text =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n";
    let (_, body, trailers, again) = both("GET", text, false).await.unwrap();
    let sums: Vec<_> = trailers
        .get_all("x-sum")
        .iter()
        .map(|sum| sum.to_str().unwrap())
        .collect();
    assert_eq!((&*body, sums, again), ("hi", vec!["7", "8"], true));
}

#[tokio::test]
async fn an_answer_that_is_not_http_or_ambiguous_is_refused() {
    for (text, why) in [
        ("what?\r\n\r\n", "invalid HTTP version"),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "it changes the protocol, and nobody asked for that",
        ),
        ("HTTP/1.1 099 Low\r\n\r\n", "its status, 99, is none"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "its Transfer-Encoding is something other than \"chunked\"",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "its Transfer-Encoding is something other than \"chunked\"",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "its Transfer-Encoding is something other than \"chunked\"",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            "its Content-Length is not one number",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
            "its Content-Length is not one number",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nhi",
            "the chunked body is malformed",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "the chunked body is malformed",
        ),
    ] {
        let broken = both("GET", text, true).await.unwrap_err();
        assert!(matches!(broken, Broken::Malformed(_)), "{text:?}: {broken:?}");
        assert_eq!(broken.to_string(), why, "{text:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\nContent-",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
    ] {
        let broken = both("GET", text, true).await.unwrap_err();
        assert!(matches!(broken, Broken::Closed), "{text:?}: {broken:?}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let line = format!("X: {}\r\n", "x".repeat(1000));
    let text = format!("HTTP/1.1 200 OK\r\n{}", line.repeat(MAX_HEAD / 1000 + 1));
    // More fields than there may be are noticed only at a head's end, its size at once.
    let broken = answer("GET", &[text.as_bytes()], false).await.unwrap_err();
    assert!(
        matches!(
            broken,
            Broken::Malformed(Malformed::TooLarge | Malformed::Head(httparse::Error::TooManyHeaders))
        ),
        "{broken:?}"
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_takes_not_a_byte() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let mut connection = Http1::new(io(ours));
    while connection.is_quiet() {
        tokio::task::yield_now().await;
    }
    let request = Request::get("/").body(ClientBody::empty()).unwrap();
    let unsent = connection.begin(request).unwrap_err();
    assert_eq!(unsent.error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(unsent.request.uri(), "/");
}

#[test]
fn what_a_status_line_says_otherwise_is_kept() {
    let input = Bytes::from_static(b"HTTP/1.1 200 Fine\r\n\r\n");
    let Ok(Parsed::Final(head)) = parse(&input, Wanted::Whole, HeaderMap::new()) else {
        panic!("no head");
    };
    assert_eq!(head.response.status(), StatusCode::OK);
    let reason = head.response.extensions().get::<hyper::ext::ReasonPhrase>();
    assert_eq!(reason.unwrap().as_bytes(), b"Fine");
    let mut body = head.body;
    assert!(matches!(
        body.take(&mut Bytes::from_static(b"x")),
        Ok(Piece::Frame(_))
    ));
}
