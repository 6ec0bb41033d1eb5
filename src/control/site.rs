//! What a browser says of where a request comes from: by which name it found herd (`Host`), and whose page asks (`Origin`).
//!
//! A page of somebody else, open in the browser of one who may use herd, must not reach the API: neither across origins
//! nor after its own name was made to point at this host (DNS rebinding). Keys go in a header that no browser adds by
//! itself, and no answer allows other origins to read it; this holds where somebody weakens that, by a proxy before the
//! socket that adds nothing, say.

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderValue, Request, StatusCode};

use super::answer::Problem;
use crate::config::Origin;

/// How a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over the socket, to which no browser connects. What passes requests on to it may use any name.
    Socket,
    Port,
}

/// Other names than those of this host under which herd's page is reached: `control.hosts`.
#[derive(Debug, Default)]
pub struct Names(Vec<String>);

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.to_vec())
    }

    /// Refuses what a page of somebody else could have sent.
    pub(crate) fn check<B>(&self, request: &Request<B>, way: Way) -> Result<(), Problem> {
        let host = host(request)?;
        if way == Way::Port && !self.is_ours(host.host()) {
            return Err(refused(
                "host_refused",
                format!(
                    "herd is not known as {host}; use 127.0.0.1 or localhost, or add the name to control.hosts"
                ),
            ));
        }
        let mut origins = request.headers().get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Ok(());
        };
        // "null", and what is not one origin, belong to nobody.
        let one = origins.next().is_none();
        let page = one
            .then(|| origin.to_str().ok().and_then(Origin::parse))
            .flatten();
        match page {
            Some(page) if page.is_http() && (page.is_of(host.as_str()) || self.has_page(&page, &host)) => Ok(()),
            _ => Err(refused(
                "origin_refused",
                "the page that asks is not herd's; if herd is behind a proxy under another name, add that to \
                 control.hosts"
                    .to_owned(),
            )),
        }
    }

    /// An address cannot be pointed elsewhere, as a name can.
    fn is_ours(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<std::net::IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || self.has(host)
    }

    /// Whether it is of one of the other names, at the port by which herd was found or at the one that nobody writes.
    fn has_page(&self, page: &Origin, host: &Authority) -> bool {
        self.has(page.host()) && (page.has_usual_port() || page.port() == host.port_u16())
    }

    fn has(&self, host: &str) -> bool {
        self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// By which name herd was found (RFC 9112, 3.2.2 and 3.2.3): one, whatever it is.
fn host<B>(request: &Request<B>) -> Result<Authority, Problem> {
    let one = || Problem::bad_request("send one header Host, with the name that herd is reached by");
    let mut named = request.headers().get_all(HOST).into_iter();
    let (Some(named), None) = (named.next(), named.next()) else {
        return Err(one());
    };
    match request.uri().authority() {
        Some(authority) => Ok(authority.clone()),
        None => parse(named).ok_or_else(one),
    }
}

fn parse(named: &HeaderValue) -> Option<Authority> {
    let authority = Authority::try_from(named.as_bytes()).ok()?;
    // With a user's name before it, it would not be a host.
    (!authority.as_str().contains('@')).then_some(authority)
}

fn refused(code: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(way: Way, headers: &[(&str, &str)]) -> Result<(), String> {
        let names = Names::new(&["herd.example.com".to_owned()]);
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        names
            .check(&request, way)
            .map_err(|problem| problem.code().to_owned())
    }

    #[test]
    fn herd_is_found_by_addresses_localhost_and_configured_names_only() {
        for host in [
            "127.0.0.1:9190",
            "127.8.8.8",
            "[::1]:9190",
            "localhost:1",
            "LocalHost",
            "herd.example.com",
            "HERD.example.com:443",
        ] {
            assert_eq!(asked(Way::Port, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9190",
            "example.com",
        ] {
            assert_eq!(
                asked(Way::Port, &[("host", host)]),
                Err("host_refused".to_owned()),
                "{host}"
            );
            assert_eq!(asked(Way::Socket, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_request_has_one_host() {
        let wrong = Err("bad_request".to_owned());
        for headers in [
            &[][..],
            &[("host", "localhost"), ("host", "evil.example")],
            &[("host", "")],
            &[("host", "localhost@evil.example")],
        ] {
            assert_eq!(asked(Way::Port, headers), wrong, "{headers:?}");
        }
    }

    #[test]
    fn only_herds_own_page_may_ask() {
        for way in [Way::Socket, Way::Port] {
            for origin in [
                "http://localhost:9190",
                "https://herd.example.com",
                "http://herd.example.com",
                "https://herd.example.com:9190",
            ] {
                let headers = [("host", "localhost:9190"), ("origin", origin)];
                assert_eq!(asked(way, &headers), Ok(()), "{origin}");
            }
            for origin in [
                "null",
                "",
                "http://localhost:9191",
                "http://evil.example",
                "http://herd.example.com.evil.example",
                "localhost:9190",
                "https://herd.example.com:8443",
                "http://herd.example.com:443",
                "ftp://localhost:9190",
                "chrome-extension://herd.example.com",
                "http://me@localhost:9190",
                "https://me@herd.example.com",
                "http://localhost:9190/",
            ] {
                let headers = [("host", "localhost:9190"), ("origin", origin)];
                assert_eq!(
                    asked(way, &headers),
                    Err("origin_refused".to_owned()),
                    "{origin:?}"
                );
            }
            let two = [
                ("host", "localhost:9190"),
                ("origin", "http://localhost:9190"),
                ("origin", "http://evil.example"),
            ];
            assert_eq!(asked(way, &two), Err("origin_refused".to_owned()));
        }
    }
}
