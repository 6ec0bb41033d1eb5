//! What stands before a connection's first request: whose it is, TLS, and which HTTP it speaks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::code::{Code, Problem};
use super::fields::{Sender, Trust};
use super::proxy_protocol;
use super::tls::{self, Tls};
use super::transport::{Transport, Wire};
use crate::config::{Network, ProxyProtocol};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Enough for most requests' first bytes; more comes with the next read.
const FIRST_READ: usize = 2048;

/// A connection whose first request has begun.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Transport,
    /// Read from it already.
    pub(super) first: Vec<u8>,
    pub(super) speaks: Speaks,
    /// The client, which may stand behind a balancer.
    pub(super) peer: SocketAddr,
    pub(super) sender: Sender,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// A connection that has no first request.
#[derive(Debug)]
pub(super) enum Unopened {
    /// Nobody is there to be told, or nobody who would understand.
    Gone,
    Refused(Transport, Problem),
}

impl From<io::Error> for Unopened {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Everything up to the head of the first request has the time that a head has.
pub(super) async fn open(
    network: &Network,
    tls: Option<&Tls>,
    stream: TcpStream,
    balancer: SocketAddr,
) -> Result<Opened, Unopened> {
    let deadline = Instant::now() + network.header_timeout;
    let mut wire = Wire::new(stream);
    let peer = match network.proxy_protocol {
        ProxyProtocol::Off => balancer,
        ProxyProtocol::Required => announced(network, &mut wire, balancer, deadline).await?,
    };
    let mut stream = match tls {
        None => Transport::Tcp(wire),
        Some(tls) => Box::pin(shake_hands(tls, wire, peer, deadline)).await?,
    };
    let mut first = Vec::new();
    match timeout_at(deadline, preface(&mut stream, &mut first)).await {
        Ok(speaks) => Ok(Opened {
            speaks: speaks?,
            sender: Sender::new(peer.ip(), stream.scheme(), trust(network, peer.ip())),
            stream,
            first,
            peer,
        }),
        // A connection that never said anything is closed without a word.
        Err(_) if first.is_empty() => Err(Unopened::Gone),
        Err(_) => Err(Unopened::Refused(stream, late(network.header_timeout))),
    }
}

pub(super) fn late(limit: Duration) -> Problem {
    Problem::new(
        Code::RequestTimeout,
        format!("the request head was not complete within {limit:?}"),
    )
}

fn trust(network: &Network, peer: IpAddr) -> Trust {
    let peer = peer.to_canonical();
    if network.trusted_proxies.iter().any(|net| net.contains(&peer)) {
        Trust::TrustedProxy
    } else {
        Trust::Untrusted
    }
}

/// Whose connection it is, by the word of a balancer that is trusted.
async fn announced(
    network: &Network,
    wire: &mut Wire,
    balancer: SocketAddr,
    deadline: Instant,
) -> Result<SocketAddr, Unopened> {
    if trust(network, balancer.ip()) == Trust::Untrusted {
        tracing::debug!(peer = %balancer, "connection closed: its peer is not among network.trusted_proxies");
        return Err(Unopened::Gone);
    }
    match timeout_at(deadline, proxy_protocol::read(wire)).await {
        Ok(Ok(client)) => Ok(client.unwrap_or(balancer)),
        // Also a balancer's health check, which connects and leaves.
        Ok(Err(proxy_protocol::HeadError::Broken(_))) | Err(_) => Err(Unopened::Gone),
        Ok(Err(e)) => {
            tracing::warn!(peer = %balancer, error = %e, "connection closed; network.proxy_protocol expects the protocol's head");
            Err(Unopened::Gone)
        }
    }
}

async fn shake_hands(
    tls: &Tls,
    wire: Wire,
    peer: SocketAddr,
    deadline: Instant,
) -> Result<Transport, Unopened> {
    let first = timeout_at(deadline, wire.peek())
        .await
        .map_err(|_| Unopened::Gone)??;
    if first.is_ascii_uppercase() {
        let problem = Problem::new(Code::TlsRequired, "this port speaks TLS: use https:// or wss://");
        return Err(Unopened::Refused(Transport::Tcp(wire), problem));
    }
    if first != tls::HANDSHAKE {
        return Err(Unopened::Gone);
    }
    match timeout_at(deadline, tls.acceptor().accept(wire)).await {
        Ok(Ok(stream)) => Ok(Transport::Tls(Box::new(stream))),
        Ok(Err(e)) => {
            tracing::debug!(%peer, error = %e, "TLS handshake failed");
            Err(Unopened::Gone)
        }
        Err(_) => Err(Unopened::Gone),
    }
}

/// Reads until it is plain whether the client speaks HTTP/2 (RFC 9113 section 3.4), whatever was agreed by ALPN.
async fn preface(stream: &mut Transport, first: &mut Vec<u8>) -> io::Result<Speaks> {
    loop {
        first.reserve(FIRST_READ);
        if stream.read_buf(first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let common = first.len().min(H2_PREFACE.len());
        if first[..common] != H2_PREFACE[..common] {
            return Ok(Speaks::Http1);
        }
        if common == H2_PREFACE.len() {
            return Ok(Speaks::Http2);
        }
    }
}
