//! Who a request is from, where `auth` asks: which credential counts, what it opens, and what is taken out of the request
//! before a worker sees it.
//!
//! | carried by | may be | counts |
//! |---|---|---|
//! | `X-Herd-Key` | key, token | first |
//! | `Authorization: Bearer` | key, token; anything else is the worker's | second |
//! | query parameter | token | third |
//! | cookie | token | last |
//!
//! Every credential of herd's own is taken out, also one that did not count; a worker's `Authorization` is never touched.

use std::sync::Arc;
use std::time::Instant;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::code::{Code, Problem};
use super::identity;
use crate::access::{Access, Claims, Credential, Principal, Rejection};
use crate::config::{Config, Session as Sources};
use crate::core::KindId;
use crate::driver::KindChoice;

pub(crate) static X_HERD_KEY: HeaderName = HeaderName::from_static("x-herd-key");

/// A request's sender, known by a credential that counts.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) principal: Arc<Principal>,
    token: Option<Claims>,
    carrier: Carrier,
    pub(crate) authorization: Authorization,
}

/// What carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// No web page can add one to a WebSocket.
    Header,
    /// Query or cookie: a browser may send it for any page.
    Page,
}

/// Whose the `Authorization` field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authorization {
    /// It passes.
    Workers,
    /// It does not.
    Herds,
}

impl Carrier {
    /// Of what decides which session a request is for: its id, or the credential of its sender.
    pub(crate) fn of(sources: &Sources, headers: &HeaderMap, entry: Option<&Entry>) -> Self {
        let keyed = entry.is_some_and(|entry| entry.carrier == Self::Header);
        match keyed || identity::is_named_by_header(sources, headers) {
            true => Self::Header,
            false => Self::Page,
        }
    }
}

impl Entry {
    pub(crate) fn of(access: &Access, headers: &HeaderMap, uri: &Uri) -> Result<Self, Problem> {
        let own = single(headers, &X_HERD_KEY)?.map(|key| recognise(access, key.as_bytes()));
        let bearer = single(headers, &AUTHORIZATION)?.and_then(bearer);
        let carried = bearer.and_then(|bearer| recognise(access, bearer));
        let authorization = match carried {
            Some(_) => Authorization::Herds,
            None => Authorization::Workers,
        };
        let (credential, carrier) = match (own, carried) {
            (Some(own), _) => (Some(own.ok_or_else(unknown_key)?), Carrier::Header),
            (None, Some(carried)) => (Some(carried), Carrier::Header),
            (None, None) => (of_page(access, headers, uri)?, Carrier::Page),
        };
        let (principal, token) = match credential {
            Some(Credential::Key(principal)) => (principal, None),
            Some(Credential::Token(principal, claims)) => (principal, Some(claims)),
            Some(Credential::BadToken(rejection)) => return Err(bad_token(rejection)),
            None if bearer.is_some() => return Err(unknown_key()),
            None => {
                return Err(Problem::new(
                    Code::Unauthorized,
                    "send Authorization: Bearer <key>, or X-Herd-Key where the worker needs Authorization itself; \
                     a web page sends a token as cookie or query parameter",
                ));
            }
        };
        Ok(Self {
            principal,
            token,
            carrier,
            authorization,
        })
    }

    /// Judges the credential once more, by who is let in now.
    pub(crate) fn renew(&mut self, access: &Access, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        let next = Self::of(access, headers, uri)?;
        // The session was asked for in that name.
        if next.principal.name != self.principal.name {
            return Err(unknown_key());
        }
        *self = next;
        Ok(())
    }

    /// The session's name: this principal's, and with a token that token's.
    pub(crate) fn session(
        &self,
        sources: &Sources,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<String, Problem> {
        let name = &self.principal.name;
        let Some(claims) = &self.token else {
            let id = identity::session_id(sources, headers, uri)?;
            return Ok(format!("{name}/{id}"));
        };
        match identity::named_id(sources, headers, uri)? {
            Some(id) if id != claims.session.id() => Err(Problem::new(
                Code::IdConflict,
                "the token is for another session than the request names; leave the id out",
            )),
            _ => Ok(claims.session.as_str().to_owned()),
        }
    }

    /// The kind, as far as this sender may choose it.
    pub(crate) fn kind(&self, config: &Config, asked: KindChoice) -> Result<KindChoice, Problem> {
        if let Some(wanted) = self.token.as_ref().and_then(|claims| claims.worker.as_deref()) {
            // A kind that is not in herd.yaml any more is nobody's.
            let kind = config
                .kind_named(wanted)
                .filter(|kind| self.principal.may_use(*kind));
            let kind = kind.ok_or_else(|| not_allowed(&format!("{wanted:?} workers")))?;
            return match asked {
                KindChoice::Named(asked) if asked != kind => Err(Problem::new(
                    Code::WorkerNotAllowed,
                    format!("the token is for {wanted:?} workers"),
                )),
                _ => Ok(KindChoice::Named(kind)),
            };
        }
        match asked {
            KindChoice::Named(kind) => admit(&self.principal, config, kind).map(|()| asked),
            KindChoice::Fallback(kind) => {
                Ok(KindChoice::Fallback(self.principal.first_kind().unwrap_or(kind)))
            }
        }
    }

    /// Counts the request, at the moment that it came.
    pub(crate) fn count(&self, now: Instant) -> Result<(), Problem> {
        self.principal.count_request(now).map_err(|wait| {
            let name = &self.principal.name;
            Problem::new(
                Code::QuotaExceeded,
                format!("{name} has used up its rate of requests"),
            )
            .retry_after(wait)
        })
    }
}

/// Whether the principal may use workers of this kind, also through a session that somebody else made for it.
pub(crate) fn admit(principal: &Principal, config: &Config, kind: KindId) -> Result<(), Problem> {
    match principal.may_use(kind) {
        true => Ok(()),
        false => Err(not_allowed(&format!("{:?} workers", config.kind_name(kind)))),
    }
}

/// Takes the cookie of this name out, and leaves the others as they came.
pub(crate) fn hide_cookie(headers: &mut HeaderMap, name: &str) {
    if !identity::cookies(headers).any(|(cookie, _)| cookie == name.as_bytes()) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|line| {
            let others: Vec<&[u8]> = line
                .as_bytes()
                .split(|b| *b == b';')
                .filter(|pair| {
                    let cookie = pair.split(|b| *b == b'=').next().unwrap_or_default();
                    cookie.trim_ascii() != name.as_bytes()
                })
                .map(<[u8]>::trim_ascii)
                .filter(|pair| !pair.is_empty())
                .collect();
            let line = others.join(&b"; "[..]);
            (!line.is_empty())
                .then(|| HeaderValue::from_bytes(&line).ok())
                .flatten()
        })
        .collect();
    headers.remove(COOKIE);
    for line in kept {
        headers.append(COOKIE, line);
    }
}

fn of_page(access: &Access, headers: &HeaderMap, uri: &Uri) -> Result<Option<Credential>, Problem> {
    let twice = |place: String| Problem::new(Code::TokenInvalid, format!("{place} is there twice"));
    let mut values = identity::parameters(uri, &access.query);
    if let Some(value) = values.next() {
        if values.next().is_some() {
            return Err(twice(format!("the query parameter {:?}", access.query)));
        }
        return Ok(Some(token(access, &value)));
    }
    let mut values = identity::cookies(headers).filter(|(name, _)| *name == access.cookie.as_bytes());
    let Some((_, value)) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        // One of another path or domain, which a neighbour may have set.
        return Err(twice(format!("the cookie {:?}", access.cookie)));
    }
    Ok(Some(token(access, value)))
}

fn token(access: &Access, text: &[u8]) -> Credential {
    match std::str::from_utf8(text) {
        Ok(text) => access.token(text),
        Err(_) => Credential::BadToken(Rejection::Forged),
    }
}

fn recognise(access: &Access, text: &[u8]) -> Option<Credential> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| access.recognise(text.trim()))
}

/// What follows `Bearer` (RFC 6750, 2.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes();
    let space = value.iter().position(|b| *b == b' ')?;
    let (scheme, credential) = value.split_at(space);
    scheme
        .eq_ignore_ascii_case(b"bearer")
        .then(|| credential.trim_ascii())
}

fn single<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Result<Option<&'r HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Problem::new(Code::BadRequest, format!("{name} is repeated"))),
        (value, None) => Ok(value),
    }
}

fn unknown_key() -> Problem {
    Problem::new(Code::Unauthorized, "this key is not known")
}

fn not_allowed(what: &str) -> Problem {
    Problem::new(Code::WorkerNotAllowed, format!("this key may not use {what}"))
}

fn bad_token(rejection: Rejection) -> Problem {
    let (code, detail) = match rejection {
        Rejection::Expired => (Code::TokenExpired, "ask for a new one"),
        Rejection::Forged => (Code::TokenInvalid, "this herd has not signed it"),
        Rejection::TooLong => (
            Code::TokenInvalid,
            "it is good for longer than a day; sign one that expires sooner",
        ),
        Rejection::OtherPort => (Code::TokenInvalid, "it is for another data port"),
        Rejection::Revoked => (Code::TokenInvalid, "its principal is not known any more"),
    };
    Problem::new(code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_taken_out_of_cookies() {
        for (sent, passed) in [
            (&["a=1; herd_token=x; b=2"][..], &["a=1; b=2"][..]),
            (&["herd_token=x"], &[]),
            (&["a=1", "herd_token=\"x\"", "b=2;"], &["a=1", "b=2"]),
            (&["herd_token=x;herd_token=y"], &[]),
            (&["xherd_token=x; b=\"; \""], &["xherd_token=x; b=\"; \""]),
        ] {
            let mut headers = HeaderMap::new();
            for line in sent {
                headers.append(COOKIE, HeaderValue::from_static(line));
            }
            hide_cookie(&mut headers, "herd_token");
            let left: Vec<_> = headers.get_all(COOKIE).iter().collect();
            assert_eq!(left, passed, "{sent:?}");
        }
    }

    #[test]
    fn a_bearer_is_what_follows_the_scheme() {
        let of = |text| bearer(&HeaderValue::from_static(text)).map(<[u8]>::to_vec);
        assert_eq!(of("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(of("bearer  abc "), Some(b"abc".to_vec()));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("abc"), None);
    }
}
