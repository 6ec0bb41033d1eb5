//! Which socket would accept a connection to a local TCP port, asked of the kernel over `sock_diag(7)`.
//!
//! The exact query (no dump) runs the kernel's own listener lookup, so wildcard binds and dual-stack sockets
//! are found by the address they would be reached by.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::fd::retry;

/// A listening socket. The kernel never reuses a cookie; an inode number it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    pub inode: u32,
    pub cookie: u64,
}

/// The socket that listens where `addr` leads, if any. Answers at once: no peer is involved.
pub fn at(addr: SocketAddr) -> io::Result<Option<Listener>> {
    thread_local! {
        static CONNECTION: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
    }
    CONNECTION.with_borrow_mut(|connection| {
        let socket = match connection.take() {
            Some(socket) => socket,
            None => open()?,
        };
        let answer = at_from(&socket, addr)?;
        // Kept only after a complete exchange, so that a late answer can never be taken for the next one.
        *connection = Some(socket);
        Ok(answer)
    })
}

/// As [`at`], in the network namespace in which `socket` was [opened](open). After an error the socket must not
/// be asked again: a late answer could be taken for the next one.
pub fn at_from(socket: &OwnedFd, addr: SocketAddr) -> io::Result<Option<Listener>> {
    ask(socket, addr)
}

/// A socket for such questions; it belongs to the network namespace of the process that opens it.
pub fn open() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // The kernel answers within the send; this only bounds what should be impossible.
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    Ok(fd)
}

fn ask(socket: &OwnedFd, addr: SocketAddr) -> io::Result<Option<Listener>> {
    let (family, nowhere) = match addr.ip() {
        IpAddr::V4(_) => (AF_INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (AF_INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id: SocketId {
            source_port: addr.port(),
            destination_port: 0,
            source_address: addr.ip(),
            destination_address: nowhere,
            interface_id: 0,
            cookie: [0xff; 8],
        },
    };
    let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    retry(|| send(socket.as_raw_fd(), &bytes, MsgFlags::empty()))?;

    let mut answer = [0; 4096];
    let len = retry(|| recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()))?;
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer[..len])
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => Ok(Some(Listener {
            inode: found.header.inode,
            cookie: u64::from_ne_bytes(found.header.socket_id.cookie),
        })),
        NetlinkPayload::Error(error) => match error.to_io() {
            none if none.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            error => Err(error),
        },
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected answer: {other:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_until_it_closes_and_its_successor_is_another() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = first.local_addr().unwrap();
        let found = at(addr).unwrap().expect("it listens");
        assert_eq!(at(addr).unwrap(), Some(found), "the same socket keeps its cookie");
        drop(first);
        assert_eq!(at(addr).unwrap(), None);
        let second = TcpListener::bind(addr).unwrap();
        assert_ne!(at(addr).unwrap().expect("it listens").cookie, found.cookie);
        drop(second);
    }

    #[test]
    fn wildcard_and_dual_stack_listeners_are_found_by_the_loopback_address() {
        for bind in ["0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else {
                crate::skip::skipped(&format!("cannot bind {bind} here"));
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(
                at((Ipv4Addr::LOCALHOST, port).into()).unwrap().is_some(),
                "{bind}"
            );
        }
    }
}
