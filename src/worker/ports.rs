//! Ports for workers that listen on one, from a range of herd's own.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

/// Below the kernel's default ephemeral range (32768–60999), so that no outgoing connection takes one.
pub const DEFAULT_PORTS: RangeInclusive<u16> = 20_000..=29_999;

/// Allots every port of the range in turn, so that one just freed comes back as late as possible.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    next: u16,
    allotted: HashSet<u16>,
}

impl Ports {
    /// Begins anywhere: two herds on one host rarely try the same port.
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let size = u64::from(range.end().saturating_sub(*range.start())) + 1;
        let next = range.start() + (RandomState::new().build_hasher().finish() % size) as u16;
        Self {
            range,
            next,
            allotted: HashSet::new(),
        }
    }

    /// A port on which nobody listens at the moment. `None`: there is none left.
    pub(super) fn allot(&mut self) -> Option<u16> {
        for _ in self.range.clone() {
            let port = self.next;
            self.next = if port >= *self.range.end() {
                *self.range.start()
            } else {
                port + 1
            };
            if !self.allotted.contains(&port) && is_free(port) {
                self.allotted.insert(port);
                return Some(port);
            }
        }
        None
    }

    pub(super) fn give_back(&mut self, port: u16) {
        self.allotted.remove(&port);
    }

    pub(super) fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }
}

/// Binds, does not listen: sees every listener on any address, and disturbs none.
fn is_free(port: u16) -> bool {
    let bind = |domain: Domain, addr: SocketAddr| {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // As servers do: connections of a former worker in TIME_WAIT do not matter.
        socket.set_reuse_address(true)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())
    };
    let taken = |result: std::io::Result<()>| {
        result.is_err_and(|e| {
            matches!(
                e.kind(),
                std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied
            )
        })
    };
    !taken(bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()))
        && !taken(bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_somebody_listens_on_is_not_allotted() {
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(stranger) = TcpListener::bind(bind) else {
                crate::skip::skipped(&format!("cannot bind {bind} here"));
                continue;
            };
            let port = stranger.local_addr().unwrap().port();
            assert_eq!(Ports::new(port..=port).allot(), None, "{bind}");
        }
    }

    #[test]
    fn a_port_is_allotted_once_until_it_is_given_back() {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let mut ports = Ports::new(port..=port);
        assert_eq!(ports.allot(), Some(port));
        assert_eq!(ports.allot(), None);
        ports.give_back(port);
        assert_eq!(ports.allot(), Some(port));
    }

    #[test]
    fn a_freed_port_comes_back_last() {
        let mut ports = Ports::new(21_000..=21_050);
        let first = ports.allot().unwrap();
        ports.give_back(first);
        assert_ne!(ports.allot(), Some(first));
    }
}
