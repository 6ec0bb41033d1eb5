//! The load generator, the same for everybody: one thread, on a CPU of its own, over loopback.
//!
//! | module | what |
//! |---|---|
//! | `closed` | N connections, each with one request under way |
//! | `fixed` | requests at a fixed rate, timed from when each should have been sent |
//! | `bulk` | one large body or one busy tunnel, either way |
//! | `pingpong` | N tunnels, each with one small message under way |
//! | `http2` | many streams over few HTTP/2 connections |
//! | `idle` | connections that are opened, used once and left alone |
//! | `upstream`, `floor` | the worker behind every proxy; the least a proxy can do |

mod answer;
pub(crate) mod bulk;
pub(crate) mod closed;
pub(crate) mod fixed;
pub(crate) mod floor;
pub(crate) mod http2;
pub(crate) mod idle;
mod listen;
pub(crate) mod pingpong;
pub(crate) mod upstream;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use self::answer::Answer;

/// After this, whatever is waited for does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where requests go, and for which session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) session: &'static str,
}

/// What a tunnel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RFC 6455 frames.
    WebSocket,
    /// Bytes that mean nothing to a proxy.
    Raw,
}

impl Target {
    /// About what a small API client sends.
    fn get(&self, path: &str) -> Vec<u8> {
        self.request("GET", path, "")
    }

    fn request(&self, method: &str, path: &str, fields: &str) -> Vec<u8> {
        let Self { addr, session } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: targets\r\nAccept: */*\r\n\
             X-Session-ID: {session}\r\n{fields}\r\n"
        )
        .into_bytes()
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let stream =
            TcpStream::connect(self.addr).with_context(|| format!("cannot connect to {}", self.addr))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// One request on a connection of its own, which stays usable.
    pub(crate) fn once(&self, path: &str, fields: &str) -> anyhow::Result<TcpStream> {
        let mut stream = self.connect()?;
        stream.write_all(&self.request("GET", path, fields))?;
        let answer = read_head(&mut stream)?;
        if answer.status != 200 {
            bail!("{} answered {}", self.addr, answer.status);
        }
        let mut body = vec![0; usize::try_from(answer.length)?];
        stream.read_exact(&mut body)?;
        Ok(stream)
    }

    /// A tunnel to the upstream's `path`, through a blocking socket.
    fn tunnel(&self, path: &str, protocol: Protocol) -> anyhow::Result<TcpStream> {
        let fields = match protocol {
            Protocol::WebSocket => {
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            }
            Protocol::Raw => "Connection: Upgrade\r\nUpgrade: raw\r\n",
        };
        let mut stream = self.connect()?;
        stream.write_all(&self.request("GET", path, fields))?;
        let answer = read_head(&mut stream)?;
        if answer.status != 101 {
            bail!("{} answered {} instead of a tunnel", self.addr, answer.status);
        }
        Ok(stream)
    }
}

/// Byte by byte, so that nothing behind the head is taken; only for what is not measured.
fn read_head(stream: &mut TcpStream) -> anyhow::Result<Answer> {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer")?;
        head.push(byte[0]);
        if let Some(answer) = Answer::parse(&head)? {
            return Ok(answer);
        }
    }
}

/// This thread, and what it starts, runs on that CPU only.
pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("cannot stay on CPU {core}"))
}
