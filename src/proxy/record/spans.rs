//! A record as spans, named by OpenTelemetry's semantic conventions for HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>); what is herd's alone begins with `herd.`.
//!
//! ```text
//! GET ──────────────────────────────────────────── server
//!  ├─ queue ─┐                                     internal: waiting for a worker slot
//!  │         └─ start ──┐                          internal: until a worker was ready
//!  └ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─└─ the worker's own spans, by the traceparent that it is sent
//! ```
//! No session id: whoever knows one may be able to use the session, and spans go far. The trace's id is in the access log.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::uri::Authority;
use http::{HeaderValue, Method, Version};

use super::{Known, Record, Trace, Wait};
use crate::proxy::code::Code;
use crate::proxy::fields::Scheme;
use crate::telemetry::access_log::text;
use crate::telemetry::trace_context::SpanId;
use crate::telemetry::traces::otlp::{HAS_IS_REMOTE, IS_REMOTE, KeyValue, Kind, Span, Status, StatusCode};

impl Record {
    /// The server's, and its children.
    pub(super) fn spans(&self, trace: &Trace, known: &Known) -> Vec<Span> {
        let mut spans = vec![self.server(trace, known)];
        let Some(Wait {
            waited,
            over,
            refused,
        }) = known.wait
        else {
            return spans;
        };
        let started = over.checked_sub(waited.starting).unwrap_or(self.began);
        let queued = started.checked_sub(waited.queued).unwrap_or(self.began);
        // If no worker came, the last of them was in vain.
        let (in_queue, in_start) = match waited.starting.is_zero() {
            true => (refused, None),
            false => (None, refused),
        };
        if !waited.queued.is_zero() {
            spans.push(self.child(trace, "queue", (queued, started), known, in_queue));
        }
        if !waited.starting.is_zero() {
            spans.push(self.child(trace, "start", (started, over), known, in_start));
        }
        spans
    }

    fn server(&self, trace: &Trace, known: &Known) -> Span {
        let method = match is_known(&self.asked.method) {
            true => self.asked.method.as_str(),
            false => "HTTP",
        };
        let parent = self.asked.trace;
        let state = trace.state.as_ref().and_then(|state| state.to_str().ok());
        Span {
            trace_state: state.unwrap_or_default().to_owned(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span.0.to_vec()),
            kind: Kind::Server.into(),
            attributes: self.attributes(known),
            status: known.failed().then(|| error(known)),
            flags: 1 | HAS_IS_REMOTE | parent.map_or(0, |_| IS_REMOTE),
            ..self.span(trace, trace.own.span, method, (self.began, Instant::now()))
        }
    }

    fn child(
        &self,
        trace: &Trace,
        name: &str,
        lasted: (Instant, Instant),
        known: &Known,
        failed: Option<&'static str>,
    ) -> Span {
        let id = SpanId(fastrand::u64(1..).to_be_bytes());
        let kind = known
            .kind
            .as_ref()
            .map(|kind| KeyValue::new("herd.worker", kind.name.as_str()));
        let why = failed.map(|code| KeyValue::new("error.type", code));
        Span {
            parent_span_id: trace.own.span.0.to_vec(),
            kind: Kind::Internal.into(),
            attributes: kind.into_iter().chain(why).collect(),
            status: failed.map(|_| error(known)),
            flags: 1 | HAS_IS_REMOTE,
            ..self.span(trace, id, name, lasted)
        }
    }

    fn span(&self, trace: &Trace, id: SpanId, name: &str, (start, end): (Instant, Instant)) -> Span {
        Span {
            trace_id: trace.own.trace.0.to_vec(),
            span_id: id.0.to_vec(),
            name: name.to_owned(),
            start: self.nanoseconds(start),
            end: self.nanoseconds(end),
            ..Span::default()
        }
    }

    /// By the clock on the wall as it was when the request came: what follows is as monotonic as time is.
    fn nanoseconds(&self, at: Instant) -> u64 {
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = self.began.saturating_duration_since(at);
        let time = since(self.at) + at.saturating_duration_since(self.began);
        u64::try_from(time.saturating_sub(before).as_nanos()).unwrap_or(u64::MAX)
    }

    fn attributes(&self, known: &Known) -> Vec<KeyValue> {
        let mut all = self.of_request();
        all.push(KeyValue::new("http.response.status_code", known.answer().status));
        all.push(KeyValue::new("herd.end", known.end()));
        self.add_sizes(known, &mut all);
        add_error(known, &mut all);
        add_session(known, &mut all);
        all
    }

    /// What the client has sent, and who it is.
    fn of_request(&self) -> Vec<KeyValue> {
        let asked = &self.asked;
        let mut all = vec![
            KeyValue::new("url.path", text(asked.target.path().as_bytes()).into_owned()),
            KeyValue::new(
                "url.scheme",
                match asked.scheme {
                    Scheme::Http => "http",
                    Scheme::Https => "https",
                },
            ),
            KeyValue::new("client.address", asked.client),
            KeyValue::new("network.peer.address", asked.proxy.unwrap_or(asked.client)),
            KeyValue::new(
                "network.protocol.version",
                match asked.version {
                    Version::HTTP_10 => "1.0",
                    Version::HTTP_2 => "2",
                    _ => "1.1",
                },
            ),
        ];
        match is_known(&asked.method) {
            true => all.push(KeyValue::new("http.request.method", asked.method.as_str())),
            false => {
                let method = text(asked.method.as_str().as_bytes()).into_owned();
                all.push(KeyValue::new("http.request.method", "_OTHER"));
                all.push(KeyValue::new("http.request.method_original", method));
            }
        }
        if let Some((host, port)) = asked.host.as_ref().and_then(host_and_port) {
            all.push(KeyValue::new("server.address", host));
            all.extend(port.map(|port| KeyValue::new("server.port", port)));
        }
        if let Some(agent) = &asked.user_agent {
            let agent = text(agent.as_bytes()).into_owned();
            all.push(KeyValue::new("user_agent.original", agent));
        }
        all
    }

    fn add_sizes(&self, known: &Known, all: &mut Vec<KeyValue>) {
        match known.tunnel() {
            Some(tunnel) => all.push(KeyValue::new("herd.tunnel", tunnel)),
            None => {
                all.push(KeyValue::new("http.request.body.size", self.upload.bytes.get()));
                all.push(KeyValue::new("http.response.body.size", known.response_bytes));
            }
        }
    }
}

fn add_error(known: &Known, all: &mut Vec<KeyValue>) {
    let answer = known.answer();
    match (answer.code, known.failed()) {
        (Some(code), _) => {
            all.push(KeyValue::new("error.type", code.as_str()));
            all.push(KeyValue::new("herd.error", code.as_str()));
        }
        (None, true) if answer.status >= 500 => {
            all.push(KeyValue::new("error.type", answer.status.to_string()));
        }
        (None, true) => all.push(KeyValue::new("error.type", known.end())),
        (None, false) => {}
    }
}

/// Which kind it was for, and how it came by its session.
fn add_session(known: &Known, all: &mut Vec<KeyValue>) {
    let kind = known.kind.as_ref().map(|kind| kind.name.as_str());
    all.extend(kind.map(|kind| KeyValue::new("herd.worker", kind)));
    all.extend(
        known
            .state()
            .map(|state| KeyValue::new("herd.session_state", state)),
    );
    if let Some(wait) = &known.wait {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
        all.push(KeyValue::new("herd.queue_ms", ms(wait.waited.queued)));
        all.push(KeyValue::new("herd.start_ms", ms(wait.waited.starting)));
    }
}

/// With what the client was told of it.
fn error(known: &Known) -> Status {
    Status {
        message: known.answer().code.map_or("", Code::title).to_owned(),
        code: StatusCode::Error.into(),
    }
}

/// To those who count by methods: anything else could be a client's invention.
fn is_known(method: &Method) -> bool {
    [
        Method::CONNECT,
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ]
    .contains(method)
}

fn host_and_port(host: &HeaderValue) -> Option<(String, Option<u16>)> {
    let authority = Authority::try_from(host.as_bytes()).ok()?;
    Some((authority.host().to_owned(), authority.port_u16()))
}
