//! A request that has its worker: sent as the worker is to see it, and answered as the client is to.

mod debugger;
mod label;
mod upgrade;

use std::rc::Rc;

use http::header::{AUTHORIZATION, EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};

use self::label::Label;
use super::asked::{Asked, Mode, expects_continue};
use super::{Begun, Client, Failure};
use crate::config::{Bind, Config, HostHeader, Protocol, Reuse};
use crate::driver::Hold;
use crate::proxy::body::{Answer, Body, ClientBody, Served, Upload, WorkerBody};
use crate::proxy::entry::{self, Authorization};
use crate::proxy::fields::{self, Present, Toward};
use crate::proxy::http1::answer::Wanted;
use crate::proxy::identity;
use crate::proxy::record::Record;
use crate::proxy::send::send;
use crate::proxy::thread::{Claim, Thread, ended};
use crate::proxy::upstream::Bound;
use crate::worker::Endpoint;

/// What is done for the request, now that it has its worker.
pub(super) fn go(
    asked: Asked,
    thread: &Rc<Thread>,
    client: &Rc<Client>,
    claim: Claim,
    served: Served,
) -> Begun<impl Future<Output = Result<Response<Body>, Failure>> + use<>> {
    if let Some(record) = served.record() {
        record.claimed(&claim);
    }
    if let Some(entry) = &asked.entry
        && let Err(problem) = entry::admit(&entry.principal, &asked.config, claim.bound.session.kind_id)
    {
        return Begun::Refused(Failure { problem, served });
    }
    if claim.bound.session.kind.bind == Bind::Connection {
        client.hold_connection(&claim);
    }
    let exchange = Exchange {
        thread: Rc::clone(thread),
        client: Rc::clone(client),
        host: fields::client_host(asked.request.headers(), asked.request.uri()),
        fields: asked.fields,
        authorization: match &asked.entry {
            Some(entry) => entry.authorization,
            None => Authorization::Workers,
        },
        label: Label::of(&claim),
        config: asked.config,
        record: served.record().cloned(),
    };
    let request = asked.request;
    match asked.mode {
        Mode::Plain => Begun::Sent(exchange.plain(request, claim, asked.upload, served)),
        Mode::Upgrade(protocol) => {
            Begun::Waiting(Box::pin(exchange.upgrade(request, claim, protocol, served)))
        }
        Mode::WebSocketOverHttp2 => {
            Begun::Waiting(Box::pin(exchange.websocket_over_h2(request, claim, served)))
        }
    }
}

/// What the sending of a request and the passing on of its answer need to know.
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
        fields::strip(&mut parts.headers, Toward::Worker);
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
        let wanted = Wanted::by(request.method());
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
                Ok(response) => self.answer(response, &bound, hold, served, wanted).await,
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
        wanted: Wanted,
    ) -> impl Future<Output = Result<Response<Body>, Failure>> + 'a {
        if let Some(record) = served.record() {
            record.worker_answered();
        }
        let (mut parts, coming) = response.into_parts();
        bound.heed_keep_alive(parts.headers.get("keep-alive"));
        fields::strip(&mut parts.headers, Toward::Client);
        self.label.put(&self.config, bound, &mut parts.headers);
        parts.version = Version::HTTP_11;
        let config = Rc::clone(&self.config);
        let answer = match self.debugger_rewrite(bound, &parts, &coming, wanted) {
            Some(own) => {
                let body = WorkerBody::new(coming, Rc::clone(bound), config, hold, Served::default());
                Err(Box::pin(self.rewrite(bound, parts, body, served, own)))
            }
            None => {
                let body = WorkerBody::new(coming, Rc::clone(bound), config, hold, served);
                Ok(Response::from_parts(parts, Body::Worker(body)))
            }
        };
        async move {
            match answer {
                Ok(answer) => Ok(answer),
                Err(rewriting) => rewriting.await,
            }
        }
    }
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
        Endpoint::Tcp(tcp) => HeaderValue::try_from(tcp.addr.to_string()).ok(),
        Endpoint::Inside(inside) => {
            let address = inside.address();
            address.and_then(|address| HeaderValue::try_from(address.to_string()).ok())
        }
        Endpoint::Unix(_) => None,
    }
    .unwrap_or_else(|| HeaderValue::from_static("localhost"))
}
