//! The worker behind every proxy: one thread, epoll, answers that cost next to nothing.
//!
//! | path | does |
//! |---|---|
//! | `/down/N` | a body of N bytes |
//! | `/source/N`, `/sink/N` | after an upgrade: sends N bytes; takes N bytes and sends one |
//! | `/echo` | after an upgrade: a 64-byte frame for every 64 bytes |
//! | others | takes the body, if any, and answers with two bytes |

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::Socket;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::closed::wait;
use super::listen::{self, Stream};
use super::pingpong::SIZE;

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
const PIECE: usize = 256 * 1024;

/// Run as a worker; hidden, started by the benchmark itself
#[derive(Debug, clap::Args)]
pub(crate) struct Upstream {
    /// The CPU to stay on
    #[arg(long)]
    core: usize,
    #[arg(long)]
    tcp: Option<u16>,
    #[arg(long)]
    unix: Option<PathBuf>,
}

impl Upstream {
    /// Serves until it is killed.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        super::pin(self.core)?;
        let mut server = Server {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listeners: Vec::new(),
            connections: Vec::new(),
            vacant: Vec::new(),
            zeros: vec![0; PIECE],
        };
        if let Some(port) = self.tcp {
            server.listeners.push(listen::tcp(port)?);
        }
        if let Some(path) = &self.unix {
            server.listeners.push(listen::unix(path)?);
        }
        server.run()
    }
}

#[derive(Debug)]
struct Server {
    epoll: Epoll,
    listeners: Vec<Socket>,
    connections: Vec<Option<Connection>>,
    vacant: Vec<usize>,
    zeros: Vec<u8>,
}

impl Server {
    fn run(&mut self) -> anyhow::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            self.epoll
                .add(listener, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        }
        let listeners = self.listeners.len();
        let mut events = [EpollEvent::empty(); 256];
        let mut scratch = vec![0; PIECE];
        loop {
            let ready = wait(&self.epoll, &mut events, Duration::from_secs(60))?;
            for event in &events[..ready] {
                let at = event.data() as usize;
                match at.checked_sub(listeners) {
                    None => self.accept(at)?,
                    Some(slot) => self.serve(slot, &mut scratch),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> anyhow::Result<()> {
        while let Some(stream) = listen::accept(&self.listeners[listener])? {
            let slot = self.vacant.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = (slot + self.listeners.len()) as u64;
            self.epoll
                .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            self.connections[slot] = Some(Connection::new(stream));
        }
        Ok(())
    }

    /// A connection that fails, as those of a proxy that is ended do, is closed.
    fn serve(&mut self, slot: usize, scratch: &mut [u8]) {
        let Some(connection) = &mut self.connections[slot] else {
            return;
        };
        let before = connection.interest();
        let alive = connection.advance(scratch, &self.zeros).is_ok_and(|open| open);
        let after = connection.interest();
        let token = (slot + self.listeners.len()) as u64;
        let watched = before == after
            || self
                .epoll
                .modify(&connection.stream, &mut EpollEvent::new(after, token))
                .is_ok();
        if !alive || !watched {
            self.connections[slot] = None;
            self.vacant.push(slot);
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// Of a head that came in pieces.
    held: Vec<u8>,
    doing: Doing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Head,
    Body {
        left: u64,
    },
    /// Bytes of a body or, in a tunnel, of a source.
    Send {
        left: u64,
        then: Then,
    },
    Sink {
        left: u64,
    },
    /// Bytes of a message that is not whole yet.
    Echo {
        have: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Head,
    /// Takes and forgets.
    Nothing,
}

impl Connection {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            held: Vec::new(),
            doing: Doing::Head,
        }
    }

    fn interest(&self) -> EpollFlags {
        match self.doing {
            Doing::Send { .. } => EpollFlags::EPOLLOUT,
            _ => EpollFlags::EPOLLIN,
        }
    }

    /// `false` at the end of the stream.
    fn advance(&mut self, scratch: &mut [u8], zeros: &[u8]) -> io::Result<bool> {
        if !matches!(self.doing, Doing::Send { .. }) {
            match self.stream.read(scratch)? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(read) => self.take(&scratch[..read])?,
            }
        }
        while let Doing::Send { left, then } = self.doing {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
            if most == 0 {
                self.doing = match then {
                    Then::Head => Doing::Head,
                    Then::Nothing => Doing::Sink { left: u64::MAX },
                };
                break;
            }
            let Some(written) = self.stream.write(&zeros[..most])? else {
                break;
            };
            self.doing = Doing::Send {
                left: left - written as u64,
                then,
            };
        }
        Ok(true)
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.doing {
            Doing::Head if self.held.is_empty() => {
                if !self.head(bytes)? {
                    self.held.extend_from_slice(bytes);
                }
            }
            Doing::Head => {
                self.held.extend_from_slice(bytes);
                let held = std::mem::take(&mut self.held);
                if !self.head(&held)? {
                    self.held = held;
                }
            }
            Doing::Body { left } => match left.saturating_sub(bytes.len() as u64) {
                0 => self.small()?,
                left => self.doing = Doing::Body { left },
            },
            Doing::Sink { left } => {
                let after = left.saturating_sub(bytes.len() as u64);
                if after == 0 && left > 0 {
                    self.reply(b"!")?;
                }
                self.doing = Doing::Sink { left: after };
            }
            Doing::Echo { have } => {
                let have = have + bytes.len();
                for _ in 0..have / SIZE {
                    self.reply(&frame())?;
                }
                self.doing = Doing::Echo { have: have % SIZE };
            }
            // Nothing is read while there is something to send.
            Doing::Send { .. } => {}
        }
        Ok(())
    }

    /// `false` while it is incomplete. What follows it is the first part of the body or tunnel.
    fn head(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let parsed = request
            .parse(bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let httparse::Status::Complete(head) = parsed else {
            return Ok(false);
        };
        let field = |name: &str| {
            let found = request
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name));
            found.and_then(|field| std::str::from_utf8(field.value).ok())
        };
        let path = request.path.unwrap_or_default();
        let number = |prefix: &str| path.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
        let rest = &bytes[head..];
        if let Some(protocol) = field("upgrade") {
            let accept = field("sec-websocket-key").map_or_else(String::new, |key| {
                format!("Sec-WebSocket-Accept: {}\r\n", derive_accept_key(key.as_bytes()))
            });
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{accept}\r\n"
            );
            self.doing = match (number("/source/"), number("/sink/")) {
                (Some(left), _) => Doing::Send {
                    left,
                    then: Then::Nothing,
                },
                (_, Some(left)) => Doing::Sink { left },
                _ => Doing::Echo { have: 0 },
            };
            self.reply(answer.as_bytes())?;
        } else if let Some(left) = number("/down/") {
            self.reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes())?;
            self.doing = Doing::Send {
                left,
                then: Then::Head,
            };
        } else {
            match field("content-length").and_then(|n| n.parse().ok()).unwrap_or(0) {
                0 => self.small()?,
                left => self.doing = Doing::Body { left },
            }
        }
        if !rest.is_empty() {
            self.take(rest)?;
        }
        Ok(true)
    }

    fn small(&mut self) -> io::Result<()> {
        self.doing = Doing::Head;
        self.reply(SMALL)
    }

    /// So little that it always fits: at most one is under way on a connection.
    fn reply(&self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.write(bytes)? {
            Some(written) if written == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// A binary frame as a server sends it.
fn frame() -> [u8; SIZE] {
    let mut frame = [0; SIZE];
    frame[0] = 0x82;
    frame[1] = SIZE as u8 - 2;
    frame
}
