//! Which session and which kind a request is for. Decided on the request as it came, before any header
//! is stripped, so that `Connection: X-Session-ID` cannot hide the id.

use std::borrow::Cow;

use http::header::{COOKIE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Uri};
use percent_encoding::percent_decode_str;

use super::code::{Code, Problem};
use super::fields::{self, Present};
use crate::config::{Config, Session as Sources};
use crate::core::{KindId, SessionId};
use crate::driver::{KindChoice, Remains, Wait};

pub(crate) static X_HERD_WORKER: HeaderName = HeaderName::from_static("x-herd-worker");
static X_HERD_WAIT: HeaderName = HeaderName::from_static("x-herd-wait");
static X_HERD_SESSION: HeaderName = HeaderName::from_static("x-herd-session");

/// The one id that the request names, checked.
pub(crate) fn session_id<'r>(
    sources: &Sources,
    headers: &'r HeaderMap,
    uri: &'r Uri,
) -> Result<Cow<'r, str>, Problem> {
    named_id(sources, headers, uri)?.ok_or_else(|| {
        let name = sources.headers.first().map_or("x-session-id", HeaderName::as_str);
        Problem::new(
            Code::IdRequired,
            format!("send the header {name:?} with an id of your choice: 1-128 of A-Z a-z 0-9 . _ ~ -"),
        )
    })
}

/// The one id that the request names, if it does.
pub(crate) fn named_id<'r>(
    sources: &Sources,
    headers: &'r HeaderMap,
    uri: &'r Uri,
) -> Result<Option<Cow<'r, str>>, Problem> {
    for name in headers.keys() {
        if looks_alike(sources, name.as_str()) {
            return Err(conflict(format!(
                "the header {name:?} looks like the session header but is not it"
            )));
        }
    }
    let mut found: Option<Cow<'r, [u8]>> = None;
    for name in &sources.headers {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(conflict(format!("the header {name:?} is repeated")));
        }
        agree(&mut found, Cow::Borrowed(value.as_bytes()), name.as_str())?;
    }
    if let Some(parameter) = &sources.query {
        let mut values = parameters(uri, parameter);
        if let Some(value) = values.next() {
            if values.next().is_some() {
                return Err(conflict(format!("the query parameter {parameter:?} is repeated")));
            }
            agree(&mut found, value, "the query parameter")?;
        }
    }
    if let Some(cookie) = &sources.cookie {
        let mut values = cookies(headers).filter(|(name, _)| *name == cookie.as_bytes());
        if let Some((_, value)) = values.next() {
            if values.next().is_some() {
                return Err(conflict(format!("the cookie {cookie:?} is repeated")));
            }
            agree(&mut found, Cow::Borrowed(value), "the cookie")?;
        }
    }
    let Some(id) = found else {
        return Ok(None);
    };
    let invalid = |e: crate::core::InvalidSessionId| Problem::new(Code::IdInvalid, e.to_string());
    match id {
        Cow::Borrowed(id) => SessionId::check(id).map(Cow::Borrowed).map_err(invalid),
        Cow::Owned(id) => SessionId::check(&id)
            .map(|id| Cow::Owned(id.to_owned()))
            .map_err(invalid),
    }
    .map(Some)
}

/// Whether a header carries the id: a web page cannot add one to a WebSocket.
pub(crate) fn is_named_by_header(sources: &Sources, headers: &HeaderMap) -> bool {
    sources.headers.iter().any(|name| headers.contains_key(name))
}

/// Every value of the query's parameter of this name.
pub(crate) fn parameters<'r>(uri: &'r Uri, wanted: &str) -> impl Iterator<Item = Cow<'r, [u8]>> {
    let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
    pairs.filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(name) == *wanted.as_bytes()).then(|| decoded(value))
    })
}

/// `x_session_id` for `x-session-id`: servers that map headers to variables confuse the two.
fn looks_alike(sources: &Sources, name: &str) -> bool {
    name.contains('_')
        && sources.headers.iter().any(|own| {
            let own = own.as_str();
            own != name && fields::alike(own.as_bytes(), name.as_bytes())
        })
}

fn agree<'r>(found: &mut Option<Cow<'r, [u8]>>, value: Cow<'r, [u8]>, source: &str) -> Result<(), Problem> {
    match found {
        Some(other) if **other != *value => Err(conflict(format!(
            "{source} names another session than an earlier source"
        ))),
        Some(_) => Ok(()),
        None => {
            *found = Some(value);
            Ok(())
        }
    }
}

fn conflict(detail: String) -> Problem {
    Problem::new(Code::IdConflict, detail)
}

pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers.get_all(COOKIE).iter().flat_map(|line| {
        line.as_bytes().split(|b| *b == b';').filter_map(|pair| {
            let at = pair.iter().position(|b| *b == b'=')?;
            let value = pair[at + 1..].trim_ascii();
            let value = value
                .strip_prefix(b"\"")
                .and_then(|v| v.strip_suffix(b"\""))
                .unwrap_or(value);
            Some((pair[..at].trim_ascii(), value))
        })
    })
}

/// As of a form: `+` is a space.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => Cow::Owned(percent_decode_str(&text.replace('+', " ")).collect()),
        false => percent_decode_str(text).into(),
    }
}

/// The target in origin form, without the query parameters that are herd's: a session's id, a token.
pub(crate) fn origin_form(own: [Option<&str>; 2], uri: &Uri) -> PathAndQuery {
    let whole = match uri.path_and_query() {
        Some(whole) if whole.as_str() != "/" => whole.clone(),
        // Also of `http://host#part`, which calls itself "/" and would be written as nothing.
        _ => PathAndQuery::from_static("/"),
    };
    let (true, Some(query)) = (own.iter().any(Option::is_some), whole.query()) else {
        return whole;
    };
    let mine = |pair: &&str| {
        let name = decoded(pair.split_once('=').map_or(*pair, |(name, _)| name));
        own.iter().flatten().any(|own| *name == *own.as_bytes())
    };
    if !query.split('&').any(|pair| mine(&pair)) {
        return whole;
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !mine(pair)).collect();
    let target = if rest.is_empty() {
        whole.path().to_owned()
    } else {
        format!("{}?{}", whole.path(), rest.join("&"))
    };
    // Removing a parameter from a valid target leaves a valid one.
    PathAndQuery::try_from(target).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

/// The kind: `X-Herd-Worker`, else the most specific route, else the first one.
pub(crate) fn kind(
    config: &Config,
    fields: Present,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<KindChoice, Problem> {
    let mut names = headers.get_all(&X_HERD_WORKER).iter();
    if fields.own
        && let Some(name) = names.next()
    {
        let found = names.next().is_none().then(|| name.to_str().ok()).flatten();
        return found
            .and_then(|name| config.kind_named(name))
            .map(KindChoice::Named)
            .ok_or_else(|| {
                let asked = String::from_utf8_lossy(name.as_bytes());
                unknown_worker(config, &format!("X-Herd-Worker asks for {asked:?}"))
            });
    }
    Ok(match routed(config, host(headers, uri), uri.path()) {
        Some(kind) => KindChoice::Named(kind),
        None => KindChoice::Fallback(config.first_kind()),
    })
}

/// Says what kinds there are.
pub(crate) fn unknown_worker(config: &Config, why: &str) -> Problem {
    let workers: Vec<String> = config.kinds.iter().map(|k| k.name.clone()).collect();
    let detail = format!("{why}; there are: {}", workers.join(", "));
    let mut problem = Problem::new(Code::UnknownWorker, detail);
    problem.workers = workers;
    problem
}

/// Host and path beat host, host beats path, a longer prefix beats a shorter one, earlier beats later.
fn routed(config: &Config, host: Option<&str>, path: &str) -> Option<KindId> {
    let mut best: Option<((bool, usize), KindId)> = None;
    for kind in &config.kinds {
        for route in &kind.routes {
            if let Some(wanted) = &route.host
                && !host.is_some_and(|host| host.eq_ignore_ascii_case(wanted))
            {
                continue;
            }
            if let Some(prefix) = &route.path_prefix
                && !below(prefix, path)
            {
                continue;
            }
            let rank = (
                route.host.is_some(),
                route.path_prefix.as_ref().map_or(0, String::len),
            );
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, kind.id));
            }
        }
    }
    best.map(|(_, kind)| kind)
}

fn below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// The host that the client asked for, without port.
fn host<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<&'r str> {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(HOST)?.to_str().ok()?,
    };
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    Some(match authority[end..].find(':') {
        Some(colon) => &authority[..end + colon],
        None => authority,
    })
}

/// `X-Herd-Wait: 0` and `X-Herd-Session: new`.
pub(crate) fn manner(headers: &HeaderMap) -> (Wait, Remains) {
    let wait = match headers.get(&X_HERD_WAIT) {
        Some(value) if value == "0" => Wait::Refuse,
        _ => Wait::Queue,
    };
    let remains = match headers.get(&X_HERD_SESSION) {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"new") => Remains::Discard,
        _ => Remains::Respect,
    };
    (wait, remains)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, StatusCode};
    use std::time::Duration;

    fn sources() -> Sources {
        Sources {
            headers: vec![
                HeaderName::from_static("x-session-id"),
                HeaderName::from_static("mcp-session-id"),
            ],
            query: Some("session".into()),
            cookie: Some("sid".into()),
            lost_status: StatusCode::GONE,
            lost_for: Duration::from_secs(600),
        }
    }

    fn id(headers: &[(&'static str, &'static str)], uri: &str) -> Result<String, Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let uri: Uri = uri.parse().unwrap();
        session_id(&sources(), &map, &uri)
            .map(Cow::into_owned)
            .map_err(|p| p.code)
    }

    #[test]
    fn an_id_comes_from_any_one_source() {
        assert_eq!(id(&[("x-session-id", "a")], "/"), Ok("a".into()));
        assert_eq!(id(&[("mcp-session-id", "a")], "/"), Ok("a".into()));
        assert_eq!(id(&[], "/?x=1&session=a%2Db"), Ok("a-b".into()));
        assert_eq!(id(&[("cookie", "x=1; sid=\"a\"")], "/"), Ok("a".into()));
        assert_eq!(
            id(&[("x-session-id", "a"), ("cookie", "sid=a")], "/?session=a"),
            Ok("a".into())
        );
    }

    #[test]
    fn an_ambiguous_id_is_a_conflict() {
        for (headers, uri) in [
            (&[("x-session-id", "a"), ("x-session-id", "a")][..], "/"),
            (&[("x-session-id", "a"), ("x_session_id", "a")], "/"),
            (&[("x_session-id", "a")], "/"),
            (&[("x-session-id", "a"), ("mcp-session-id", "b")], "/"),
            (&[("x-session-id", "a")], "/?session=b"),
            (&[], "/?session=a&session=a"),
            (&[("cookie", "sid=a; sid=b")], "/"),
        ] {
            assert_eq!(id(headers, uri), Err(Code::IdConflict), "{headers:?} {uri}");
        }
    }

    #[test]
    fn a_missing_or_malformed_id_has_its_own_code() {
        assert_eq!(id(&[], "/"), Err(Code::IdRequired));
        assert_eq!(id(&[("x-session-id", "")], "/"), Err(Code::IdInvalid));
        assert_eq!(id(&[("x-session-id", "a b")], "/"), Err(Code::IdInvalid));
    }

    #[test]
    fn the_id_is_removed_from_the_query() {
        for (uri, target) in [
            ("/p?session=a", "/p"),
            ("/p?x=1&session=a&y=2", "/p?x=1&y=2"),
            ("/p?%73ession=a", "/p"),
            ("/p?x=1", "/p?x=1"),
            ("http://h/p?session=a", "/p"),
            ("http://h?session=a", "/"),
            ("http://h#part", "/"),
            ("http://h", "/"),
        ] {
            let written = Uri::from(origin_form([Some("session"), None], &uri.parse().unwrap()));
            assert_eq!(written.to_string(), target, "{uri}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        assert!(below("/a", "/a") && below("/a", "/a/b") && below("/a/", "/a/b") && below("/", "/x"));
        assert!(!below("/a", "/ab") && !below("/a", "/b"));
    }

    #[test]
    fn the_host_is_found_without_its_port() {
        let of = |host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            super::host(&headers, &Uri::from_static("/")).map(str::to_owned)
        };
        assert_eq!(of("a.example:80").as_deref(), Some("a.example"));
        assert_eq!(of("[::1]:80").as_deref(), Some("[::1]"));
        assert_eq!(of("a.example").as_deref(), Some("a.example"));
    }
}
