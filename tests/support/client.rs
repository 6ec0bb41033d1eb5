//! A client that speaks as little HTTP as it has to, over both of herd's sockets.

use std::io::{Read, Result, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use crate::running::{CAP, Running};

/// Where one herd is reached.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) data: String,
    control: PathBuf,
}

impl Client {
    /// Nothing if herd ended before it was ready.
    pub(crate) fn of(herd: &Running) -> Option<Self> {
        Some(Self {
            data: herd.data_address()?,
            control: herd.socket(),
        })
    }

    /// Of a herd whose log says nothing.
    pub(crate) fn at(data: String, control: PathBuf) -> Self {
        Self { data, control }
    }

    /// Sends a request of a session and leaves the answer to be read.
    pub(crate) fn send(&self, id: &str, line: &str, headers: &str, body: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.data)?;
        stream.set_read_timeout(Some(CAP))?;
        let length = body.len();
        write!(
            stream,
            "{line} HTTP/1.1\r\nhost: h\r\nx-session-id: {id}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )?;
        Ok(stream)
    }

    /// The whole answer.
    pub(crate) fn ask(&self, id: &str, line: &str, body: &str) -> Result<String> {
        let mut text = String::new();
        self.send(id, line, "connection: close\r\n", body)?
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// What is answered to these bytes, until the connection closes.
    pub(crate) fn exchange(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = TcpStream::connect(&self.data)?;
        stream.set_read_timeout(Some(CAP))?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A WebSocket to the worker's echo, after its 101. Error: what was answered instead.
    pub(crate) fn websocket(&self, id: &str) -> Result<TcpStream> {
        let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let mut stream = self.send(id, "GET /v1/echo", headers, "")?;
        let head = head(&mut stream)?;
        if !head.starts_with("HTTP/1.1 101") {
            return Err(std::io::Error::other(head));
        }
        Ok(stream)
    }

    /// A hold of the session: its stream, once the session is held.
    pub(crate) fn hold(&self, id: &str) -> Result<UnixStream> {
        self.hold_with(id, "")
    }

    /// `query` names the worker: `?worker=browser`.
    pub(crate) fn hold_with(&self, id: &str, query: &str) -> Result<UnixStream> {
        let mut stream = self.control(&format!("GET /v1/sessions/{id}/hold{query}"))?;
        let head = head(&mut stream)?;
        // The body begins when the session is held.
        stream.read_exact(&mut [0])?;
        match head.starts_with("HTTP/1.1 200") {
            true => Ok(stream),
            false => Err(std::io::Error::other(head)),
        }
    }

    /// Ends the session; what it was told.
    pub(crate) fn stop(&self, id: &str) -> Result<String> {
        let mut text = String::new();
        self.control(&format!("DELETE /v1/sessions/{id}"))?
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// What the control API answers at this path.
    pub(crate) fn look(&self, path: &str) -> Result<Value> {
        let body = self.text(path)?;
        serde_json::from_str(&body).map_err(|e| std::io::Error::other(format!("{e}: {body}")))
    }

    /// The same, as it is.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let mut text = String::new();
        self.control(&format!("GET {path}"))?.read_to_string(&mut text)?;
        let body = text.split_once("\r\n\r\n");
        Ok(body.map_or(String::new(), |(_, body)| body.to_owned()))
    }

    /// One series of the metrics, by its name and its labels.
    pub(crate) fn metric(&self, series: &str) -> Result<f64> {
        let text = self.text("/metrics")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| std::io::Error::other(format!("no {series}: {text}")))
    }

    fn control(&self, line: &str) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(CAP))?;
        write!(stream, "{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")?;
        Ok(stream)
    }
}

/// Up to the empty line, and nothing of what follows.
fn head(stream: &mut impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
