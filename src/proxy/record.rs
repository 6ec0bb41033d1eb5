//! What becomes known of a request while it is served, where somebody wants to know: for the access log.
//!
//! A request has one only if it may leave a line. Whoever serves it has a share; when the last is given up, with the
//! answer's last byte or a tunnel's end, the line is written. So no way out of serving a request can forget it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Frame;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::body::{Cut, Upload};
use super::code::{Code, Problem};
use super::fields::{self, Trust};
use super::identity;
use super::thread::{Claim, Thread};
use super::tunnel::{Carried, Talk, TunnelEnd};
use crate::config::{AccessLog as Settings, Config, Kind, Query, SessionShown};
use crate::core::{EndReason, KindId};
use crate::driver::{KindChoice, Origin};
use crate::telemetry::access_log::{AccessLog, Line, text};
use crate::telemetry::trace_context::TraceParent;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Record {
    thread: Rc<Thread>,
    log: Arc<AccessLog>,
    /// In force when the request came.
    config: Rc<Config>,
    began: Instant,
    at: SystemTime,
    asked: Asked,
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
    trace: Option<TraceParent>,
}

/// What has become known since.
#[derive(Debug, Default)]
struct Known {
    kind: Option<Arc<Kind>>,
    origin: Option<Origin>,
    queued: Duration,
    starting: Duration,
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

#[derive(Debug, Clone, Copy)]
struct Answer {
    status: u16,
    code: Option<Code>,
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
            Self::Tunnel(TunnelEnd::SessionEnded(reason)) => matches!(reason, EndReason::Crashed(_)),
            Self::Open | Self::Complete | Self::Tunnel(_) => false,
        }
    }
}

/// Who sends a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) trust: Trust,
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
        match (&config.access_log, &thread.log) {
            (Some(_), Some(log)) => Some(Self::begin(thread, log, config, peer, request, upload)),
            _ => None,
        }
    }

    #[cold]
    fn begin<B>(
        thread: &Rc<Thread>,
        log: &Arc<AccessLog>,
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
        let mut traces = headers.get_all(&TRACEPARENT).iter();
        let trace = match (traces.next(), traces.next()) {
            (Some(trace), None) => TraceParent::parse(trace.as_bytes()),
            _ => None,
        };
        Rc::new(Self {
            thread: Rc::clone(thread),
            log: Arc::clone(log),
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
                trace,
            },
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
        (known.queued, known.starting) = (claim.queued, claim.starting);
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

    fn line(&self, settings: &Settings, known: &Known) -> Option<Vec<u8>> {
        // It was never told anything: the connection's end has taken the request with it.
        let answer = known.answer.unwrap_or(Answer {
            status: 499,
            code: None,
        });
        let failed = answer.status >= 500 || answer.code.is_some() || known.end.is_failure();
        if !failed && !settings.sample.takes(fastrand::f64()) {
            return None;
        }
        let asked = &self.asked;
        let (principal, id) = match known.session.split_once('/') {
            Some((principal, id)) => (Some(principal), id),
            None => (None, &*known.session),
        };
        let shown = match settings.session {
            _ if id.is_empty() => None,
            SessionShown::Omit => None,
            SessionShown::Plain => Some(id.into()),
            SessionShown::Hash => Some(hashed(&known.session).into()),
        };
        let target = self.target(settings.query);
        let (tunnel, up, down) = match &known.tunnel {
            Some((Talk::WebSocket, carried)) => (Some("websocket"), carried.up, carried.down),
            Some((Talk::Other, carried)) => (Some("other"), carried.up, carried.down),
            None => (None, self.upload.bytes.get(), known.response_bytes),
        };
        let claimed = known.origin.is_some();
        let trace_id = asked.trace.map(|trace| trace.trace.to_string());
        let line = Line {
            time: self.at,
            client: asked.client,
            proxy: asked.proxy,
            method: Some(asked.method.as_str()),
            host: asked.host.as_ref().map(|host| text(host.as_bytes())),
            path: Some(text(target.as_bytes())),
            protocol: Some(protocol(asked.version)),
            status: answer.status,
            error: answer.code.map(Code::as_str),
            session: shown,
            principal,
            worker: known.kind.as_ref().map(|kind| kind.name.as_str()),
            state: known.origin.map(|origin| match origin {
                Origin::Created => "created",
                Origin::Reused => "reused",
            }),
            tunnel,
            end: match answer.status {
                499 => End::Open.word(),
                _ => known.end.word(),
            },
            request_bytes: up,
            response_bytes: down,
            duration_ms: Some(self.began.elapsed()),
            queue_ms: claimed.then_some(known.queued),
            start_ms: claimed.then_some(known.starting),
            worker_ms: known.worker,
            user_agent: asked.user_agent.as_ref().map(|agent| text(agent.as_bytes())),
            trace_id: trace_id.as_deref(),
        };
        Some(line.to_json())
    }

    /// The path, and the query as far as it is wanted and not herd's own.
    fn target(&self, query: Query) -> String {
        let target = &self.asked.target;
        match query {
            Query::LeftOut => target.path().to_owned(),
            Query::Kept => {
                let token = self.thread.access.as_ref().map(|access| access.query.as_str());
                let own = [self.config.session.query.as_deref(), token];
                identity::origin_form(own, target).to_string()
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(settings) = &self.config.access_log
            && let Some(line) = self.line(settings, &self.known.borrow())
        {
            self.log.put(&line);
        }
    }
}

/// What was refused before it was a request.
pub(crate) fn refused(thread: &Thread, peer: SocketAddr, problem: &Problem) {
    if thread.config().access_log.is_none() {
        return;
    }
    let Some(log) = &thread.log else {
        return;
    };
    let line = Line {
        time: SystemTime::now(),
        client: peer.ip().to_canonical(),
        proxy: None,
        method: None,
        host: None,
        path: None,
        protocol: None,
        status: problem.status().as_u16(),
        error: Some(problem.code.as_str()),
        session: None,
        principal: None,
        worker: None,
        state: None,
        tunnel: None,
        end: End::Complete.word(),
        request_bytes: 0,
        response_bytes: 0,
        duration_ms: None,
        queue_ms: None,
        start_ms: None,
        worker_ms: None,
        user_agent: None,
        trace_id: None,
    };
    log.put(&line.to_json());
}

/// The client, by the word of proxies that are believed: the last address that is not one of theirs.
fn forwarded_for(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let lists = headers.get_all(&X_FORWARDED_FOR).iter().collect::<Vec<_>>();
    let hops = lists
        .into_iter()
        .rev()
        .flat_map(|list| list.as_bytes().rsplit(|byte| *byte == b','));
    let mut nearest = peer;
    for hop in hops {
        // What cannot be read was not written by a proxy that can be believed.
        let Some(hop) = std::str::from_utf8(hop).ok().and_then(address) else {
            break;
        };
        nearest = hop;
        if !trusted.iter().any(|net| net.contains(&hop)) {
            break;
        }
    }
    nearest
}

/// Some proxies write the port, too.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.parse::<IpAddr>().ok();
    let address = alone.or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()));
    address.map(|address| address.to_canonical())
}

fn hashed(session: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(session.as_bytes())[..8])
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_last_whom_no_trusted_proxy_vouches_for_as_one_of_them() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer = IpAddr::from([10, 0, 0, 1]);
        for (fields, client) in [
            (&[][..], "10.0.0.1"),
            (&["1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4,10.0.0.2"], "1.2.3.4"),
            (&["1.2.3.4:5678"], "1.2.3.4"),
            (&["[2001:db8::1]:5678"], "2001:db8::1"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["1.2.3.4, unknown"], "10.0.0.1"),
            (&["1.2.3.4, what, 10.0.0.2"], "10.0.0.2"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&[""], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(&X_FORWARDED_FOR, HeaderValue::from_static(field));
            }
            let found = forwarded_for(peer, &headers, &trusted);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{fields:?}");
        }
    }
}
