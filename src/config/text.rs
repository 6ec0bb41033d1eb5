//! Textual values of herd.yaml that are checked as they are read, so that a mistake is reported at
//! the value itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::{HeaderName, StatusCode};
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Unexpected, Visitor};

use super::schema::inline_schema;
use super::template::Template;

/// A value that is written as text and parsed by one function.
pub(super) trait FromText: Sized {
    const EXPECTING: &'static str = "text";

    /// The error says what is wrong and what to write instead.
    fn from_text(text: &str) -> Result<Self, String>;

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

pub(super) struct TextVisitor<T>(PhantomData<T>);

impl<T> TextVisitor<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

/// Reads a type by its [`FromText`], and describes it.
macro_rules! from_text {
    ($($type:ident),*) => { $(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::config::text::TextVisitor::<Self>::new())
            }
        }

        $crate::config::schema::inline_schema!($type, <Self as $crate::config::text::FromText>::schema());
    )* };
}

pub(super) use from_text;

from_text!(
    Address,
    Cidr,
    CookieName,
    Digest,
    Directory,
    EnvPattern,
    Header,
    HealthPath,
    Host,
    PathPrefix,
    QueryName,
    SocketPath,
    TemplateText
);

/// `IP:PORT`.
#[derive(Debug, Clone)]
pub(super) struct Address(pub(super) SocketAddr);

impl FromText for Address {
    const EXPECTING: &'static str = "an address such as 127.0.0.1:8080";

    fn from_text(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let shown = text.escape_debug();
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        Err(match (text.split_once(':'), port) {
            (None, Some(port)) => format!("is only a port; write 127.0.0.1:{port}"),
            (Some(("localhost", _)), Some(port)) => {
                format!("\"{shown}\" names a host; write 127.0.0.1:{port} or [::1]:{port}")
            }
            (Some(("" | "*", _)), Some(port)) => {
                format!("\"{shown}\" names no address; write 0.0.0.0:{port} for every interface")
            }
            _ => format!("\"{shown}\" is not an address; write IP:PORT, e.g. 127.0.0.1:8080"),
        })
    }
}

/// `10.0.0.0/8`, or one address.
#[derive(Debug, Clone)]
pub(super) struct Cidr(pub(super) IpNet);

impl FromText for Cidr {
    const EXPECTING: &'static str = "an address range such as 10.0.0.0/8";

    fn from_text(text: &str) -> Result<Self, String> {
        let network = text
            .parse()
            .or_else(|_| text.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)));
        network.map(Self).map_err(|_| {
            let text = text.escape_debug();
            format!("\"{text}\" is not an address range; write e.g. 10.0.0.0/8 or 192.168.1.7")
        })
    }
}

/// A header that may carry session ids: none that HTTP or herd itself gives a meaning to.
#[derive(Debug, Clone)]
pub(super) struct Header(pub(super) HeaderName);

impl FromText for Header {
    const EXPECTING: &'static str = "a header name such as X-Session-ID";

    fn from_text(text: &str) -> Result<Self, String> {
        const RESERVED: [&str; 15] = [
            "connection",
            "content-length",
            "content-type",
            "cookie",
            "expect",
            "forwarded",
            "host",
            "keep-alive",
            "set-cookie",
            "te",
            "trailer",
            "trailers",
            "transfer-encoding",
            "upgrade",
            "via",
        ];
        const RESERVED_PREFIXES: [&str; 4] = ["proxy-", "sec-", "x-forwarded-", "x-herd-"];
        let shown = text.escape_debug();
        let name = HeaderName::try_from(text)
            .map_err(|_| format!("\"{shown}\" is not a header name; write e.g. X-Session-ID"))?;
        let lower = name.as_str();
        if RESERVED.contains(&lower) || RESERVED_PREFIXES.iter().any(|p| lower.starts_with(p)) {
            return Err(format!(
                "{shown} already has a meaning in HTTP or herd; write e.g. X-Session-ID"
            ));
        }
        Ok(Self(name))
    }
}

#[derive(Debug, Clone)]
pub(super) struct QueryName(pub(super) String);

impl FromText for QueryName {
    fn from_text(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-');
        if !text.is_empty() && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        let text = text.escape_debug();
        Err(format!(
            "\"{text}\" is not a query parameter herd can look for; write A-Z a-z 0-9 . _ ~ -, e.g. session"
        ))
    }
}

/// An RFC 6265 cookie name (a token of RFC 9110).
#[derive(Debug, Clone)]
pub(super) struct CookieName(pub(super) String);

impl FromText for CookieName {
    fn from_text(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if !text.is_empty() && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "\"{}\" is not a cookie name; write e.g. session_id",
            text.escape_debug()
        ))
    }
}

/// SHA-256, in hexadecimal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Digest(pub(super) [u8; 32]);

impl FromText for Digest {
    const EXPECTING: &'static str = "64 hexadecimal digits";

    fn from_text(text: &str) -> Result<Self, String> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let digest = bytes.and_then(|bytes| bytes.try_into().ok());
        // What was written may be the key itself, which must not get into a log.
        digest
            .map(Self)
            .ok_or_else(|| "is not a SHA-256 in hexadecimal (64 digits); `herd key` prints one".to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" })
    }
}

/// `cmd`, `env` and `cwd`: text in which `{{.Name}}` is replaced.
#[derive(Debug, Clone)]
pub(super) struct TemplateText(pub(super) Template);

impl FromText for TemplateText {
    const EXPECTING: &'static str = "text (for an empty value write \"\")";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("contains a NUL byte, which no program can be given; remove it".to_owned());
        }
        Template::parse(text).map(Self).map_err(|error| error.to_string())
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

fn is_env_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// A name that shells and libc agree on; `.` and `-` because npm and Java properties use them.
pub(super) fn is_env_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(is_env_byte)
}

/// A variable name in which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone)]
pub(super) struct EnvPattern(pub(super) String);

impl FromText for EnvPattern {
    const EXPECTING: &'static str = "a variable name or pattern such as AWS_*";

    fn from_text(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|b| is_env_byte(b) || matches!(b, b'*' | b'?')) {
            return Ok(Self(text.to_owned()));
        }
        let hint = match text.split_once('=') {
            Some((name, _)) => format!("values belong under env; write {}", name.escape_debug()),
            None => "write letters, digits, _ . - * ?, e.g. AWS_*".to_owned(),
        };
        Err(format!(
            "\"{}\" is not a variable name or pattern; {hint}",
            text.escape_debug()
        ))
    }
}

/// A path with an optional query, as it stands in a request line.
#[derive(Debug, Clone)]
pub(super) struct HealthPath(pub(super) String);

impl FromText for HealthPath {
    const EXPECTING: &'static str = "a path such as /healthz";

    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        if !text.starts_with('/') {
            return Err(format!("\"{shown}\" does not start with /; write e.g. /healthz"));
        }
        let valid = text.parse::<http::uri::PathAndQuery>().is_ok() && !text.contains('#');
        if !valid || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!(
                "\"{shown}\" is not a request path; percent-encode special characters"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }
}

/// A host name or address without port, kept in lower case.
#[derive(Debug, Clone)]
pub(super) struct Host(pub(super) String);

impl FromText for Host {
    const EXPECTING: &'static str = "a host name such as app.example.com";

    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if bracketed.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split(['/', ':']).next().unwrap_or_default();
            return Err(format!(
                "\"{shown}\" is a URL; write the host alone: {}",
                host.escape_debug()
            ));
        }
        if let Some((host, _)) = text.split_once(':') {
            return Err(format!(
                "\"{shown}\" has a port; write the host alone: {}",
                host.escape_debug()
            ));
        }
        let label = |label: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(inner)
        };
        if text.len() > 253 || !text.split('.').all(label) {
            return Err(format!(
                "\"{shown}\" is not a host name; write e.g. app.example.com (no wildcards)"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Whole path segments; kept without a trailing `/`, except `/` itself.
#[derive(Debug, Clone)]
pub(super) struct PathPrefix(pub(super) String);

impl FromText for PathPrefix {
    const EXPECTING: &'static str = "a path such as /browser";

    fn from_text(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        if !text.starts_with('/') {
            return Err(format!("\"{shown}\" does not start with /; write e.g. /browser"));
        }
        if text.contains(['?', '#', '*'])
            || !text.bytes().all(|b| b.is_ascii_graphic())
            || text.contains("//")
        {
            return Err(format!(
                "\"{shown}\" is not a plain path; write whole segments, e.g. /browser"
            ));
        }
        let trimmed = text.trim_end_matches('/');
        Ok(Self(if trimmed.is_empty() { "/" } else { trimmed }.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }
}

/// The path of a UNIX socket (`sun_path` of unix(7): 107 bytes and the final NUL).
#[derive(Debug, Clone)]
pub(super) struct SocketPath(pub(super) PathBuf);

impl FromText for SocketPath {
    const EXPECTING: &'static str = "a path such as /run/herd/control.sock";

    fn from_text(text: &str) -> Result<Self, String> {
        path(text, 107, "/run/herd/control.sock").map(Self)
    }
}

/// A directory that will hold UNIX sockets, so its name has to leave room for theirs.
#[derive(Debug, Clone)]
pub(super) struct Directory(pub(super) PathBuf);

impl FromText for Directory {
    const EXPECTING: &'static str = "a directory such as /run/herd";

    fn from_text(text: &str) -> Result<Self, String> {
        path(text, 72, "/run/herd").map(Self)
    }
}

fn path(text: &str, longest: usize, example: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("is not a path; write e.g. {example}"));
    }
    if text.len() > longest {
        let len = text.len();
        return Err(format!(
            "is {len} bytes long; write at most {longest}, the kernel's limit for sockets, e.g. {example}"
        ));
    }
    Ok(PathBuf::from(text))
}

/// 410, or 404 for MCP clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostStatus(pub(super) StatusCode);

struct LostStatusVisitor;

impl Visitor<'_> for LostStatusVisitor {
    type Value = LostStatus;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("410 or 404")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<LostStatus, E> {
        match number {
            410 => Ok(LostStatus(StatusCode::GONE)),
            404 => Ok(LostStatus(StatusCode::NOT_FOUND)),
            _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for LostStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LostStatusVisitor)
    }
}

inline_schema!(LostStatus, json_schema!({ "enum": [410, 404] }));

/// A map in the order of the file.
#[derive(Debug, Clone)]
pub(super) struct InOrder<T>(pub(super) Vec<(String, T)>);

struct InOrderVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrderVisitor<T> {
    type Value = InOrder<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with their settings, e.g. browser: {cmd: [...]}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(InOrder(entries))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrderVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for InOrder<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("InOrder")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, T>::json_schema(generator)
    }
}
