//! The runner's answers.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;

/// A response whose body is whole, or streamed until its producer ends. Not `Send`: the runner has one
/// thread.
pub(super) type Answer = Response<Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>>;

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn bytes(bytes: Bytes) -> Answer {
    let kind = match std::str::from_utf8(&bytes) {
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    };
    with_type(StatusCode::OK, kind, bytes)
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = whole(Bytes::new());
    *answer.status_mut() = status;
    answer
}

/// RFC 9457 problem details; `detail` says what is wrong and what to do.
pub(super) fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("Error");
    let mut body =
        serde_json::json!({ "title": title, "status": status.as_u16(), "detail": detail }).to_string();
    body.push('\n');
    with_type(status, "application/problem+json", body.into())
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("this path takes {allowed}"),
    );
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn whole(body: Bytes) -> Answer {
    Response::new(Box::pin(Full::new(body)))
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = whole(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
