//! One request: from its id to the last byte of its answer.
//!
//! ```text
//! checks → id, kind → claim a session (its hold) → send to the worker ─ 101 → tunnel (a stream hold)
//!                                                                     └ else → answer, hold until its last byte
//! ```
//! Nothing is sent twice: only a request of which not one byte was written is tried on another connection.

mod label;
mod upgrade;

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use self::label::Label;
use super::body::{Answer, Body, ClientBody, Fate, Served, Upload, WorkerBody};
use super::code::{Code, Problem};
use super::entry::{self, Authorization, Carrier, Entry};
use super::fields::{self, Present, Sender};
use super::gate::Line;
use super::record::{Peer, Record};
use super::send::{BROKEN_BODY, send};
use super::thread::{Claim, Local, Refused, Thread, ended};
use super::tunnel::Talk;
use super::upstream::{Bound, WorkerIo};
use super::{identity, origin};
use crate::access::Access;
use crate::config::{Bind, Config, HostHeader, Protocol, Reuse};
use crate::core::{HolderKind, Refusal, SessionId};
use crate::driver::{Hold, KindChoice, NotAttached, Remains, Wait};

/// Largest answer whose `webSocketDebuggerUrl` is rewritten.
const MAX_REWRITE: usize = 1 << 20;

/// What all requests of one client connection share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    sender: Sender,
    /// HTTP/1 only.
    pub(crate) line: Option<Rc<Line>>,
    /// Set with an answer of 101; the connection's owner takes it.
    pub(crate) upgrade: RefCell<Option<Upgrade>>,
    /// `bind: connection`: one per session, until the connection closes.
    holds: RefCell<HashMap<SessionId, Hold>>,
}

/// A tunnel whose worker side stands.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) worker: oneshot::Receiver<(WorkerIo, Bytes)>,
    pub(crate) talk: Talk,
    pub(crate) hold: Hold,
    pub(crate) record: Option<Rc<Record>>,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, sender: Sender, line: Option<Rc<Line>>) -> Rc<Self> {
        Rc::new(Self {
            peer,
            sender,
            line,
            upgrade: RefCell::new(None),
            holds: RefCell::default(),
        })
    }

    pub(crate) fn local(&self) -> Local {
        if self.peer.ip().to_canonical().is_loopback() {
            Local::Loopback
        } else {
            Local::Remote
        }
    }

    fn as_peer(&self) -> Peer {
        Peer {
            address: self.peer,
            trust: self.sender.trust(),
            scheme: self.sender.scheme(),
        }
    }

    fn hold_connection(&self, claim: &Claim) {
        let session = &claim.bound.session;
        let mut holds = self.holds.borrow_mut();
        if holds
            .get(&session.name.id)
            .is_some_and(|hold| Arc::ptr_eq(hold.session(), session))
        {
            return;
        }
        // A hold of an earlier incarnation is dropped here.
        if let Some(hold) = session.hold(HolderKind::Connection) {
            holds.retain(|_, hold| !hold.session().is_closed());
            holds.insert(session.name.id.clone(), hold);
        }
    }
}

/// Says how a request went, also when its client leaves before the answer.
struct Story {
    thread: Rc<Thread>,
    began: Instant,
    /// With its principal.
    session: String,
    status: Option<StatusCode>,
    code: Option<Code>,
    upload: Rc<Upload>,
    record: Option<Rc<Record>>,
}

impl Story {
    /// As the client knows it.
    fn id(&self) -> &str {
        self.session.split_once('/').map_or(&*self.session, |(_, id)| id)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let (status, code) = match self.status {
            // Whatever the answer was, there is nobody left to read it.
            Some(status) if self.upload.fate.get() != Fate::BrokenOff => (status.as_u16(), self.code),
            _ => (499, None),
        };
        self.thread.traffic.answered(status, self.began.elapsed());
        let said = code.map_or("", Code::as_str);
        tracing::debug!(session = %self.session, status, code = said, "request");
        if let Some(record) = &self.record {
            record.answered(status, code, std::mem::take(&mut self.session));
        }
    }
}

/// Answers one request. Every outcome is an answer; dropping the future is the client's leaving.
///
/// Not an `async fn`: what need not wait is done in this call, so that what hyper keeps, and moves several times, of a
/// request that is with its worker is small.
pub(crate) fn serve(
    thread: Rc<Thread>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let (config, access) = thread.in_force();
    let upload = Rc::default();
    let record = Record::of(&thread, &config, client.as_peer(), &request, &upload);
    let served = Served::new(client.line.clone(), record.clone());
    let mut story = Story {
        thread: Rc::clone(&thread),
        began: Instant::now(),
        session: String::new(),
        status: None,
        code: None,
        upload,
        record,
    };
    // Only an error of herd's own needs them. There is hardly ever a second one, so this allocates nothing.
    let mut accepts = request.headers().get_all(ACCEPT).iter().cloned();
    let accept = accepts.next();
    let more: Vec<_> = accepts.collect();
    let begun = match Asked::read(&thread, (config, access), request, &mut story) {
        Ok(asked) => begin(&thread, &client, asked, &story.session, served),
        Err(problem) => Begun::Refused(Failure { problem, served }),
    };
    async move {
        // All of it: its end is the request's.
        let mut story = story;
        let result = match begun {
            Begun::Sent(sent) => sent.await,
            Begun::Waiting(waiting) => waiting.await,
            Begun::Refused(failure) => Err(failure),
        };
        let mut response = match result {
            Ok(response) => response,
            Err(Failure { problem, served }) => {
                story.code = Some(problem.code);
                let mut headers = HeaderMap::new();
                for value in accept.into_iter().chain(more) {
                    headers.append(ACCEPT, value);
                }
                problem
                    .into_response(&headers)
                    .map(|bytes| Body::own(bytes, served))
            }
        };
        if story.code.is_some()
            && !story.session.is_empty()
            && let Ok(id) = HeaderValue::from_str(story.id())
            && let Some(name) = thread.config().session.headers.first()
        {
            response.headers_mut().insert(name, id);
        }
        story.status = Some(response.status());
        Ok(response)
    }
}

struct Failure {
    problem: Problem,
    served: Served,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>>>>;

/// How far a request has come without waiting.
enum Begun<S> {
    /// It is with its worker, or at least on the way to it.
    Sent(S),
    /// Boxed, like everything that few requests need.
    Waiting(Answering),
    Refused(Failure),
}

/// A request whose session and manner are known.
struct Asked {
    request: Request<ClientBody>,
    /// It is served by this one, whatever comes meanwhile.
    config: Rc<Config>,
    fields: Present,
    /// `None`: nobody was asked who it is.
    entry: Option<Box<Entry>>,
    kind: KindChoice,
    manner: (Wait, Remains),
    mode: Mode,
    upload: Rc<Upload>,
}

impl Asked {
    fn read(
        thread: &Thread,
        (config, access): (Rc<Config>, Option<Rc<Access>>),
        request: Request<Incoming>,
        story: &mut Story,
    ) -> Result<Self, Problem> {
        one_host(&request)?;
        let fields = Present::among(request.headers());
        let (headers, uri) = (request.headers(), request.uri());
        // Before anything is told, be it what there is not.
        let entry = match access {
            Some(access) => Some(Box::new(Entry::of(&access, headers, uri)?)),
            None => None,
        };
        story.session = match &entry {
            Some(entry) => entry.session(&config.session, headers, uri)?,
            None => identity::session_id(&config.session, headers, uri)?.into_owned(),
        };
        let mut kind = identity::kind(&config, fields, headers, uri)?;
        if let Some(entry) = &entry {
            kind = entry.kind(&config, kind)?;
            entry
                .count(story.began)
                .inspect_err(|problem| thread.refused(kind, problem.code))?;
        }
        if let Some(record) = &story.record {
            record.is_for(kind);
        }
        let manner = match fields.own {
            true => identity::manner(request.headers()),
            false => (Wait::Queue, Remains::Respect),
        };
        let mode = Mode::of(&request, fields)?;
        if !matches!(mode, Mode::Plain) {
            let carrier = Carrier::of(&config.session, headers, entry.as_deref());
            let allowed = config.network.websocket_origins.as_deref();
            origin::check(allowed, headers, uri, carrier)?;
        }
        let upload = Rc::clone(&story.upload);
        let request = request.map(|body| ClientBody::new(body, Rc::clone(&upload)));
        Ok(Self {
            request,
            config,
            fields,
            entry,
            kind,
            manner,
            mode,
            upload,
        })
    }

    /// Waits for the session's worker, and meanwhile reads a small body.
    async fn claim(&mut self, thread: &Thread, id: &str) -> Result<Claim, Refused> {
        let expects = self.fields.expect && expects_continue(&self.request);
        loop {
            let claim = Box::pin(thread.claim(id, self.kind, self.manner));
            let broken = Box::pin(self.request.body_mut().read_ahead());
            let claimed = tokio::select! {
                biased;
                claimed = claim => claimed,
                () = broken, if !expects => {
                    Err(Refused::Problem(Problem::new(Code::BadRequest, BROKEN_BODY)))
                }
            };
            match claimed {
                // The kind was removed between this thread's look at the configuration and the driver's: the request is
                // one of those that come after.
                Err(Refused::NotAttached(NotAttached {
                    refusal: Refusal::UnknownWorker,
                    ..
                })) if !Rc::ptr_eq(&self.config, &thread.config()) => {
                    let (config, access) = thread.in_force();
                    self.config = config;
                    let (headers, uri) = (self.request.headers(), self.request.uri());
                    if let (Some(entry), Some(access)) = (&mut self.entry, access) {
                        entry.renew(&access, headers, uri)?;
                    }
                    let kind = identity::kind(&self.config, self.fields, headers, uri)?;
                    self.kind = match &self.entry {
                        Some(entry) => entry.kind(&self.config, kind)?,
                        None => kind,
                    };
                }
                claimed => return claimed,
            }
        }
    }

    /// What is done for the request, now that it has its worker.
    fn go(
        self,
        thread: &Rc<Thread>,
        client: &Rc<Client>,
        claim: Claim,
        served: Served,
    ) -> Begun<impl Future<Output = Result<Response<Body>, Failure>> + use<>> {
        if let Some(record) = served.record() {
            record.claimed(&claim);
        }
        if let Some(entry) = &self.entry
            && let Err(problem) = entry::admit(&entry.principal, &self.config, claim.bound.session.kind_id)
        {
            return Begun::Refused(Failure { problem, served });
        }
        if claim.bound.session.kind.bind == Bind::Connection {
            client.hold_connection(&claim);
        }
        let exchange = Exchange {
            thread: Rc::clone(thread),
            client: Rc::clone(client),
            host: fields::client_host(self.request.headers(), self.request.uri()),
            fields: self.fields,
            authorization: match &self.entry {
                Some(entry) => entry.authorization,
                None => Authorization::Workers,
            },
            label: Label::of(&claim),
            config: self.config,
            record: served.record().cloned(),
        };
        let request = self.request;
        match self.mode {
            Mode::Plain => Begun::Sent(exchange.plain(request, claim, self.upload, served)),
            Mode::Upgrade(protocol) => {
                Begun::Waiting(Box::pin(exchange.upgrade(request, claim, protocol, served)))
            }
            Mode::WebSocketOverHttp2 => {
                Begun::Waiting(Box::pin(exchange.websocket_over_h2(request, claim, served)))
            }
        }
    }
}

/// Sends the request on its way, if its session is known here.
fn begin(
    thread: &Rc<Thread>,
    client: &Rc<Client>,
    mut asked: Asked,
    id: &str,
    served: Served,
) -> Begun<impl Future<Output = Result<Response<Body>, Failure>> + use<>> {
    match thread.claim_known(id, asked.kind) {
        Some(Ok(claim)) => asked.go(thread, client, claim, served),
        Some(Err(refused)) => {
            let problem = thread.problem(refused, client.local());
            Begun::Refused(Failure { problem, served })
        }
        None => {
            let (thread, client, id) = (Rc::clone(thread), Rc::clone(client), id.to_owned());
            Begun::Waiting(Box::pin(async move {
                match asked.claim(&thread, &id).await {
                    Ok(claim) => match asked.go(&thread, &client, claim, served) {
                        Begun::Sent(sent) => sent.await,
                        Begun::Waiting(waiting) => waiting.await,
                        Begun::Refused(failure) => Err(failure),
                    },
                    Err(refused) => {
                        if let (Some(record), Refused::NotAttached(refused)) = (served.record(), &refused) {
                            record.not_attached(refused);
                        }
                        let problem = thread.problem(refused, client.local());
                        Err(Failure { problem, served })
                    }
                }
            }))
        }
    }
}

enum Mode {
    Plain,
    Upgrade(HeaderValue),
    /// RFC 8441.
    WebSocketOverHttp2,
}

impl Mode {
    fn of(request: &Request<Incoming>, fields: Present) -> Result<Self, Problem> {
        if request.method() == Method::CONNECT {
            return match request.extensions().get::<hyper::ext::Protocol>() {
                Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => {
                    Ok(Self::WebSocketOverHttp2)
                }
                _ => Err(Problem::new(
                    Code::MethodNotAllowed,
                    "herd is not a forward proxy",
                )),
            };
        }
        if fields.upgrade
            && request.version() == Version::HTTP_11
            && request.method() == Method::GET
            && let Some(protocol) = fields::upgrade(request.headers())
            // A switch to HTTP/2 (RFC 7540 section 3.2) concerns this connection only, and is optional.
            && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
            && http_body::Body::is_end_stream(request.body())
        {
            return Ok(Self::Upgrade(protocol));
        }
        Ok(Self::Plain)
    }
}

/// `Host` and the target have to agree, or two readers could route the request differently.
fn one_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Problem::new(Code::BadRequest, "Host is repeated"));
    }
    if let (Some(host), Some(authority)) = (first, request.uri().authority())
        && request.method() != Method::CONNECT
        && !host
            .as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes())
    {
        return Err(Problem::new(
            Code::BadRequest,
            "Host and the request's target name different hosts",
        ));
    }
    Ok(())
}

struct Exchange {
    thread: Rc<Thread>,
    config: Rc<Config>,
    client: Rc<Client>,
    host: Option<HeaderValue>,
    fields: Present,
    authorization: Authorization,
    label: Label,
    record: Option<Rc<Record>>,
}

impl Exchange {
    /// Turns the client's request into the worker's.
    fn head(&self, parts: http::request::Parts, bound: &Bound) -> http::request::Parts {
        let mut parts = parts;
        let tokens = self.config.auth.as_ref().map(|auth| &auth.tokens);
        let token = tokens.map(|tokens| tokens.query.as_str());
        let own = [self.config.session.query.as_deref(), token];
        let target = identity::origin_form(own, &parts.uri);
        fields::strip(&mut parts.headers);
        if let Some(tokens) = tokens {
            if self.authorization == Authorization::Herds {
                parts.headers.remove(AUTHORIZATION);
            }
            if self.fields.cookie {
                entry::hide_cookie(&mut parts.headers, &tokens.cookie);
            }
        }
        fields::forwarded(
            &mut parts.headers,
            self.fields,
            &self.client.sender,
            self.host.as_ref(),
        );
        if let Some(record) = &self.record {
            record.pass_on(&mut parts.headers);
        }
        let own = || own_host(bound);
        let host = match bound.session.kind.host_header {
            HostHeader::Client => self.host.clone().unwrap_or_else(own),
            HostHeader::Worker => own(),
        };
        parts.extensions = http::Extensions::new();
        if bound.session.kind.protocol == Protocol::H2 {
            parts.headers.remove(HOST);
            parts.version = Version::HTTP_2;
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(http::uri::Scheme::HTTP);
            uri.authority = http::uri::Authority::try_from(host.as_bytes()).ok();
            uri.path_and_query = Some(target);
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
        } else {
            if self.fields.cookie {
                merge_cookies(&mut parts.headers);
            }
            // The client's own mostly stands there already.
            let stands = self.fields.host && !self.fields.connection;
            if !stands || bound.session.kind.host_header == HostHeader::Worker {
                parts.headers.insert(HOST, host);
            }
            parts.version = Version::HTTP_11;
            parts.uri = Uri::from(target);
        }
        parts
    }

    fn plain(
        self,
        request: Request<ClientBody>,
        claim: Claim,
        upload: Rc<Upload>,
        served: Served,
    ) -> impl Future<Output = Result<Response<Body>, Failure>> + use<> {
        let Claim { bound, hold, .. } = claim;
        let is_head = *request.method() == Method::HEAD;
        if let Some(record) = served.record() {
            record.sent();
        }
        let sending = send(&bound, self.outgoing(request, &bound));
        async move {
            let result = if bound.session.kind.reuse == Reuse::AfterSession {
                tokio::select! {
                    result = Box::pin(sending) => result,
                    reason = Box::pin(bound.session.wait_end()) => {
                        return Err(Failure { problem: ended(&reason), served });
                    }
                }
            } else {
                sending.await
            };
            match result {
                Ok(response) => Ok(self.answer(response, &bound, hold, served, is_head).await),
                Err(lost) => Err(Failure {
                    problem: Box::pin(lost.problem(&bound, &upload)).await,
                    served,
                }),
            }
        }
    }

    /// The client's request as the worker gets it.
    fn outgoing(&self, request: Request<ClientBody>, bound: &Bound) -> Request<ClientBody> {
        let expects = self.fields.expect && expects_continue(&request);
        let (parts, mut body) = request.into_parts();
        let mut head = self.head(parts, bound);
        if !expects {
            if self.fields.expect {
                // Whatever else may be expected, herd does not know it.
                head.headers.remove(EXPECT);
            }
            return Request::from_parts(head, body);
        }
        if bound.session.kind.protocol == Protocol::Http1 {
            body = body.on_permission();
        } else {
            head.headers.remove(EXPECT);
        }
        Request::from_parts(head, body)
    }

    fn answer<'a>(
        &'a self,
        response: Response<Answer>,
        bound: &'a Rc<Bound>,
        hold: Hold,
        served: Served,
        is_head: bool,
    ) -> impl Future<Output = Response<Body>> + 'a {
        if let Some(record) = served.record() {
            record.worker_answered();
        }
        let (mut parts, coming) = response.into_parts();
        bound.heed_keep_alive(parts.headers.get("keep-alive"));
        fields::strip(&mut parts.headers);
        self.label.put(&self.config, bound, &mut parts.headers);
        parts.version = Version::HTTP_11;
        let answer = match self.debugger_rewrite(bound, &parts, &coming, is_head) {
            Some(own) => {
                let body = WorkerBody::new(coming, Rc::clone(bound), hold, Served::default());
                Err(Box::pin(self.rewrite(parts, body, served, own)))
            }
            None => {
                let body = WorkerBody::new(coming, Rc::clone(bound), hold, served);
                Ok(Response::from_parts(parts, Body::Worker(body)))
            }
        };
        async move {
            match answer {
                Ok(answer) => answer,
                Err(rewriting) => rewriting.await,
            }
        }
    }

    /// The worker's own authority, if this answer may contain it.
    fn debugger_rewrite(
        &self,
        bound: &Bound,
        parts: &http::response::Parts,
        coming: &Answer,
        is_head: bool,
    ) -> Option<String> {
        let json = |v: &HeaderValue| v.as_bytes().to_ascii_lowercase().starts_with(b"application/json");
        let small = coming
            .size_hint()
            .upper()
            .is_some_and(|n| n <= MAX_REWRITE as u64);
        (bound.session.kind.host_header == HostHeader::Worker
            && !is_head
            && small
            && self.host.is_some()
            && parts.headers.get(CONTENT_TYPE).is_some_and(json))
        .then(|| own_host(bound).to_str().unwrap_or_default().to_owned())
    }

    async fn rewrite(
        &self,
        mut parts: http::response::Parts,
        mut body: WorkerBody,
        served: Served,
        own: String,
    ) -> Response<Body> {
        let Ok(whole) = Limited::new(&mut body, MAX_REWRITE).collect().await else {
            let problem = Problem::new(Code::WorkerConnectionLost, "the worker's answer broke off");
            return problem
                .into_response(&HeaderMap::new())
                .map(|bytes| Body::own(bytes, served));
        };
        let whole = whole.to_bytes();
        let bytes = match (
            std::str::from_utf8(&whole),
            self.host.as_ref().map(|h| h.to_str()),
        ) {
            (Ok(text), Some(Ok(host))) if text.contains("webSocketDebuggerUrl") => {
                Bytes::from(text.replace(&format!("\"ws://{own}/"), &format!("\"ws://{host}/")))
            }
            _ => whole,
        };
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        Response::from_parts(parts, Body::own(bytes, served))
    }
}

fn expects_continue<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(EXPECT)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// HTTP/2 may split `Cookie`; HTTP/1 may not (RFC 9113 section 8.2.3).
fn merge_cookies(headers: &mut HeaderMap) {
    if headers.get_all(http::header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers
        .get_all(http::header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(http::header::COOKIE, whole);
    }
}

/// What a worker calls itself.
fn own_host(bound: &Bound) -> HeaderValue {
    match &bound.session.endpoint {
        crate::worker::Endpoint::Tcp(tcp) => HeaderValue::try_from(tcp.addr.to_string()).ok(),
        crate::worker::Endpoint::Inside(inside) => {
            let address = inside.address();
            address.and_then(|address| HeaderValue::try_from(address.to_string()).ok())
        }
        crate::worker::Endpoint::Unix(_) => None,
    }
    .unwrap_or_else(|| HeaderValue::from_static("localhost"))
}
