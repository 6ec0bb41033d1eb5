//! Which header fields pass between client and worker, and which herd sets itself.
//!
//! Servers that make variables of names (CGI, RFC 3875 section 4.1.18; WSGI) take `X_Forwarded_For` for `X-Forwarded-For`, and so
//! do the judgements here, of all names that herd gives a meaning of its own.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::body::Frame;

pub(crate) static X_SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
pub(crate) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether the peer's own `X-Forwarded-*` may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Untrusted,
    TrustedProxy,
}

/// Whom fields go on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toward {
    Worker,
    Client,
}

/// What the client's connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Where a connection's requests come from, as their workers are told.
#[derive(Debug)]
pub(crate) struct Sender {
    address: HeaderValue,
    scheme: Scheme,
    trust: Trust,
}

impl Sender {
    pub(crate) fn new(peer: IpAddr, scheme: Scheme, trust: Trust) -> Self {
        Self {
            // Addresses are plain ASCII.
            address: HeaderValue::try_from(peer.to_canonical().to_string())
                .unwrap_or(HeaderValue::from_static("unknown")),
            scheme,
            trust,
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }
}

/// Which fields a request has, of those that most have not: to look at each name once is cheaper than to ask the map.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Present {
    /// It may name others, which do not pass then.
    pub(crate) connection: bool,
    pub(crate) cookie: bool,
    pub(crate) expect: bool,
    /// What tells of the way here: `Forwarded`, `X-Forwarded-*`, `X-Real-IP`.
    pub(crate) forwarded: bool,
    pub(crate) host: bool,
    /// One of herd's.
    pub(crate) own: bool,
    pub(crate) upgrade: bool,
}

impl Present {
    pub(crate) fn among(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => present.connection = true,
                "cookie" => present.cookie = true,
                "expect" => present.expect = true,
                "forwarded" => present.forwarded = true,
                "host" => present.host = true,
                "upgrade" => present.upgrade = true,
                other => {
                    if let Some(rest) = after_x(other) {
                        present.own |= tells_herd(rest);
                        present.forwarded |= tells_the_way(rest);
                    }
                }
            }
        }
        present
    }
}

fn is_own(name: &HeaderName) -> bool {
    after_x(name.as_str()).is_some_and(tells_herd)
}

/// Told of the way that a request came; only a trusted proxy is believed.
fn is_forwarded(name: &HeaderName) -> bool {
    *name == FORWARDED || after_x(name.as_str()).is_some_and(tells_the_way)
}

fn after_x(name: &str) -> Option<&[u8]> {
    match name.as_bytes() {
        [b'x', b'-' | b'_', rest @ ..] => Some(rest),
        _ => None,
    }
}

fn tells_herd(rest: &[u8]) -> bool {
    begins_alike(rest, b"herd-")
}

fn tells_the_way(rest: &[u8]) -> bool {
    begins_alike(rest, b"forwarded-") || alike(rest, b"real-ip")
}

/// Whether the two are one variable's name.
pub(crate) fn alike(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

fn begins_alike(name: &[u8], beginning: &[u8]) -> bool {
    name.get(..beginning.len())
        .is_some_and(|begins| alike(begins, beginning))
}

/// Fields that concern only one connection (RFC 9110 section 7.6.1), and all of herd's own.
pub(crate) fn strip(headers: &mut HeaderMap, toward: Toward) {
    // One pass over the few fields there are is cheaper than a look-up of each that may not pass.
    let mut named: Vec<HeaderName> = Vec::new();
    let mut trailers = false;
    for (name, value) in &*headers {
        if *name == CONNECTION {
            named.extend(value.as_bytes().split(|b| *b == b',').filter_map(|token| {
                let token = token.trim_ascii();
                // These two are among the fields below, and naming them would only cost a look-up.
                let known = token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive");
                // `TE: trailers` is re-issued, and needs to be named by whoever sends it.
                HeaderName::from_bytes(token)
                    .ok()
                    .filter(|name| !known && *name != TE)
            }));
        }
        if *name == TE {
            trailers |= names(value, b"trailers");
        }
        if concerns_one_connection(name, toward) || is_own(name) {
            named.push(name.clone());
        }
    }
    for name in named {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn concerns_one_connection(name: &HeaderName, toward: Toward) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "te" | "transfer-encoding" | "upgrade" => true,
        // No field of HTTP, but by CGI's rules the variable HTTP_PROXY, by which programs choose theirs (CVE-2016-5385).
        "proxy" => toward == Toward::Worker,
        other => other.strip_prefix("proxy-").is_some_and(|rest| match toward {
            Toward::Worker => true,
            // Others go to the client: `Proxy-Status` (RFC 9209) tells it of every proxy on the way.
            Toward::Client => matches!(
                rest,
                "authenticate" | "authentication-info" | "authorization" | "connection"
            ),
        }),
    }
}

/// Without trailers that are for a head only (RFC 9110 section 6.5.1), be it because some recipients merge the two:
/// framing, routing, who asks, and everything that passes in no head either. `session` are the headers that name a session.
#[inline]
pub(crate) fn without_forbidden_trailers(
    frame: Frame<Bytes>,
    session: &[HeaderName],
    toward: Toward,
) -> Frame<Bytes> {
    match frame.is_trailers() {
        true => trailers_without_forbidden(frame, session, toward),
        false => frame,
    }
}

#[cold]
fn trailers_without_forbidden(
    mut frame: Frame<Bytes>,
    session: &[HeaderName],
    toward: Toward,
) -> Frame<Bytes> {
    const OF_A_HEAD: [HeaderName; 6] = [
        AUTHORIZATION,
        CONTENT_LENGTH,
        COOKIE,
        HOST,
        SET_COOKIE,
        TRANSFER_ENCODING,
    ];
    let forbidden = |name: &HeaderName| {
        let text = name.as_str().as_bytes();
        let mut of_a_head = OF_A_HEAD.iter().chain(session);
        of_a_head.any(|own| alike(own.as_str().as_bytes(), text))
            || concerns_one_connection(name, toward)
            || toward == Toward::Worker && begins_alike(text, b"proxy-")
            || is_own(name)
            || is_forwarded(name)
    };
    if let Some(trailers) = frame.trailers_mut() {
        let named: Vec<HeaderName> = trailers.keys().filter(|name| forbidden(name)).cloned().collect();
        for name in named {
            trailers.remove(name);
        }
    }
    frame
}

/// Says who the client is. `present` is what the request came with, `host` is what it asked for.
pub(crate) fn forwarded(
    headers: &mut HeaderMap,
    present: Present,
    sender: &Sender,
    host: Option<&HeaderValue>,
) {
    let Sender {
        address,
        scheme,
        trust,
    } = sender;
    let trusted = *trust == Trust::TrustedProxy;
    if present.forwarded {
        // A trusted proxy spells them right; the others it has let pass.
        let believed = |name: &HeaderName| trusted && !name.as_str().contains('_');
        let named: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_forwarded(name) && !believed(name))
            .cloned()
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let chain = match headers.get(&X_FORWARDED_FOR) {
        Some(_) if trusted => {
            let mut chain = Vec::new();
            for value in headers.get_all(&X_FORWARDED_FOR) {
                chain.extend_from_slice(value.as_bytes());
                chain.extend_from_slice(b", ");
            }
            chain.extend_from_slice(address.as_bytes());
            HeaderValue::from_bytes(&chain).ok()
        }
        _ => None,
    };
    headers.insert(&X_FORWARDED_FOR, chain.unwrap_or_else(|| address.clone()));
    if !trusted || !headers.contains_key(&X_FORWARDED_PROTO) {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !trusted || !headers.contains_key(&X_FORWARDED_HOST) {
        match host {
            Some(host) => headers.insert(&X_FORWARDED_HOST, host.clone()),
            None => headers.remove(&X_FORWARDED_HOST),
        };
    }
}

/// How the client came, be it to the proxy before herd: only a trusted one is believed, about the first of its clients.
pub(crate) fn client_scheme(headers: &HeaderMap, sender: &Sender) -> Scheme {
    let told = match sender.trust {
        Trust::TrustedProxy => headers.get(&X_FORWARDED_PROTO),
        Trust::Untrusted => None,
    };
    let Some(told) = told else {
        return sender.scheme;
    };
    let first = told.as_bytes().split(|byte| *byte == b',').next();
    let first = first.unwrap_or_default().trim_ascii();
    match first.eq_ignore_ascii_case(b"https") || first.eq_ignore_ascii_case(b"wss") {
        true => Scheme::Https,
        false => Scheme::Http,
    }
}

/// The protocol of a genuine upgrade: `Connection` names `upgrade`, and `Upgrade` is given once.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next()?;
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| names(value, b"upgrade"));
    (named && protocols.next().is_none() && !protocol.is_empty()).then(|| protocol.clone())
}

pub(crate) fn names(list: &HeaderValue, token: &[u8]) -> bool {
    list.as_bytes().split(|b| *b == b',').any(|item| {
        let item = item.split(|b| *b == b';').next().unwrap_or_default();
        item.trim_ascii().eq_ignore_ascii_case(token)
    })
}

/// The `Host` that the client sent, or HTTP/2's `:authority`.
pub(crate) fn client_host(headers: &HeaderMap, uri: &http::Uri) -> Option<HeaderValue> {
    match headers.get(HOST) {
        Some(host) => Some(host.clone()),
        None => uri
            .authority()
            .and_then(|a| HeaderValue::from_str(a.as_str()).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn fields_of_one_connection_do_not_pass() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("proxy-connection", "keep-alive"),
            ("proxy-anything", "1"),
            ("proxy", "http://elsewhere.example"),
            ("te", "gzip, trailers;q=1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-herd-worker", "browser"),
            ("x-herd-anything", "1"),
            ("x_herd_key", "1"),
            ("x-herd_key", "1"),
            ("accept", "*/*"),
            ("x_herds", "1"),
        ]);
        strip(&mut headers, Toward::Worker);
        let left = [("te", "trailers"), ("accept", "*/*"), ("x_herds", "1")];
        assert_eq!(headers, map(&left));
    }

    #[test]
    fn an_answer_keeps_what_the_proxies_behind_herd_tell_its_client() {
        let mut headers = map(&[
            ("proxy-status", "inner; error=http_response_incomplete"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "x"),
            ("proxy-authorization", "secret"),
            ("proxy-connection", "keep-alive"),
        ]);
        let trailers = Frame::trailers(headers.clone());
        strip(&mut headers, Toward::Client);
        let left = map(&[("proxy-status", "inner; error=http_response_incomplete")]);
        assert_eq!(headers, left);
        let trailers = without_forbidden_trailers(trailers, &[], Toward::Client);
        assert_eq!(trailers.into_trailers().unwrap(), left);
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_about_the_client() {
        let sent = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-user", "root"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
        ];
        let host = HeaderValue::from_static("b");
        let sender = |scheme, trust| Sender::new([127, 0, 0, 1].into(), scheme, trust);
        let mut headers = map(&sent);
        forwarded(
            &mut headers,
            Present::among(&map(&sent)),
            &sender(Scheme::Http, Trust::Untrusted),
            Some(&host),
        );
        let own = [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "b"),
        ];
        assert_eq!(headers, map(&own));
        let mut headers = map(&sent);
        forwarded(
            &mut headers,
            Present::among(&map(&sent)),
            &sender(Scheme::Http, Trust::TrustedProxy),
            Some(&host),
        );
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 127.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        for (name, value) in &sent[2..] {
            assert_eq!(headers[*name], value);
        }
    }

    #[test]
    fn who_spells_a_forwarding_header_with_underscores_is_not_believed_either() {
        let alike = [
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_forwarded-host",
            "x_forwarded_user",
            "x_real_ip",
            "x-real_ip",
        ];
        for trust in [Trust::Untrusted, Trust::TrustedProxy] {
            for name in alike {
                let mut headers = map(&[(name, "1.1.1.1"), ("x_forward", "kept")]);
                let present = Present::among(&headers);
                let sender = Sender::new([127, 0, 0, 1].into(), Scheme::Http, trust);
                forwarded(&mut headers, present, &sender, None);
                let left = [
                    ("x_forward", "kept"),
                    ("x-forwarded-for", "127.0.0.1"),
                    ("x-forwarded-proto", "http"),
                ];
                assert_eq!(headers, map(&left), "{name} {trust:?}");
            }
        }
    }

    #[test]
    fn trailers_do_not_bring_what_belongs_into_a_head() {
        let trailers = Frame::trailers(map(&[
            ("grpc-status", "0"),
            ("x-herd-error", "fake"),
            ("x-session-id", "other"),
            ("x-forwarded-for", "1.1.1.1"),
            ("authorization", "Bearer x"),
            ("content-length", "7"),
            ("proxy-anything", "1"),
            ("set-cookie", "a=b"),
            ("transfer-encoding", "chunked"),
            ("mcp-session-id", "other"),
            ("x_session_id", "other"),
            ("x_herd_key", "x"),
            ("x_forwarded_for", "1.1.1.1"),
            ("content_length", "7"),
            ("proxy_anything", "1"),
        ]));
        let session = ["x-session-id", "mcp-session-id"].map(HeaderName::from_static);
        let left = without_forbidden_trailers(trailers, &session, Toward::Worker)
            .into_trailers()
            .unwrap();
        assert_eq!(left, map(&[("grpc-status", "0")]));
        let data = Frame::data(Bytes::from_static(b"x"));
        let data = without_forbidden_trailers(data, &session, Toward::Worker);
        assert_eq!(data.into_data().unwrap(), "x");
    }

    #[test]
    fn who_came_over_tls_is_said_to_have() {
        let mut headers = HeaderMap::new();
        let sender = Sender::new([127, 0, 0, 1].into(), Scheme::Https, Trust::Untrusted);
        forwarded(&mut headers, Present::default(), &sender, None);
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn only_a_trusted_proxy_says_how_its_client_came() {
        use Scheme::{Http, Https};
        for (sent, came, trust, is) in [
            (None, Http, Trust::TrustedProxy, Http),
            (None, Https, Trust::TrustedProxy, Https),
            (Some("https"), Http, Trust::TrustedProxy, Https),
            (Some("HTTPS, http"), Http, Trust::TrustedProxy, Https),
            (Some("wss"), Http, Trust::TrustedProxy, Https),
            (Some("http"), Https, Trust::TrustedProxy, Http),
            (Some("https"), Http, Trust::Untrusted, Http),
            (Some("http"), Https, Trust::Untrusted, Https),
        ] {
            let headers: HeaderMap = sent
                .map(|sent| (X_FORWARDED_PROTO.clone(), HeaderValue::from_static(sent)))
                .into_iter()
                .collect();
            let sender = Sender::new([127, 0, 0, 1].into(), came, trust);
            assert_eq!(
                client_scheme(&headers, &sender),
                is,
                "{sent:?} {came:?} {trust:?}"
            );
        }
    }

    #[test]
    fn an_upgrade_needs_both_fields() {
        assert!(
            upgrade(&map(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket")
            ]))
            .is_some()
        );
        assert!(upgrade(&map(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&map(&[("connection", "upgrade")])).is_none());
        assert!(
            upgrade(&map(&[
                ("connection", "upgrade"),
                ("upgrade", "a"),
                ("upgrade", "b")
            ]))
            .is_none()
        );
    }
}
