//! A worker's answer: where its head and its body end, and what they hold (RFC 9112 sections 6 and 7).
//!
//! Reads what it is given and never a socket. What two readers could take differently is refused, or passed on so
//! that they cannot: an answer with both lengths loses the one that does not count.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Frame;

use crate::proxy::fields::names;
use crate::proxy::framing::{BadChunk, Chunks, decimal};

/// Fields of a head, and of trailers.
const MAX_FIELDS: usize = 100;
/// Bytes of a head.
pub(crate) const MAX_HEAD: usize = 400 * 1024;

/// Why an answer is not HTTP.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{0}")]
    Head(#[from] httparse::Error),
    #[error("its head is larger than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("its status, {0}, is none")]
    Status(u16),
    #[error("it changes the protocol, and nobody asked for that")]
    Switch,
    #[error("its Transfer-Encoding is something other than \"chunked\"")]
    Coding,
    #[error("its Content-Length is not one number")]
    Length,
    #[error("a field of it is malformed")]
    Field,
    #[error(transparent)]
    Chunk(#[from] BadChunk),
}

/// Whether the request was one whose answers never have a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Head,
    Whole,
}

impl Wanted {
    pub(crate) fn by(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            _ => Self::Whole,
        }
    }
}

/// What the first bytes of an answer are.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Not a whole head yet.
    Partial,
    /// An answer before the answer, so many bytes long.
    Interim(usize, StatusCode),
    Final(Head),
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) len: usize,
    pub(crate) response: Response<()>,
    pub(crate) body: Remaining,
    /// The worker will take another request when this one is served.
    pub(crate) keep: bool,
}

/// Reads a head. `headers` is empty; the answer's fields go there.
pub(crate) fn parse(input: &Bytes, wanted: Wanted, headers: HeaderMap) -> Result<Parsed, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut found = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut found,
        input,
        &mut fields,
    )?;
    let len = match parsed {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial if input.len() > MAX_HEAD => return Err(Malformed::TooLarge),
        httparse::Status::Partial => return Ok(Parsed::Partial),
    };
    if len > MAX_HEAD {
        return Err(Malformed::TooLarge);
    }
    let code = found.code.unwrap_or_default();
    let status = StatusCode::from_u16(code).map_err(|_| Malformed::Status(code))?;
    match status {
        StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed::Switch),
        status if status.is_informational() => return Ok(Parsed::Interim(len, status)),
        _ => {}
    }
    let version = match found.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    *response.status_mut() = status;
    *response.version_mut() = version;
    if let Some(reason) = found.reason
        && status.canonical_reason() != Some(reason)
        && let Ok(reason) = hyper::ext::ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    let seen = take_fields(input, found.headers, response.headers_mut())?;
    let (body, clear) = seen.body(status, version, wanted, response.headers_mut())?;
    Ok(Parsed::Final(Head {
        len,
        response,
        body,
        keep: clear && seen.keep(version),
    }))
}

/// What the fields say of framing and of the connection.
#[derive(Debug, Default)]
struct Seen {
    close: bool,
    keep_alive: bool,
    codings: usize,
    chunked: bool,
    lengths: usize,
}

fn take_fields(
    input: &Bytes,
    fields: &[httparse::Header<'_>],
    headers: &mut HeaderMap,
) -> Result<Seen, Malformed> {
    let mut seen = Seen::default();
    headers.reserve(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Field)?;
        let value =
            HeaderValue::from_maybe_shared(input.slice_ref(field.value)).map_err(|_| Malformed::Field)?;
        match name {
            CONNECTION => {
                seen.close |= names(&value, b"close");
                seen.keep_alive |= names(&value, b"keep-alive");
            }
            TRANSFER_ENCODING => {
                seen.codings += 1;
                seen.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            }
            CONTENT_LENGTH => seen.lengths += 1,
            _ => {}
        }
        headers.append(name, value);
    }
    Ok(seen)
}

impl Seen {
    fn keep(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }

    /// How the body is delimited (RFC 9112 section 6.3), and whether beyond doubt.
    fn body(
        &self,
        status: StatusCode,
        version: Version,
        wanted: Wanted,
        headers: &mut HeaderMap,
    ) -> Result<(Remaining, bool), Malformed> {
        if wanted == Wanted::Head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok((Remaining::Nothing, true));
        }
        if self.codings > 0 {
            // Another coding would have to be undone here: the field that names it concerns one connection only.
            if self.codings > 1 || !self.chunked || version == Version::HTTP_10 {
                return Err(Malformed::Coding);
            }
            headers.remove(CONTENT_LENGTH);
            return Ok((Remaining::Chunked(Box::default()), self.lengths == 0));
        }
        if self.lengths == 0 {
            return Ok((Remaining::ToEnd, false));
        }
        let length = one_length(headers)?;
        if self.lengths > 1 {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok((Remaining::of_length(length), true))
    }
}

/// RFC 9110 section 8.6: the same number may stand there several times.
fn one_length(headers: &HeaderMap) -> Result<u64, Malformed> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for number in value.as_bytes().split(|b| *b == b',') {
            let number = decimal(number.trim_ascii()).ok_or(Malformed::Length)?;
            if length.is_some_and(|length| length != number) {
                return Err(Malformed::Length);
            }
            length = Some(number);
        }
    }
    length.ok_or(Malformed::Length)
}

/// What is still to come of a body.
#[derive(Debug)]
pub(crate) enum Remaining {
    Nothing,
    Length(u64),
    Chunked(Box<Chunked>),
    /// Until the worker closes the connection.
    ToEnd,
}

#[derive(Debug)]
pub(crate) struct Chunked {
    chunks: Chunks,
    /// The lines after the last chunk, as they came.
    trailers: Vec<u8>,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            chunks: Chunks::new(),
            trailers: Vec::new(),
        }
    }
}

/// The next of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    Frame(Frame<Bytes>),
    /// More has to be read.
    More,
    End,
}

impl Remaining {
    pub(crate) fn of_length(length: u64) -> Self {
        match length {
            0 => Self::Nothing,
            length => Self::Length(length),
        }
    }

    /// There is nothing more to come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Takes the next piece off `input`.
    pub(crate) fn take(&mut self, input: &mut Bytes) -> Result<Piece, Malformed> {
        match self {
            Self::Nothing => Ok(Piece::End),
            _ if input.is_empty() => Ok(Piece::More),
            Self::ToEnd => Ok(Piece::Frame(Frame::data(std::mem::take(input)))),
            Self::Length(left) => {
                let data = split(input, *left);
                *self = Self::of_length(*left - data.len() as u64);
                Ok(Piece::Frame(Frame::data(data)))
            }
            Self::Chunked(chunked) => {
                let piece = chunked.take(input)?;
                if chunked.chunks == Chunks::Done {
                    *self = Self::Nothing;
                }
                Ok(piece)
            }
        }
    }

    /// The worker has closed its side: whether the body may end so.
    pub(crate) fn may_end(&self) -> bool {
        matches!(self, Self::Nothing | Self::ToEnd)
    }
}

impl Chunked {
    fn take(&mut self, input: &mut Bytes) -> Result<Piece, Malformed> {
        while !input.is_empty() {
            if let Chunks::Data(left) = self.chunks {
                let data = split(input, left);
                self.chunks.advance(&data)?;
                return Ok(Piece::Frame(Frame::data(data)));
            }
            let byte = input[0];
            let trailing = matches!(self.chunks, Chunks::Trailer { .. } | Chunks::TrailerLf { .. });
            self.chunks.advance(&[byte])?;
            input.advance(1);
            if trailing {
                self.trailers.push(byte);
            }
            if self.chunks == Chunks::Done {
                return Ok(match self.trailers()? {
                    trailers if trailers.is_empty() => Piece::End,
                    trailers => Piece::Frame(Frame::trailers(trailers)),
                });
            }
        }
        Ok(Piece::More)
    }

    fn trailers(&self) -> Result<HeaderMap, Malformed> {
        let mut headers = HeaderMap::new();
        // Mostly there is only the empty line.
        if self.trailers.len() > 2 {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let httparse::Status::Complete((_, fields)) =
                httparse::parse_headers(&self.trailers, &mut fields)?
            else {
                return Err(Malformed::Field);
            };
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed::Field)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed::Field)?;
                headers.append(name, value);
            }
        }
        Ok(headers)
    }
}

/// At most `most` bytes off the front.
fn split(input: &mut Bytes, most: u64) -> Bytes {
    let here = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    if here == input.len() {
        std::mem::take(input)
    } else {
        input.split_to(here)
    }
}
