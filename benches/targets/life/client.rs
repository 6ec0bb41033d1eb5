//! Blocking HTTP/1.1, as little as the rows need. The time that an answer took is the server's, not this client's.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

/// Longer than any start; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Client<S>(pub(super) S);

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Client<TcpStream> {
    pub(super) fn tcp(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }
}

impl Client<UnixStream> {
    pub(super) fn unix(path: &Path) -> anyhow::Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }
}

impl<S: AsFd> AsFd for Client<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<S: Read + Write> Client<S> {
    /// `fields` are whole lines.
    pub(super) fn send(&mut self, method: &str, path: &str, fields: &str) -> anyhow::Result<()> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        Ok(self.0.write_all(request.as_bytes())?)
    }

    pub(super) fn receive(&mut self) -> anyhow::Result<Answer> {
        let mut got = Vec::with_capacity(1024);
        let mut buffer = vec![0; 1 << 16];
        let head = loop {
            if let Some(at) = got.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            let read = self.0.read(&mut buffer)?;
            ensure!(read > 0, "hung up: {:?}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&buffer[..read]);
        };
        let text = String::from_utf8_lossy(&got[..head]).into_owned();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("no status: {text}"))?;
        let length = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .unwrap_or(0);
        let mut body = got.split_off(head);
        while body.len() < length {
            let read = self.0.read(&mut buffer)?;
            ensure!(read > 0, "hung up in the body");
            body.extend_from_slice(&buffer[..read]);
        }
        Ok(Answer { status, body })
    }

    /// The body of what has to succeed.
    pub(super) fn ask(&mut self, method: &str, path: &str, fields: &str) -> anyhow::Result<Vec<u8>> {
        self.send(method, path, fields)?;
        self.receive()?.expect_success()
    }
}

impl Answer {
    pub(super) fn expect_success(self) -> anyhow::Result<Vec<u8>> {
        let said = String::from_utf8_lossy(&self.body);
        ensure!((200..300).contains(&self.status), "{}: {said}", self.status);
        Ok(self.body)
    }
}

/// Turns the session's connection into a stream, which holds it.
pub(super) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
