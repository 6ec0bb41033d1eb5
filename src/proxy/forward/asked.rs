//! What a request asks for: who sends it, for which session and kind, and how it wants to be served.

use std::rc::Rc;

use http::header::{EXPECT, HOST};
use http::{HeaderValue, Method, Request, Version};
use hyper::body::Incoming;

use super::{Client, Story};
use crate::access::Access;
use crate::config::Config;
use crate::core::Refusal;
use crate::driver::{KindChoice, NotAttached, Remains, Wait};
use crate::proxy::body::{ClientBody, Upload};
use crate::proxy::code::{Code, Problem};
use crate::proxy::entry::{Carrier, Entry};
use crate::proxy::fields::{self, Present};
use crate::proxy::send::BROKEN_BODY;
use crate::proxy::thread::{Claim, Refused, Thread};
use crate::proxy::{identity, origin};

/// A request whose session and manner are known.
pub(super) struct Asked {
    pub(super) request: Request<ClientBody>,
    /// It is served by this one, whatever comes meanwhile.
    pub(super) config: Rc<Config>,
    pub(super) fields: Present,
    /// `None`: nobody was asked who it is.
    pub(super) entry: Option<Box<Entry>>,
    pub(super) kind: KindChoice,
    manner: (Wait, Remains),
    pub(super) mode: Mode,
    pub(super) upload: Rc<Upload>,
}

impl Asked {
    pub(super) fn read(
        thread: &Thread,
        client: &Client,
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
            origin::check(allowed, headers, uri, carrier, &client.sender)?;
        }
        let upload = Rc::clone(&story.upload);
        let request = request.map(|body| ClientBody::new(body, Rc::clone(&upload), Rc::clone(&config)));
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
    pub(super) async fn claim(&mut self, thread: &Thread, id: &str) -> Result<Claim, Refused> {
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
}

pub(super) enum Mode {
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
    let authority = request.uri().authority();
    let named = match (first, authority) {
        (Some(host), _) => host.as_bytes(),
        (None, Some(authority)) => authority.as_str().as_bytes(),
        (None, None) => b"",
    };
    // The gate has seen to it that HTTP/1.1 names one; HTTP/1.0 need not.
    if named.is_empty() && request.version() == Version::HTTP_2 {
        return Err(Problem::new(
            Code::BadRequest,
            "send :authority or Host, with the name that herd is reached by",
        ));
    }
    if !named.iter().all(|byte| may_name_host(*byte)) {
        return Err(Problem::new(
            Code::BadRequest,
            "Host has a character that neither a host's name nor a port has",
        ));
    }
    if let (Some(host), Some(authority)) = (first, authority)
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

/// RFC 3986 section 3.2.2 and 3.2.3; without user information, which has no place here (RFC 9110 section 4.2.4).
fn may_name_host(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']'
        | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

pub(super) fn expects_continue<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(EXPECT)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
