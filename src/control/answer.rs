//! The control API's answers. Every error carries its code in `X-Herd-Error` and says what to do.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;

use crate::config;
use crate::core::{Refusal, SessionId, StartFailureKind, whole_seconds};
use crate::driver::{DriverGone, NotReloaded, PoolView, Standing};
use crate::worker::escape;

use super::{Stop, Stopping, told, views};

static X_HERD_ERROR: HeaderName = HeaderName::from_static("x-herd-error");

pub(crate) type Answer = Response<Body>;

pub(crate) type Body = UnsyncBoxBody<Bytes, Revoked>;

/// A body that breaks off, so that nobody takes it for whole.
#[derive(Debug, thiserror::Error)]
#[error("what this was asked for with may not do it any more")]
pub(crate) struct Revoked;

/// A header that an error adds.
#[derive(Debug)]
enum Extra {
    Allow(String),
    /// Seconds.
    RetryAfter(u64),
    Close,
    /// A key is missing or not known (RFC 6750, 3).
    Authenticate,
    /// To a WebSocket.
    Upgrade,
}

/// An error in the making.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    extra: Option<Extra>,
    log: Vec<String>,
    mistakes: Vec<config::Problem>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            extra: None,
            log: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// Closes the connection: where the next request begins is not known without the rest of this one.
    pub(super) fn body_too_slow(limit: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            format!("the body did not arrive within {} s", limit.as_secs()),
        );
        problem.extra = Some(Extra::Close);
        problem
    }

    pub(super) fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!(
                "there is nothing at {}; /openapi.json lists what there is",
                escape(path.as_bytes())
            ),
        )
    }

    /// `allowed`: methods, as in an `Allow` header.
    pub(super) fn method_not_allowed(allowed: String) -> Self {
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("this path takes {allowed}"),
        );
        problem.extra = Some(Extra::Allow(allowed));
        problem
    }

    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        problem.extra = Some(Extra::RetryAfter(1));
        problem
    }

    pub(super) fn upgrade_required(why: &impl std::fmt::Display) -> Self {
        let mut problem = Self::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            format!("this path speaks WebSocket (RFC 6455) only: {why}"),
        );
        problem.extra = Some(Extra::Upgrade);
        problem
    }

    pub(super) fn unknown_session(id: &SessionId) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_session",
            format!("there is no session {id}; `herd ps --all` lists those there are and were"),
        )
    }

    pub(super) fn unknown_generation(id: &SessionId, generation: u64) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_session",
            format!(
                "session {id} has no generation {generation}; `herd inspect {id}` lists those there are and were"
            ),
        )
    }

    pub(super) fn output_gone(id: &SessionId, why: &str) -> Self {
        Self::new(
            StatusCode::GONE,
            "output_gone",
            format!("session {id} has ended, and its worker's output is not kept: {why}"),
        )
    }

    pub(super) fn unknown_worker(name: &str, pools: &[PoolView]) -> Self {
        let present = pools.iter().filter(|pool| pool.standing == Standing::Present);
        let names: Vec<&str> = present.map(|pool| pool.kind.as_str()).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_worker",
            format!(
                "there is no worker kind {:?}; there is {}",
                escape(name.as_bytes()),
                names.join(", ")
            ),
        )
    }

    pub(super) fn unknown_principal(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_principal",
            format!("herd.yaml has no auth.keys.{name}"),
        )
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn forbidden(uid: u32) -> Self {
        let mut problem = Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("uid {uid} may not control this herd; only the user it runs as and root may"),
        );
        problem.extra = Some(Extra::Close);
        problem
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        problem.extra = Some(Extra::Authenticate);
        problem
    }

    /// Why the driver gave no session; `kind_name` names a kind by its number.
    pub(super) fn refused(
        refusal: Refusal,
        id: &SessionId,
        kind_name: impl Fn(crate::core::KindId) -> String,
    ) -> Self {
        let (code, text) = (refusal.code(), refusal.to_string());
        let (status, detail) = match &refusal {
            Refusal::UnknownWorker => (StatusCode::NOT_FOUND, text),
            Refusal::WorkerMismatch { bound_to } => {
                let kind = kind_name(*bound_to);
                let detail = format!("session {id} is bound to a worker of kind {kind}");
                (StatusCode::CONFLICT, detail)
            }
            Refusal::QuotaExceeded { .. } => (StatusCode::TOO_MANY_REQUESTS, text),
            Refusal::AtCapacity { .. }
            | Refusal::QueueTimeout { .. }
            | Refusal::Draining
            | Refusal::WorkerBackoff { .. }
            | Refusal::SessionStopped => (StatusCode::SERVICE_UNAVAILABLE, text),
            // Whoever may use the control API has asked for somebody who is gone.
            Refusal::Revoked => return Self::unknown_principal(id.principal().unwrap_or_default()),
            Refusal::SessionLost { .. } => {
                let detail = format!("{text}; `herd stop {id}` forgets it, then the id is new");
                (StatusCode::GONE, detail)
            }
            Refusal::StartFailed(failure) => match failure.kind {
                StartFailureKind::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, text),
                _ => (StatusCode::BAD_GATEWAY, text),
            },
        };
        let mut problem = Self::new(status, code, detail);
        problem.extra = refusal.retry_after().map(whole_seconds).map(Extra::RetryAfter);
        if let Refusal::StartFailed(failure) = refusal {
            problem.log = failure.log_tail;
        }
        problem
    }
}

impl From<DriverGone> for Problem {
    fn from(gone: DriverGone) -> Self {
        Self::unavailable("draining", gone.to_string())
    }
}

impl From<NotReloaded> for Problem {
    fn from(not: NotReloaded) -> Self {
        let (status, code, text, mistakes) = match not {
            NotReloaded::Draining => return DriverGone.into(),
            NotReloaded::Invalid { text, problems } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "config_invalid", text, problems)
            }
            NotReloaded::NeedsRestart { text, problems } => {
                (StatusCode::CONFLICT, "restart_required", text, problems)
            }
        };
        Self {
            mistakes,
            ..Self::new(status, code, text)
        }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let body = views::Problem {
            title: problem.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: problem.status.as_u16(),
            code: problem.code.to_owned(),
            detail: problem.detail,
            log: problem.log,
            problems: problem.mistakes.into_iter().map(views::Mistake::from).collect(),
        };
        let mut answer = json(problem.status, &body);
        let headers = answer.headers_mut();
        match problem.extra {
            Some(Extra::Allow(methods)) => HeaderValue::from_str(&methods)
                .ok()
                .and_then(|methods| headers.insert(ALLOW, methods)),
            Some(Extra::RetryAfter(seconds)) => headers.insert(RETRY_AFTER, seconds.into()),
            Some(Extra::Authenticate) => headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"herd\""),
            ),
            Some(Extra::Upgrade) => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"))
            }
            Some(Extra::Close) => headers.insert(CONNECTION, HeaderValue::from_static("close")),
            None => None,
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(&X_HERD_ERROR, HeaderValue::from_static(problem.code));
        answer
    }
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let (status, text) = match line(body) {
        Ok(text) => (status, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n").into()),
    };
    answer(status, "application/json", full(text))
}

pub(super) fn text(text: &'static str) -> Answer {
    file("text/plain; charset=utf-8", text)
}

pub(super) fn file(content_type: &'static str, text: &'static str) -> Answer {
    answer(StatusCode::OK, content_type, full(text))
}

pub(super) fn text_of(content_type: &'static str, text: String) -> Answer {
    answer(StatusCode::OK, content_type, full(text))
}

/// What there is of `chunks` until it has to stop. Its end is then the body's if herd ends, and none if whoever asked
/// for it may not go on.
pub(super) fn stream(
    content_type: &'static str,
    chunks: impl Stream<Item = Bytes> + Send + 'static,
    stopping: Stopping,
) -> Answer {
    let going_on = Some((Box::pin(chunks), stopping));
    let frames = stream::unfold(going_on, |going_on| async {
        let (mut chunks, mut stopping) = going_on?;
        tokio::select! {
            // What is there already is still told.
            biased;
            chunk = chunks.next() => chunk.map(|chunk| (Ok(Frame::data(chunk)), Some((chunks, stopping)))),
            why = told(&mut stopping) => match why {
                Stop::HerdEnds => None,
                Stop::Revoked => Some((Err(Revoked), None)),
            },
        }
    });
    answer(
        StatusCode::OK,
        content_type,
        StreamBody::new(frames).boxed_unsync(),
    )
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// One line of JSON.
pub(super) fn line(value: &impl Serialize) -> serde_json::Result<Bytes> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What a worker wrote shall not be taken for a page, whatever it looks like.
    answer
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn a_herd_that_drains_says_when_to_come_again_whatever_is_asked() {
        let refused = Problem::refused(Refusal::Draining, &SessionId::parse(b"a").unwrap(), |kind| {
            kind.to_string()
        });
        for problem in [NotReloaded::Draining.into(), DriverGone.into(), refused] {
            let answer = Answer::from(problem);
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.headers()[&X_HERD_ERROR], "draining");
            assert_eq!(answer.headers()[RETRY_AFTER], "1");
        }
    }

    #[tokio::test]
    async fn a_stream_tells_what_there_is_and_then_ends_with_herd_or_breaks_off() {
        for (why, whole) in [(Stop::HerdEnds, true), (Stop::Revoked, false)] {
            let (stop, stopping) = watch::channel(None);
            let chunks = stream::iter(["a", "b"].map(Bytes::from)).chain(stream::pending());
            let mut body = super::stream("text/plain", chunks, stopping).into_body();
            stop.send_replace(Some(why));
            for text in ["a", "b"] {
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), text);
            }
            match body.frame().await {
                None => assert!(whole, "{why:?}"),
                Some(broken) => {
                    assert!(broken.is_err() && !whole, "{why:?}");
                    assert!(body.frame().await.is_none(), "nothing follows");
                }
            }
        }
    }
}
