//! The least that a proxy can do: a connection of its own for each client, and bytes copied without a look at them.
//! What a real one costs beyond this is what it does; what this costs is the kernel's.

use std::time::Duration;

use anyhow::Context;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

use super::closed::wait;
use super::listen::{self, Stream};

/// Copy bytes between two sockets; hidden, started by the benchmark itself
#[derive(Debug, clap::Args)]
pub(crate) struct Floor {
    #[arg(long)]
    tcp: u16,
    /// Port of the upstream
    #[arg(long)]
    to: u16,
}

impl Floor {
    /// Serves until it is killed.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let listener = listen::tcp(self.tcp)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let mut ends: Vec<Option<Stream>> = Vec::new();
        let mut vacant = Vec::new();
        let mut events = [EpollEvent::empty(); 256];
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let ready = wait(&epoll, &mut events, Duration::from_secs(60))?;
            for event in &events[..ready] {
                let Some(from) = (event.data() as usize).checked_sub(1) else {
                    while let Some(client) = listen::accept(&listener)? {
                        let first = vacant.pop().unwrap_or_else(|| {
                            ends.extend([None, None]);
                            ends.len() - 2
                        });
                        for (at, end) in [(first, client), (first + 1, self.connect()?)] {
                            epoll.add(&end, EpollEvent::new(EpollFlags::EPOLLIN, at as u64 + 1))?;
                            ends[at] = Some(end);
                        }
                    }
                    continue;
                };
                // The two ends of a pair stand side by side.
                let (Some(source), Some(sink)) = (&ends[from], &ends[from ^ 1]) else {
                    continue;
                };
                let copied = match source.read(&mut buffer) {
                    Ok(None) => true,
                    Ok(Some(read)) => {
                        read > 0 && matches!(sink.write(&buffer[..read]), Ok(Some(n)) if n == read)
                    }
                    Err(_) => false,
                };
                if !copied {
                    ends[from] = None;
                    ends[from ^ 1] = None;
                    vacant.push(from & !1);
                }
            }
        }
    }

    fn connect(&self) -> anyhow::Result<Stream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let upstream = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, self.to));
        socket.connect(&upstream.into()).context("the upstream is gone")?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Stream::from(socket))
    }
}
