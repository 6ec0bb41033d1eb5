//! Tunnels with one small message under way on each: a WebSocket client that waits for every answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::closed::{Done, wait};
use super::{PATIENCE, Protocol, Target};

/// Of a message either way, its frame's head included.
pub(crate) const SIZE: usize = 64;

/// A binary frame as a client sends it: masked, with a mask of zeros.
pub(super) fn message() -> [u8; SIZE] {
    let mut frame = [0; SIZE];
    frame[0] = 0x82;
    frame[1] = 0x80 | (SIZE as u8 - 6);
    frame
}

#[derive(Debug)]
pub(crate) struct PingPong {
    epoll: Epoll,
    tunnels: Vec<(TcpStream, usize)>,
}

impl PingPong {
    pub(crate) fn open(target: Target, tunnels: usize) -> anyhow::Result<Self> {
        let mut open = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            tunnels: Vec::with_capacity(tunnels),
        };
        for index in 0..tunnels {
            let mut tunnel = target.tunnel("/echo", Protocol::WebSocket)?;
            tunnel.set_nonblocking(true)?;
            open.epoll
                .add(&tunnel, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            tunnel.write_all(&message())?;
            open.tunnels.push((tunnel, 0));
        }
        Ok(open)
    }

    /// Goes on for this long, and until something was done, and counts the messages that came back.
    pub(crate) fn run(&mut self, duration: Duration) -> anyhow::Result<Done> {
        let message = message();
        let mut buffer = [0; SIZE];
        let mut events = [EpollEvent::empty(); 256];
        let (began, mut last, mut requests) = (Instant::now(), Instant::now(), 0);
        loop {
            let ready = wait(&self.epoll, &mut events, Duration::from_millis(10))?;
            for event in &events[..ready] {
                let (tunnel, have) = &mut self.tunnels[event.data() as usize];
                match tunnel.read(&mut buffer[*have..]) {
                    Ok(0) => bail!("a tunnel was closed"),
                    Ok(read) => *have += read,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e).context("cannot read from a tunnel"),
                }
                if *have == SIZE {
                    *have = 0;
                    requests += 1;
                    tunnel.write_all(&message).context("cannot write into a tunnel")?;
                }
            }
            let now = Instant::now();
            if ready > 0 {
                last = now;
            } else if now - last > PATIENCE {
                bail!("no message within {PATIENCE:?}");
            }
            let took = now - began;
            if took >= duration && requests > 0 {
                return Ok(Done { requests, took });
            }
        }
    }
}
