//! What a line of the access log says. `docs/operations.md` has the table of its fields.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

/// Longest text of a client's that is written, bytes: a header may have a megabyte.
const LONGEST: usize = 2048;

/// One request, or one that never became one: then there is little to say.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When its head had come.
    #[serde(serialize_with = "moment")]
    pub time: SystemTime,
    pub client: IpAddr,
    /// Who is connected, if that is a proxy that is believed about the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// 499: the client left before it was answered.
    pub status: u16,
    /// Of herd's own answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<&'a str>,
    /// `created` or `reused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<&'static str>,
    pub end: &'static str,
    pub request_bytes: u64,
    pub response_bytes: u64,
    #[serde(serialize_with = "milliseconds")]
    pub duration_ms: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "milliseconds")]
    pub queue_ms: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "milliseconds")]
    pub start_ms: Option<Duration>,
    /// From the request's being sent to the worker to the head of its answer.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "milliseconds")]
    pub worker_ms: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
}

impl Line<'_> {
    /// With its end. Plain ASCII, so that nothing a client sends breaks a line or drives a terminal.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(512);
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, Ascii);
        // Neither a Vec nor these fields can fail.
        let _ = self.serialize(&mut serializer);
        text.push(b'\n');
        text
    }
}

/// What a client sent, as far as it is written.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.len() <= LONGEST {
        return String::from_utf8_lossy(bytes);
    }
    let mut cut = String::from_utf8_lossy(&bytes[..LONGEST]).into_owned();
    cut.push('…');
    Cow::Owned(cut)
}

fn moment<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn milliseconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = time.unwrap_or_default().as_micros();
    serializer.serialize_f64(micros as f64 / 1000.0)
}

/// Escapes everything that is not printable ASCII.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let plain = |c: char| matches!(c, ' '..='~');
        let mut rest = fragment;
        while let Some(at) = rest.find(|c| !plain(c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let Some(odd) = rest[at..].chars().next() else {
                break;
            };
            for unit in odd.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + odd.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_client_sends_breaks_a_line_or_drives_a_terminal() {
        let hostile = "a\n{\"status\":200}\r\u{1b}[2J\u{9b}\u{2028}\u{7f}\u{fffd}\"\\\u{1f9a5}";
        let long = hostile.repeat(1000);
        let line = Line {
            time: SystemTime::UNIX_EPOCH,
            client: [127, 0, 0, 1].into(),
            proxy: None,
            method: Some("GET"),
            host: Some(text(hostile.as_bytes())),
            path: Some(text(b"/\xff\x9b")),
            protocol: None,
            status: 499,
            error: None,
            session: None,
            principal: None,
            worker: None,
            state: None,
            tunnel: None,
            end: "client_left",
            request_bytes: 0,
            response_bytes: 1,
            duration_ms: Some(Duration::from_micros(1_500)),
            queue_ms: None,
            start_ms: None,
            worker_ms: None,
            user_agent: Some(text(long.as_bytes())),
            trace_id: None,
        };
        let json = line.to_json();
        let (end, json) = json.split_last().unwrap();
        assert_eq!(*end, b'\n');
        assert!(json.iter().all(|byte| (b' '..=b'~').contains(byte)), "{json:?}");
        let read: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(read["host"], hostile);
        assert_eq!(read["path"], "/\u{fffd}\u{fffd}");
        assert_eq!(read["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(read["duration_ms"], 1.5);
        assert!(read["user_agent"].as_str().unwrap().len() < LONGEST + 10);
    }
}
