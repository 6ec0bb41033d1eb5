//! Which web pages may open WebSockets. A browser lets any page open one to any host, with that host's cookies, and leaves it
//! to the server to look at `Origin` (RFC 6455, 10.2).
//!
//! | `network.websocket_origins` | page of the same host and port | other page |
//! |---|---|---|
//! | lists | if listed | if listed |
//! | not set | yes | only where a header names the session or carries the credential: no page can send one |
//!
//! Without `Origin` it is no browser's, and nothing is asked. Where clients come over TLS, a page that came without is another's:
//! whoever is between could have written it. The other way round nothing is asked, since TLS may end before herd unsaid.

use http::header::ORIGIN;
use http::{HeaderMap, Uri};

use super::code::{Code, Problem};
use super::entry::Carrier;
use super::fields::{self, Scheme, Sender};
use crate::config::{Origin, OriginPattern};

/// What carried session or credential: a page's request has to be told from a program's.
pub(crate) fn check(
    allowed: Option<&[OriginPattern]>,
    headers: &HeaderMap,
    uri: &Uri,
    carrier: Carrier,
    sender: &Sender,
) -> Result<(), Problem> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(sent) = origins.next() else {
        return Ok(());
    };
    // What cannot be read, `null` too, is no page's that could be named.
    let one = origins.next().is_none();
    let origin = one.then(|| sent.to_str().ok().and_then(Origin::parse)).flatten();
    let host = fields::client_host(headers, uri);
    let host = host.as_ref().and_then(|host| host.to_str().ok());
    let fits = match allowed {
        Some(patterns) => patterns.iter().any(|pattern| match &origin {
            Some(origin) => pattern.matches(origin),
            None => one && *pattern == OriginPattern::Any,
        }),
        None => {
            let scheme = fields::client_scheme(headers, sender);
            let same = origin.is_some_and(|origin| {
                let came_as_well = scheme == Scheme::Http || origin.is_secure();
                came_as_well && host.is_some_and(|host| origin.is_of(host))
            });
            same || carrier == Carrier::Header
        }
    };
    if fits {
        return Ok(());
    }
    Err(Problem::new(
        Code::OriginNotAllowed,
        format!(
            "pages of {} may not open WebSockets here; network.websocket_origins lists those that may",
            String::from_utf8_lossy(sent.as_bytes()).escape_debug()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HOST;

    use super::*;
    use crate::proxy::fields::Trust;

    fn asked(origins: &[&'static str], allowed: Option<&[OriginPattern]>, carrier: Carrier) -> bool {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("herd.example.com:8080"))]);
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_static(origin));
        }
        let sender = Sender::new([127, 0, 0, 1].into(), Scheme::Http, Trust::Untrusted);
        check(allowed, &headers, &Uri::from_static("/"), carrier, &sender).is_ok()
    }

    #[test]
    fn where_clients_come_over_tls_a_page_that_came_without_is_foreign() {
        let opens = |host: &'static str, origin: &'static str, scheme| {
            let headers = HeaderMap::from_iter([
                (HOST, HeaderValue::from_static(host)),
                (ORIGIN, HeaderValue::from_static(origin)),
            ]);
            let sender = Sender::new([127, 0, 0, 1].into(), scheme, Trust::Untrusted);
            check(None, &headers, &Uri::from_static("/"), Carrier::Page, &sender).is_ok()
        };
        for (host, page, plain) in [
            ("a", "https://a", "http://a"),
            ("a:443", "https://a", "http://a:443"),
            ("a:8443", "https://a:8443", "http://a:8443"),
        ] {
            assert!(opens(host, page, Scheme::Https), "{page}");
            assert!(!opens(host, plain, Scheme::Https), "{plain}");
            assert!(
                opens(host, page, Scheme::Http),
                "TLS may have ended before: {page}"
            );
            assert!(opens(host, plain, Scheme::Http), "{plain}");
        }
        assert!(!opens("a:80", "http://a", Scheme::Https));
    }

    #[test]
    fn without_a_list_a_foreign_page_needs_what_no_page_can_send() {
        let same = &["http://herd.example.com:8080"][..];
        let foreign = &["https://evil.example.net"][..];
        for carrier in [Carrier::Header, Carrier::Page] {
            assert!(asked(&[], None, carrier), "no browser");
            assert!(asked(same, None, carrier));
            assert_eq!(asked(foreign, None, carrier), carrier == Carrier::Header);
            assert_eq!(asked(&["null"], None, carrier), carrier == Carrier::Header);
        }
        assert!(
            !asked(&[same[0], foreign[0]], None, Carrier::Page),
            "two origins are none"
        );
    }

    #[test]
    fn a_list_is_the_whole_truth() {
        let list = |origin: &str| {
            let text =
                format!("network: {{websocket_origins: [\"{origin}\"]}}\nworkers: {{a: {{cmd: [x]}}}}\n");
            let config = crate::config::parse(&text, "herd.yaml").unwrap();
            config.network.websocket_origins.unwrap()
        };
        let own = list("https://app.example.com");
        for carrier in [Carrier::Header, Carrier::Page] {
            assert!(asked(&["https://app.example.com"], Some(&own), carrier));
            assert!(!asked(&["http://herd.example.com:8080"], Some(&own), carrier));
            assert!(!asked(&["null"], Some(&own), carrier));
            assert!(asked(&[], Some(&own), carrier), "no browser");
        }
        let all = list("*");
        assert!(asked(&["null"], Some(&all), Carrier::Page));
        assert!(asked(&["https://evil.example.net"], Some(&all), Carrier::Page));
    }
}
