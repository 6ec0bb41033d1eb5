//! What a client sees of the end of something, in words that can be compared.

use std::io::{ErrorKind, Read};

use crate::client::Client;
use crate::scene::PATIENCE;

/// How far the client had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing of the answer was read.
    Head,
    /// In a chunked body.
    Body,
    /// In a WebSocket.
    Frames,
}

/// What a client of this session gets, connection and all.
pub(crate) fn of(client: &Client, id: &str) -> String {
    let answer = client.send(id, "GET /", "connection: close\r\n", "");
    match answer {
        Ok(mut stream) => {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            to_the_end(&mut stream, Phase::Head)
        }
        Err(e) => match e.kind() {
            ErrorKind::ConnectionRefused => "refused".to_owned(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
            other => panic!("{other}: {e}"),
        },
    }
}

/// Reads to the end: `502 worker_crashed`, `200`, `200, broken off`, `close 1011`, `closed`, `reset`. The stream has
/// to have a read timeout, which is told as `nothing`.
pub(crate) fn to_the_end(stream: &mut impl Read, phase: Phase) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break "closed",
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break "reset",
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break "nothing",
            Err(e) => panic!("{e}"),
        }
    };
    match phase {
        Phase::Head if bytes.is_empty() => end.to_owned(),
        Phase::Head => answer(&bytes),
        Phase::Body if end == "nothing" => end.to_owned(),
        Phase::Body => body(bytes.ends_with(b"0\r\n\r\n")),
        Phase::Frames => match bytes.as_slice() {
            // A Close frame (RFC 6455 section 5.5.1), unmasked, with a status and perhaps a text.
            [0x88, length, high, low, ..] if *length >= 2 => {
                format!("close {}", u16::from_be_bytes([*high, *low]))
            }
            [] => end.to_owned(),
            other => panic!("no frame of herd's: {other:?}"),
        },
    }
}

/// A whole answer of which all bytes are here.
pub(crate) fn answer(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, rest)) = text.split_once("\r\n\r\n") else {
        return format!("broken off in the head: {text:?}");
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    if let Some(code) = field(head, "x-herd-error") {
        return format!("{status} {code}");
    }
    let whole = match field(head, "content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => rest.len() == length,
        None => rest.ends_with("0\r\n\r\n"),
    };
    match whole {
        true => status.to_owned(),
        false => format!("{status}, broken off"),
    }
}

fn body(whole: bool) -> String {
    match whole {
        true => "200".to_owned(),
        false => "200, broken off".to_owned(),
    }
}

pub(crate) fn field<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value.trim())
}
