//! What becomes known of a request while it is served, where somebody wants to know: for the access log and for traces.
//!
//! A request has one only if it may leave something. Whoever serves it has a share; when the last is given up, with the
//! answer's last byte or a tunnel's end, the line is written and the spans are sent. So no way out of serving a request
//! can forget it.

mod client;
mod line;
mod spans;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Frame;

use super::body::{Cut, Upload};
use super::code::Code;
use super::fields::{self, Scheme, Trust};
use super::thread::{Claim, Thread};
use super::tunnel::{Carried, Talk, TunnelEnd};
use crate::config::{Config, Kind, Traces};
use crate::core::KindId;
use crate::driver::{KindChoice, NotAttached, Origin, Waited};
use crate::telemetry::trace_context::{SpanId, TraceId, TraceParent};

use client::forwarded_for;
pub(crate) use line::refused;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Record {
    thread: Rc<Thread>,
    /// In force when the request came.
    config: Rc<Config>,
    began: Instant,
    at: SystemTime,
    asked: Asked,
    /// `None`: requests are not traced.
    trace: Option<Trace>,
    upload: Rc<Upload>,
    known: RefCell<Known>,
}

/// What the client has sent, and who that is.
#[derive(Debug)]
struct Asked {
    client: IpAddr,
    proxy: Option<IpAddr>,
    method: Method,
    target: Uri,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    scheme: Scheme,
    /// Of the span that the request comes from.
    trace: Option<TraceParent>,
}

/// The request's place in its trace.
#[derive(Debug)]
struct Trace {
    /// Of herd's own span, which is the parent of what the worker does.
    own: TraceParent,
    /// What other vendors' tracing adds for theirs.
    state: Option<HeaderValue>,
}

impl Trace {
    /// The client's word counts, as with other proxies: whether a trace is kept is decided once, where it begins.
    fn begin(settings: &Traces, parent: Option<TraceParent>, headers: &HeaderMap) -> Self {
        let span = SpanId(fastrand::u64(1..).to_be_bytes());
        let own = match parent {
            Some(parent) => TraceParent { span, ..parent },
            None => TraceParent {
                trace: TraceId(fastrand::u128(1..).to_be_bytes()),
                span,
                sampled: settings.sample.takes(fastrand::f64()),
            },
        };
        let state = parent.and_then(|_| headers.get(&TRACESTATE).cloned());
        Self { own, state }
    }
}

/// What has become known since.
#[derive(Debug, Default)]
struct Known {
    kind: Option<Arc<Kind>>,
    origin: Option<Origin>,
    wait: Option<Wait>,
    /// To the worker, and the head of its answer.
    sent: Option<Instant>,
    worker: Option<Duration>,
    answer: Option<Answer>,
    /// With its principal.
    session: String,
    response_bytes: u64,
    tunnel: Option<(Talk, Carried)>,
    end: End,
}

/// For its session's worker.
#[derive(Debug, Clone, Copy)]
struct Wait {
    waited: Waited,
    over: Instant,
    /// Why no worker came.
    refused: Option<&'static str>,
}

impl Wait {
    fn until_now(waited: Waited, refused: Option<&'static str>) -> Self {
        let over = Instant::now();
        Self {
            waited,
            over,
            refused,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    status: u16,
    code: Option<Code>,
}

impl Known {
    fn answer(&self) -> Answer {
        // It was never told anything: the connection's end has taken the request with it.
        self.answer.unwrap_or(Answer {
            status: 499,
            code: None,
        })
    }

    /// Through herd's or the worker's fault.
    fn failed(&self) -> bool {
        self.answer().status >= 500 || self.end.is_failure()
    }

    fn end(&self) -> &'static str {
        match self.answer().status {
            499 => End::Open.word(),
            _ => self.end.word(),
        }
    }

    fn state(&self) -> Option<&'static str> {
        self.origin.map(|origin| match origin {
            Origin::Created => "created",
            Origin::Reused => "reused",
        })
    }

    fn tunnel(&self) -> Option<&'static str> {
        self.tunnel.as_ref().map(|(talk, _)| match talk {
            Talk::WebSocket => "websocket",
            Talk::Other => "other",
        })
    }
}

/// How it ended for the client.
#[derive(Debug, Default)]
enum End {
    /// Not yet; if nothing else follows, because the client has left.
    #[default]
    Open,
    Complete,
    Cut,
    SessionEnded,
    Tunnel(TunnelEnd),
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::Open | Self::Tunnel(TunnelEnd::ClientGone) => "client_left",
            Self::Complete | Self::Tunnel(TunnelEnd::Closed) => "complete",
            Self::Cut | Self::Tunnel(TunnelEnd::WorkerGone) => "worker_left",
            Self::SessionEnded | Self::Tunnel(TunnelEnd::SessionEnded(_)) => "session_ended",
        }
    }

    fn is_failure(&self) -> bool {
        match self {
            Self::Cut | Self::SessionEnded | Self::Tunnel(TunnelEnd::WorkerGone) => true,
            Self::Tunnel(TunnelEnd::SessionEnded(reason)) => reason.is_loss(),
            Self::Open | Self::Complete | Self::Tunnel(_) => false,
        }
    }
}

/// Who sends a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) trust: Trust,
    pub(crate) scheme: Scheme,
}

impl Record {
    /// `None`: nobody wants to know. Inlined, so that this costs no more than to see it.
    #[inline]
    pub(crate) fn of<B>(
        thread: &Rc<Thread>,
        config: &Rc<Config>,
        peer: Peer,
        request: &Request<B>,
        upload: &Rc<Upload>,
    ) -> Option<Rc<Self>> {
        match (&config.access_log, &config.traces) {
            (None, None) => None,
            _ => Some(Self::begin(thread, config, peer, request, upload)),
        }
    }

    #[cold]
    fn begin<B>(
        thread: &Rc<Thread>,
        config: &Rc<Config>,
        peer: Peer,
        request: &Request<B>,
        upload: &Rc<Upload>,
    ) -> Rc<Self> {
        let headers = request.headers();
        let peer_ip = peer.address.ip().to_canonical();
        let client = match peer.trust {
            Trust::TrustedProxy => forwarded_for(peer_ip, headers, &config.network.trusted_proxies),
            Trust::Untrusted => peer_ip,
        };
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(parent), None) => TraceParent::parse(parent.as_bytes()),
            _ => None,
        };
        let trace = match (&config.traces, &thread.traces) {
            (Some(settings), Some(_)) => Some(Trace::begin(settings, parent, headers)),
            _ => None,
        };
        Rc::new(Self {
            thread: Rc::clone(thread),
            config: Rc::clone(config),
            began: Instant::now(),
            at: SystemTime::now(),
            asked: Asked {
                client,
                proxy: (client != peer_ip).then_some(peer_ip),
                method: request.method().clone(),
                target: request.uri().clone(),
                version: request.version(),
                host: fields::client_host(headers, request.uri()),
                user_agent: headers.get(USER_AGENT).cloned(),
                scheme: peer.scheme,
                trace: parent,
            },
            trace,
            upload: Rc::clone(upload),
            known: RefCell::default(),
        })
    }

    /// The kind that it is for, as far as that is known without a session.
    pub(crate) fn is_for(&self, kind: KindChoice) {
        let (KindChoice::Named(kind) | KindChoice::Fallback(kind)) = kind;
        let of = |id: KindId| self.config.kinds.iter().find(|kind| kind.id == id);
        self.known.borrow_mut().kind = of(kind).cloned();
    }

    pub(crate) fn claimed(&self, claim: &Claim) {
        let mut known = self.known.borrow_mut();
        known.kind = Some(Arc::clone(&claim.bound.session.kind));
        known.origin = Some(claim.origin);
        known.wait = Some(Wait::until_now(claim.waited, None));
    }

    /// No worker came.
    pub(crate) fn not_attached(&self, refused: &NotAttached) {
        let why = refused.refusal.code();
        self.known.borrow_mut().wait = Some(Wait::until_now(refused.waited, Some(why)));
    }

    /// Tells the worker which span its own are children of, if requests are traced.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        let Some(trace) = &self.trace else {
            return;
        };
        // Without a parent that can be read it says nothing.
        if self.asked.trace.is_none() {
            headers.remove(&TRACESTATE);
        }
        if let Ok(parent) = HeaderValue::try_from(trace.own.to_string()) {
            headers.insert(&TRACEPARENT, parent);
        }
    }

    /// It goes to the worker now.
    pub(crate) fn sent(&self) {
        self.known.borrow_mut().sent = Some(Instant::now());
    }

    /// The head of the worker's answer is here.
    pub(crate) fn worker_answered(&self) {
        let mut known = self.known.borrow_mut();
        if known.worker.is_none() {
            known.worker = known.sent.map(|sent| sent.elapsed());
        }
    }

    /// What the client was told, or would have been.
    pub(crate) fn answered(&self, status: u16, code: Option<Code>, session: String) {
        let mut known = self.known.borrow_mut();
        known.answer = Some(Answer { status, code });
        known.session = session;
    }

    /// Of the answer's body.
    pub(crate) fn passed(&self, polled: &Poll<Option<Result<Frame<Bytes>, Cut>>>) {
        let mut known = self.known.borrow_mut();
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                known.response_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(Cut::SessionEnded(_)))) => known.end = End::SessionEnded,
            Poll::Ready(Some(Err(Cut::Worker(_) | Cut::Hyper(_)))) => known.end = End::Cut,
            Poll::Ready(None) | Poll::Pending => {}
        }
    }

    /// There is nothing more to come of the answer.
    pub(crate) fn complete(&self) {
        let mut known = self.known.borrow_mut();
        // A tunnel is no answer.
        if known.tunnel.is_none() {
            known.end = End::Complete;
        }
    }

    pub(crate) fn becomes_tunnel(&self, talk: Talk) {
        let mut known = self.known.borrow_mut();
        known.tunnel = Some((talk, Carried::default()));
        known.end = End::Open;
    }

    pub(crate) fn tunnel_ended(&self, end: TunnelEnd, carried: Carried) {
        let mut known = self.known.borrow_mut();
        known.end = End::Tunnel(end);
        if let Some(tunnel) = &mut known.tunnel {
            tunnel.1 = carried;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let known = self.known.borrow();
        if let (Some(settings), Some(log)) = (&self.config.access_log, &self.thread.log)
            && let Some(line) = self.line(settings, &known)
        {
            log.put(&line);
        }
        if let (Some(trace), Some(traces)) = (&self.trace, &self.thread.traces)
            && trace.own.sampled
        {
            traces.put(self.spans(trace, &known));
        }
    }
}
