//! A closed loop: each connection sends its next request when the answer is there.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::answer::Answer;
use super::{PATIENCE, Target};

/// What one turn did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) took: Duration,
}

/// Connections with one request under way on each.
#[derive(Debug)]
pub(crate) struct Closed {
    epoll: Epoll,
    request: Vec<u8>,
    connections: Vec<Connection>,
}

impl Closed {
    /// Opens the connections and sends the first request on each.
    pub(crate) fn open(target: Target, path: &str, connections: usize) -> anyhow::Result<Self> {
        let mut closed = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            request: target.get(path),
            connections: Vec::with_capacity(connections),
        };
        for index in 0..connections {
            let mut connection = Connection::new(target.connect()?)?;
            closed.epoll.add(
                &connection.stream,
                EpollEvent::new(EpollFlags::EPOLLIN, index as u64),
            )?;
            connection.send(&closed.request)?;
            closed.connections.push(connection);
        }
        Ok(closed)
    }

    /// Goes on for this long, and until something was done. Requests that are under way at its end are counted by the next turn.
    pub(crate) fn run(&mut self, duration: Duration) -> anyhow::Result<Done> {
        let began = Instant::now();
        let mut events = [EpollEvent::empty(); 256];
        let mut requests = 0;
        let mut last = began;
        loop {
            let ready = wait(&self.epoll, &mut events, Duration::from_millis(10))?;
            let now = Instant::now();
            for event in &events[..ready] {
                let connection = &mut self.connections[event.data() as usize];
                if connection.receive()?.is_some() {
                    requests += 1;
                    connection.send(&self.request)?;
                }
            }
            if ready > 0 {
                last = now;
            } else if last.elapsed() > PATIENCE {
                bail!("no answer within {PATIENCE:?}");
            }
            let took = now - began;
            if took >= duration && requests > 0 {
                return Ok(Done { requests, took });
            }
        }
    }
}

/// Ready descriptors; none after the timeout or a signal.
pub(super) fn wait(epoll: &Epoll, events: &mut [EpollEvent], timeout: Duration) -> anyhow::Result<usize> {
    match epoll.wait(events, EpollTimeout::try_from(timeout)?) {
        Err(Errno::EINTR) => Ok(0),
        other => other.context("epoll_wait"),
    }
}

/// A keep-alive connection with at most one request under way.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 4096],
            filled: 0,
        })
    }

    /// A small request always fits into an idle connection's send buffer.
    pub(super) fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).context("cannot send a request")
    }

    /// One read. The answer, once it is whole.
    pub(super) fn receive(&mut self) -> anyhow::Result<Option<Answer>> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => bail!("the proxy closed a connection with a request under way"),
            Ok(read) => self.filled += read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e).context("cannot read an answer"),
        }
        let Some(answer) = Answer::parse(&self.buffer[..self.filled])? else {
            anyhow::ensure!(self.filled < self.buffer.len(), "a head of {} bytes", self.filled);
            return Ok(None);
        };
        anyhow::ensure!(answer.status == 200, "status {}", answer.status);
        let total = usize::try_from(answer.total())?;
        anyhow::ensure!(
            self.filled <= total && total <= self.buffer.len(),
            "{} bytes of an answer of {total}",
            self.filled
        );
        if self.filled < total {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(answer))
    }
}
