//! Origins of web pages (RFC 6454), and patterns for them.

use std::fmt;

use schemars::{Schema, json_schema};

use super::text::{FromText, from_text};

/// Which web pages: `https://app.example.com`, `https://*.example.com`, `http://localhost:*`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    Any,
    Of {
        /// Lower case.
        scheme: String,
        /// Lower case, without the `*.` of `Hosts::Below`.
        host: String,
        hosts: Hosts,
        /// `None`: every port.
        port: Option<Port>,
    },
}

/// Which hosts a pattern is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    This,
    /// All below it, and not itself.
    Below,
}

/// Of an origin. Schemes that herd knows no default of have none, unless it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Unwritten,
    Number(u16),
}

/// What a browser sends as `Origin`: `scheme://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: Port,
}

impl Origin {
    /// `None`: `null`, or nothing that a browser would send.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = host_and_port(authority)?;
        let scheme = scheme.to_ascii_lowercase();
        Some(Self {
            port: port.map_or_else(|| default_port(&scheme), Port::Number),
            host: host.to_ascii_lowercase(),
            scheme,
        })
    }

    /// Lower case; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> Option<u16> {
        match self.port {
            Port::Number(port) => Some(port),
            Port::Unwritten => None,
        }
    }

    /// Whether it is one of a page that came over HTTP.
    pub fn is_http(&self) -> bool {
        matches!(&*self.scheme, "http" | "https")
    }

    pub fn has_usual_port(&self) -> bool {
        self.port == default_port(&self.scheme)
    }

    /// Whether the page came over TLS.
    pub fn is_secure(&self) -> bool {
        default_port(&self.scheme) == Port::Number(443)
    }

    /// Whether the page comes from the host and port that the request asks for.
    pub fn is_of(&self, asked: &str) -> bool {
        host_and_port(asked).is_some_and(|(host, port)| {
            let port = port.map_or_else(|| default_port(&self.scheme), Port::Number);
            host.eq_ignore_ascii_case(&self.host) && port == self.port
        })
    }
}

fn default_port(scheme: &str) -> Port {
    match scheme {
        "http" | "ws" => Port::Number(80),
        "https" | "wss" => Port::Number(443),
        _ => Port::Unwritten,
    }
}

/// Of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[end..].find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(end + colon);
            (host, Some(number(&port[1..])?))
        }
        None => (authority, None),
    };
    (is_host(host)).then_some((host, port))
}

fn number(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn is_host(host: &str) -> bool {
    let inside = host
        .strip_prefix('[')
        .map_or(Some(host), |rest| rest.strip_suffix(']'));
    let v6 = host.starts_with('[');
    inside.is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || (v6 && b == b':'))
    })
}

impl OriginPattern {
    pub fn matches(&self, origin: &Origin) -> bool {
        let Self::Of {
            scheme,
            host,
            hosts,
            port,
        } = self
        else {
            return true;
        };
        let fits = match hosts {
            Hosts::This => origin.host == *host,
            Hosts::Below => origin
                .host
                .strip_suffix(host.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|below| !below.is_empty()),
        };
        fits && origin.scheme == *scheme && port.is_none_or(|port| port == origin.port)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Port::Number(port) if !self.has_usual_port() => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

/// An [`OriginPattern`] as it is written.
#[derive(Debug, Clone)]
pub(super) struct OriginText(pub(super) OriginPattern);

from_text!(OriginText);

impl FromText for OriginText {
    const EXPECTING: &'static str = "an origin such as https://app.example.com";

    fn from_text(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(OriginPattern::Any));
        }
        let wrong = || {
            format!(
                "\"{}\" is not an origin; write scheme, host and perhaps port, and no path, e.g. \
                 https://app.example.com, https://*.example.com or http://localhost:*",
                text.escape_debug()
            )
        };
        let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
        let (authority, every_port) = match authority.strip_suffix(":*") {
            Some(host) => (host, true),
            None => (authority, false),
        };
        let (authority, hosts) = match authority.strip_prefix("*.") {
            Some(below) => (below, Hosts::Below),
            None => (authority, Hosts::This),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let (host, port) = host_and_port(authority).ok_or_else(wrong)?;
        if scheme.is_empty() || !scheme.bytes().all(plain) || (every_port && port.is_some()) {
            return Err(wrong());
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = match (every_port, port) {
            (true, _) => None,
            (false, Some(port)) => Some(Port::Number(port)),
            (false, None) => Some(default_port(&scheme)),
        };
        Ok(Self(OriginPattern::Of {
            scheme,
            host: host.to_ascii_lowercase(),
            hosts,
            port,
        }))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(\\*|[A-Za-z0-9+.-]+://[^/\\s]+)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_what_it_says_and_for_nothing_like_it() {
        for (pattern, origins, others) in [
            (
                "https://app.example.com",
                &["https://app.example.com", "HTTPS://App.Example.com:443"][..],
                &[
                    "http://app.example.com",
                    "https://app.example.com:444",
                    "https://app.example.com.evil.net",
                    "https://xapp.example.com",
                    "https://example.com",
                ][..],
            ),
            (
                "https://*.example.com",
                &["https://a.example.com", "https://a.b.example.com"],
                &[
                    "https://example.com",
                    "https://.example.com",
                    "https://evilexample.com",
                    "https://a.example.com:8443",
                ],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:3000"],
                &["https://localhost:3000", "http://localhost.evil.net"],
            ),
            ("http://[::1]:3000", &["http://[::1]:3000"], &["http://[::1]"]),
            (
                "chrome-extension://abcdef",
                &["chrome-extension://abcdef"],
                &["chrome-extension://abcdeg"],
            ),
        ] {
            let OriginText(wanted) = OriginText::from_text(pattern).unwrap();
            let fits = |origin: &str| Origin::parse(origin).is_some_and(|origin| wanted.matches(&origin));
            for origin in origins {
                assert!(fits(origin), "{pattern} is for {origin}");
            }
            for origin in others {
                assert!(!fits(origin), "{pattern} is not for {origin}");
            }
        }
    }

    #[test]
    fn the_same_host_and_port_is_told_by_the_scheme_of_the_page() {
        let page = |origin| Origin::parse(origin).unwrap();
        assert!(page("http://a:8080").is_of("A:8080"));
        assert!(page("https://a").is_of("a") && page("https://a").is_of("a:443"));
        assert!(!page("http://a").is_of("a:8080") && !page("http://a:8080").is_of("a"));
        assert!(!page("http://a.b").is_of("a") && !page("http://a").is_of("evil@a"));
        for none in ["null", "", "http://", "http://a/path", "http://a:b", "http://u@a"] {
            assert_eq!(Origin::parse(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_origin_is_told_what_to_write() {
        for text in [
            "app.example.com",
            "https://",
            "https://a/b",
            "https://*",
            "https://a.*.com",
            "https://a:1:*",
            "://a",
        ] {
            let told = OriginText::from_text(text).unwrap_err();
            assert!(told.contains("is not an origin"), "{text}: {told}");
        }
    }
}
