//! Every error that the data plane makes: one enum, one answer format.
//!
//! An answer made by herd always carries `X-Herd-Error: <code>`; an answer of a worker never does. The
//! body is problem JSON (RFC 9457), or plain text where `Accept` prefers it.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::core::{Refusal, StartFailureKind, whole_seconds};

pub(crate) static X_HERD_ERROR: HeaderName = HeaderName::from_static("x-herd-error");

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident, $code:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, as a client can tell it apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[doc = $doc])* $variant,)* }

        impl Code {
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable word in `X-Herd-Error`.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            pub(crate) fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    IdRequired, "session_id_required", 400, "The request names no session";
    IdInvalid, "session_id_invalid", 400, "The session id is malformed";
    IdConflict, "session_id_conflict", 400, "The request names its session ambiguously";
    BadRequest, "bad_request", 400, "The request is malformed";
    TlsRequired, "tls_required", 400, "This port speaks TLS";
    Unauthorized, "unauthorized", 401, "A key is missing or not known";
    TokenInvalid, "token_invalid", 401, "The token is not valid";
    TokenExpired, "token_expired", 401, "The token has expired";
    WorkerNotAllowed, "worker_not_allowed", 403, "The key may not use this worker kind";
    OriginNotAllowed, "origin_not_allowed", 403, "Pages of this origin may not open WebSockets";
    UnknownWorker, "unknown_worker", 404, "There is no worker kind of this name";
    MethodNotAllowed, "method_not_allowed", 405, "The method is not supported";
    RequestTimeout, "request_timeout", 408, "The request head did not arrive in time";
    WorkerMismatch, "worker_mismatch", 409, "The session is bound to another worker kind";
    UriTooLong, "uri_too_long", 414, "The request target is too long";
    QuotaExceeded, "quota_exceeded", 429, "The key has used up a quota";
    HeaderTooLarge, "request_header_too_large", 431, "The request head is too large";
    /// Its status is `session.lost_status`, 410 unless configured.
    SessionLost, "session_lost", 410, "The session's worker crashed and its state is lost";
    WorkerStartFailed, "worker_start_failed", 502, "The worker could not be started";
    WorkerCrashed, "worker_crashed", 502, "The worker ended before it answered";
    WorkerConnectionLost, "worker_connection_lost", 502, "The worker closed the connection before its answer was whole";
    BadWorkerAnswer, "worker_answer_invalid", 502, "The worker's answer is not valid";
    SessionEnded, "session_ended", 503, "The session ended while the request was under way";
    AtCapacity, "at_capacity", 503, "No worker slot is free";
    QueueTimeout, "queue_timeout", 503, "No worker slot became free in time";
    Draining, "draining", 503, "herd is shutting down";
    WorkerBackoff, "worker_backoff", 503, "The worker keeps failing to start";
    WorkerStartTimeout, "worker_start_timeout", 504, "The worker was not ready in time";
    VersionNotSupported, "http_version_not_supported", 505, "The HTTP version is not supported";
}

impl Code {
    pub(crate) fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::UnknownWorker => Self::UnknownWorker,
            Refusal::WorkerMismatch { .. } => Self::WorkerMismatch,
            Refusal::AtCapacity { .. } => Self::AtCapacity,
            Refusal::QueueTimeout { .. } => Self::QueueTimeout,
            Refusal::QuotaExceeded { .. } => Self::QuotaExceeded,
            Refusal::Draining => Self::Draining,
            Refusal::WorkerBackoff { .. } => Self::WorkerBackoff,
            Refusal::StartFailed(failure) => match failure.kind {
                StartFailureKind::Timeout { .. } => Self::WorkerStartTimeout,
                _ => Self::WorkerStartFailed,
            },
            Refusal::SessionLost { .. } => Self::SessionLost,
            Refusal::SessionStopped => Self::SessionEnded,
            Refusal::Revoked => Self::Unauthorized,
        }
    }

    /// How a client that is not known is asked who it is (RFC 6750, 3).
    fn challenge(self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => Some("Bearer realm=\"herd\""),
            Self::TokenInvalid | Self::TokenExpired => Some("Bearer realm=\"herd\", error=\"invalid_token\""),
            _ => None,
        }
    }
}

/// One error answer in the making.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: String,
    /// Replaces the code's own status.
    pub(crate) status: Option<StatusCode>,
    pub(crate) retry_after: Option<Duration>,
    /// The worker's last output; only for peers that may see it.
    pub(crate) log_tail: Vec<String>,
    /// The kinds there are, for `unknown_worker`.
    pub(crate) workers: Vec<String>,
}

/// Every method that is not CONNECT; others than these pass, too.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            status: None,
            retry_after: None,
            log_tail: Vec::new(),
            workers: Vec::new(),
        }
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
            .or_else(|| StatusCode::from_u16(self.code.status()).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// `request` chooses between JSON and text.
    pub(crate) fn into_response(self, request: &HeaderMap) -> Response<Bytes> {
        let status = self.status();
        let (content_type, body) = if prefers_text(request) {
            ("text/plain; charset=utf-8", self.text())
        } else {
            ("application/problem+json", self.json(status))
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(&X_HERD_ERROR, HeaderValue::from_static(self.code.as_str()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.code.challenge() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.code == Code::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static(ALLOWED));
        }
        let retry_after = match (self.retry_after, status) {
            (None, StatusCode::SERVICE_UNAVAILABLE) => Some(Duration::from_secs(1)),
            (given, _) => given,
        };
        if let Some(after) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        response
    }

    /// How long the body of [`into_http1`](Self::into_http1) is.
    pub(crate) fn body_len(&self) -> u64 {
        self.json(self.status()).len() as u64
    }

    /// The whole answer as HTTP/1.1 bytes, for a connection whose request hyper never saw.
    pub(crate) fn into_http1(self) -> Vec<u8> {
        let response = self.into_response(&HeaderMap::new());
        let status = response.status();
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or("Error"),
            response.body().len()
        )
        .into_bytes();
        for (name, value) in response.headers() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(response.body());
        head
    }

    fn json(&self, status: StatusCode) -> String {
        let mut object = serde_json::Map::new();
        object.insert("type".into(), "about:blank".into());
        object.insert("title".into(), self.code.title().into());
        object.insert("status".into(), status.as_u16().into());
        object.insert("code".into(), self.code.as_str().into());
        object.insert("detail".into(), self.detail.as_str().into());
        if !self.workers.is_empty() {
            object.insert("workers".into(), self.workers.clone().into());
        }
        if !self.log_tail.is_empty() {
            object.insert("log_tail".into(), self.log_tail.clone().into());
        }
        let mut text = serde_json::Value::Object(object).to_string();
        text.push('\n');
        text
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}\n{}\n", self.code.as_str(), self.code.title(), self.detail);
        for line in &self.log_tail {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {line}");
        }
        text
    }
}

/// `Accept` names a text type and nothing that JSON would satisfy.
fn prefers_text(request: &HeaderMap) -> bool {
    let mut text = false;
    for value in request.get_all(ACCEPT) {
        for range in value.as_bytes().split(|b| *b == b',') {
            let range = range
                .split(|b| *b == b';')
                .next()
                .unwrap_or_default()
                .trim_ascii();
            if range.eq_ignore_ascii_case(b"*/*")
                || range.eq_ignore_ascii_case(b"application/*")
                || range.eq_ignore_ascii_case(b"application/json")
                || range.eq_ignore_ascii_case(b"application/problem+json")
            {
                return text && range == b"*/*";
            }
            text |= range.len() >= 5 && range[..5].eq_ignore_ascii_case(b"text/");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_documented_table_lists_exactly_the_codes_there_are() {
        let documented = include_str!("../../docs/errors.md");
        let rows: Vec<&str> = documented.lines().filter(|l| l.starts_with("| `")).collect();
        let expected: Vec<String> = Code::ALL
            .iter()
            .map(|c| format!("| `{}` | {} | {} |", c.as_str(), c.status(), c.title()))
            .collect();
        assert_eq!(
            rows.len(),
            expected.len(),
            "docs/errors.md and Code differ in number"
        );
        for row in &expected {
            assert!(
                rows.iter().any(|r| r.starts_with(row)),
                "docs/errors.md lacks the row {row}"
            );
        }
    }

    #[test]
    fn an_error_is_problem_json_unless_the_client_prefers_text() {
        let problem = Problem::new(Code::IdRequired, "send X-Session-ID");
        let json = problem
            .clone()
            .into_response(&accepting("application/json, text/plain"));
        assert_eq!(json.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(json.headers()["x-herd-error"], "session_id_required");
        let body: serde_json::Value = serde_json::from_slice(json.body()).unwrap();
        assert_eq!(body["status"], 400);
        assert_eq!(body["code"], "session_id_required");
        let text = problem.into_response(&accepting("text/html, */*"));
        assert_eq!(text.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert!(
            text.body().starts_with(b"session_id_required: "),
            "{:?}",
            text.body()
        );
    }

    #[test]
    fn every_503_says_when_to_come_back_in_whole_seconds() {
        let problem = Problem::new(Code::AtCapacity, "").retry_after(Duration::from_millis(1200));
        assert_eq!(
            problem.into_response(&HeaderMap::new()).headers()[RETRY_AFTER],
            "2"
        );
        let plain = Problem::new(Code::Draining, "");
        assert_eq!(plain.into_response(&HeaderMap::new()).headers()[RETRY_AFTER], "1");
    }
}
