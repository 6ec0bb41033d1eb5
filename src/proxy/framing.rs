//! Judges the framing of HTTP/1 requests before hyper parses them (RFC 9112).
//!
//! hyper forgives what a proxy must not: it drops a `Content-Length` that stands beside a
//! `Transfer-Encoding`, accepts a repeated `Host` and bare line feeds. Here such requests are refused.
//! This module only finds out where a message ends and whether it is unambiguous; what a request means
//! is hyper's and the service's matter.

use http::Uri;
use memchr::memchr;

use super::code::{Code, Problem};

/// hyper's own limit (RFC 9110 section 4.1 recommends at least 8000).
const MAX_TARGET: usize = 65_534;
/// Empty lines before a request line that are tolerated (RFC 9112 section 2.2).
const MAX_LEADING_LINES: usize = 2;
/// Longest line inside a chunked body: a size with its extensions, or a trailer field.
const MAX_CHUNK_LINE: usize = 8192;

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    Length(u64),
    Chunked,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a request head.
    pub(crate) size: usize,
    pub(crate) fields: usize,
}

/// A request head in the making; lines are judged as they arrive, each once.
#[derive(Debug, Default)]
pub(crate) struct Head {
    line_start: usize,
    scanned: usize,
    leading: usize,
    version: Option<Version>,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

impl Head {
    /// Nothing was judged yet.
    pub(crate) fn is_new(&self) -> bool {
        self.scanned == 0
    }

    /// `Some((bytes, framing))` once `input`, which only grows between calls, holds the whole head.
    pub(crate) fn judge(
        &mut self,
        input: &[u8],
        limits: Limits,
    ) -> Result<Option<(usize, BodyFraming)>, Problem> {
        while let Some(at) = memchr(b'\n', &input[self.scanned..]) {
            let end = self.scanned + at;
            let line = &input[self.line_start..end];
            self.scanned = end + 1;
            self.line_start = end + 1;
            if self.scanned > limits.size {
                return Err(too_large(limits));
            }
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(bad("a line of the head ends with a bare line feed"));
            };
            match (line.is_empty(), self.version) {
                (true, None) if self.leading < MAX_LEADING_LINES => self.leading += 1,
                (true, None) => return Err(bad("empty lines stand where a request should")),
                (true, Some(version)) => return self.finish(version).map(|f| Some((self.scanned, f))),
                (false, None) => self.version = Some(request_line(line)?),
                (false, Some(_)) => self.field(line, limits)?,
            }
        }
        self.scanned = input.len();
        if input.len() > limits.size {
            return Err(too_large(limits));
        }
        Ok(None)
    }

    fn field(&mut self, line: &[u8], limits: Limits) -> Result<(), Problem> {
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Problem::new(
                Code::HeaderTooLarge,
                format!("the request has more than {} header fields", limits.fields),
            ));
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(bad("a header field is folded over several lines"));
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return Err(bad("a header field has no colon"));
        };
        let (name, value) = (&line[..colon], unpadded(&line[colon + 1..]));
        // Not by `all` and `any`: without an early end these loops take several bytes at a time.
        let is_name = name.iter().fold(true, |so_far, b| so_far & is_token(*b));
        if name.is_empty() || !is_name {
            return Err(bad(
                "a header field's name has a character that is not allowed there",
            ));
        }
        let is_control = |b: u8| (b < b' ') & (b != b'\t') | (b == 0x7f);
        if value.iter().fold(false, |so_far, b| so_far | is_control(*b)) {
            return Err(bad("a header field's value has a control character"));
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.hosts += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value).ok_or_else(|| bad("Content-Length is not a number"))?;
                if self.length.is_some() {
                    return Err(bad("Content-Length is repeated"));
                }
                self.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("Transfer-Encoding is something other than \"chunked\""));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self, version: Version) -> Result<BodyFraming, Problem> {
        match (version, self.hosts) {
            (_, 2..) => return Err(bad("Host is repeated")),
            (Version::Http11, 0) => return Err(bad("Host is missing")),
            _ => {}
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("Content-Length and Transfer-Encoding are both given")),
            (true, None) if version == Version::Http10 => Err(bad("HTTP/1.0 knows no Transfer-Encoding")),
            (true, None) => Ok(BodyFraming::Chunked),
            (false, length) => Ok(BodyFraming::Length(length.unwrap_or(0))),
        }
    }
}

fn request_line(line: &[u8]) -> Result<Version, Problem> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line is not \"METHOD target HTTP/1.1\""));
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(bad("the method has a character that is not allowed there"));
    }
    if target.len() > MAX_TARGET {
        return Err(Problem::new(
            Code::UriTooLong,
            format!(
                "the request target is {} bytes long; the limit is {MAX_TARGET}",
                target.len()
            ),
        ));
    }
    if !is_plain_path(target) && (!target.iter().all(u8::is_ascii_graphic) || Uri::try_from(target).is_err())
    {
        return Err(bad("the request target is not a valid URI"));
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        other if other.starts_with(b"HTTP/") => Err(Problem::new(
            Code::VersionNotSupported,
            format!("{} is not spoken here", other.escape_ascii()),
        )),
        _ => Err(bad("the request line is not \"METHOD target HTTP/1.1\"")),
    }
}

/// Most targets: a path and a query of characters that stand for themselves, which no parser reads differently.
fn is_plain_path(target: &[u8]) -> bool {
    target.first() == Some(&b'/')
        && target
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"/-_.~?=&%:,".contains(b))
}

fn bad(detail: &str) -> Problem {
    Problem::new(Code::BadRequest, detail)
}

fn too_large(limits: Limits) -> Problem {
    Problem::new(
        Code::HeaderTooLarge,
        format!("the request head is larger than {} bytes", limits.size),
    )
}

/// Without the white space that may stand around a value (RFC 9110 section 5.6.3): a stray carriage return is none.
fn unpadded(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    /// By byte: every byte of every field's name is looked up.
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Finds the end of a chunked body (RFC 9112 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    Size {
        value: u64,
        digits: u8,
    },
    /// Skipped, not understood; `len` bytes of it have been seen.
    Extension {
        value: u64,
        len: usize,
    },
    SizeEnd {
        value: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// `len` bytes of this trailer line, and `total` of all.
    Trailer {
        len: usize,
        total: usize,
    },
    TrailerLf {
        empty: bool,
        total: usize,
    },
    Done,
}

/// The chunked body breaks its own rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub(crate) struct BadChunk;

impl Chunks {
    pub(crate) fn new() -> Self {
        Self::Size { value: 0, digits: 0 }
    }

    /// How many bytes of `input` belong to the body.
    pub(crate) fn advance(&mut self, input: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < input.len() {
            let byte = input[at];
            *self = match *self {
                Self::Done => break,
                Self::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    at += here;
                    let left = left - here as u64;
                    *self = if left == 0 { Self::DataCr } else { Self::Data(left) };
                    continue;
                }
                Self::Size { value, digits } => match (byte, char::from(byte).to_digit(16)) {
                    (_, Some(digit)) if digits < 15 => Self::Size {
                        value: value * 16 + u64::from(digit),
                        digits: digits + 1,
                    },
                    (b'\r', _) if digits > 0 => Self::SizeEnd { value },
                    (b';' | b' ' | b'\t', _) if digits > 0 => Self::Extension { value, len: 1 },
                    _ => return Err(BadChunk),
                },
                Self::Extension { value, len } if len < MAX_CHUNK_LINE => match byte {
                    b'\r' => Self::SizeEnd { value },
                    b'\n' => return Err(BadChunk),
                    _ => Self::Extension { value, len: len + 1 },
                },
                Self::SizeEnd { value } => match (byte, value) {
                    (b'\n', 0) => Self::Trailer { len: 0, total: 0 },
                    (b'\n', value) => Self::Data(value),
                    _ => return Err(BadChunk),
                },
                Self::DataCr if byte == b'\r' => Self::DataLf,
                Self::DataLf if byte == b'\n' => Self::new(),
                Self::Trailer { len, total } if total < MAX_CHUNK_LINE => match byte {
                    b'\r' => Self::TrailerLf {
                        empty: len == 0,
                        total: total + 1,
                    },
                    b'\n' => return Err(BadChunk),
                    _ => Self::Trailer {
                        len: len + 1,
                        total: total + 1,
                    },
                },
                Self::TrailerLf { empty: true, .. } if byte == b'\n' => Self::Done,
                Self::TrailerLf { empty: false, total } if byte == b'\n' => Self::Trailer { len: 0, total },
                _ => return Err(BadChunk),
            };
            at += 1;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        size: 1024,
        fields: 8,
    };

    fn judge(text: &str) -> Result<Option<(usize, BodyFraming)>, Code> {
        let whole = Head::default().judge(text.as_bytes(), LIMITS).map_err(|p| p.code);
        // Byte by byte must come to the same verdict.
        let mut head = Head::default();
        let mut slowly = Ok(None);
        for end in 1..=text.len() {
            slowly = head.judge(&text.as_bytes()[..end], LIMITS).map_err(|p| p.code);
            if !matches!(slowly, Ok(None)) {
                break;
            }
        }
        assert_eq!(whole, slowly, "{text:?}");
        whole
    }

    #[test]
    fn a_plain_head_ends_where_it_ends() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(judge(head), Ok(Some((head.len(), BodyFraming::Length(0)))));
        assert_eq!(
            judge(&format!("{head}GET /")),
            Ok(Some((head.len(), BodyFraming::Length(0))))
        );
        assert_eq!(judge(&head[..head.len() - 1]), Ok(None));
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(judge(head), Ok(Some((head.len(), BodyFraming::Chunked))));
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for fields in [
            "Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Host: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
            "Host: a\r\nContent-Length: +3\r\n",
            "Host: a\r\nContent-Length: 3, 3\r\n",
            "Host: a\r\nTransfer-Encoding: identity, chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nTransfer-Encoding: \x0bchunked\r\n",
            "Host: a\r\nTransfer-Encoding : chunked\r\n",
            "Host: a\r\nHost: a\r\n",
            "Accept: */*\r\n",
            "Host: a\r\nX: 1\r\n folded\r\n",
            "Host: a\nX: 1\r\n",
            "Host: a\r\nX: 1\rY: 2\r\n",
            "Host: a\r\nContent-Length: 2\r\r\n",
            "Host: a\r\nContent-Length: \x0c2\r\n",
            "Host: a\r\nno colon\r\n",
            "Host: a\r\n: empty\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(judge(&text), Err(Code::BadRequest), "{fields:?}");
        }
    }

    #[test]
    fn a_bad_request_line_is_refused() {
        assert_eq!(judge("GET /\r\n"), Err(Code::BadRequest));
        assert_eq!(judge("GET  / HTTP/1.1\r\n"), Err(Code::BadRequest));
        assert_eq!(judge("GE(T / HTTP/1.1\r\n"), Err(Code::BadRequest));
        assert_eq!(judge("GET /\x7f HTTP/1.1\r\n"), Err(Code::BadRequest));
        assert_eq!(judge("GET / HTTP/3.0\r\n"), Err(Code::VersionNotSupported));
        assert_eq!(judge("\r\n\r\n\r\n"), Err(Code::BadRequest));
    }

    #[test]
    fn a_head_beyond_the_limits_is_refused_before_it_is_complete() {
        assert_eq!(
            judge(&format!("GET /{}", "a".repeat(2000))),
            Err(Code::HeaderTooLarge)
        );
        let many = "X: 1\r\n".repeat(9);
        assert_eq!(
            judge(&format!("GET / HTTP/1.1\r\n{many}")),
            Err(Code::HeaderTooLarge)
        );
    }

    #[test]
    fn a_chunked_body_ends_after_its_trailers() {
        let body = "5;name=value\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
        let next = format!("{body}GET / HTTP/1.1");
        let mut chunks = Chunks::new();
        assert_eq!(chunks.advance(next.as_bytes()), Ok(body.len()));
        assert_eq!(chunks, Chunks::Done);
        let mut slowly = Chunks::new();
        for byte in body.as_bytes() {
            assert_eq!(slowly.advance(&[*byte]), Ok(1), "{slowly:?}");
        }
        assert_eq!(slowly, Chunks::Done);
    }

    #[test]
    fn a_malformed_chunk_is_an_error() {
        for body in [
            "\r\n",
            "x\r\n",
            "1\n",
            "1\r\nab\r\n",
            "5 ;\n",
            "fffffffffffffffff\r\n",
            "-1\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(Chunks::new().advance(body.as_bytes()), Err(BadChunk), "{body:?}");
        }
    }
}
