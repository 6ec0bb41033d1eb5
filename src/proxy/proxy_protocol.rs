//! The head of the PROXY protocol, version 2: with it a load balancer that passes connections on as they are says whose they
//! are (haproxy's doc/proxy-protocol.txt).
//!
//! It is read to its last byte and no further: what follows is the client's.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Signature, version and command, family, and the length of the rest.
const FIXED: usize = 16;
/// More than any balancer has to say; the addresses take 36 bytes at most, and 216 where they are UNIX sockets'.
const LONGEST: usize = 4096;

/// Why a connection does not begin as it has to.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error(transparent)]
    Broken(#[from] io::Error),
    #[error("no head of the PROXY protocol's version 2 (haproxy: send-proxy-v2)")]
    Absent,
    #[error("a head of the PROXY protocol with {0} bytes; {LONGEST} are allowed")]
    TooLong(usize),
    #[error("a head of the PROXY protocol that names no client by an IP address")]
    Unnamed,
    #[error("a head of the PROXY protocol that makes no sense: {0}")]
    Invalid(#[from] ParseError),
}

/// Whose connection it is; `None`: the balancer's own, as for its health checks.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeadError> {
    let mut head = vec![0; FIXED];
    let (signature, rest) = head.split_at_mut(PROTOCOL_PREFIX.len());
    stream.read_exact(signature).await?;
    if signature != PROTOCOL_PREFIX {
        return Err(HeadError::Absent);
    }
    stream.read_exact(rest).await?;
    let length = usize::from(u16::from_be_bytes([head[FIXED - 2], head[FIXED - 1]]));
    if length > LONGEST {
        return Err(HeadError::TooLong(length));
    }
    head.resize(FIXED + length, 0);
    stream.read_exact(&mut head[FIXED..]).await?;
    said(&head)
}

fn said(head: &[u8]) -> Result<Option<SocketAddr>, HeadError> {
    let head = Header::try_from(head)?;
    Ok(match (head.command, head.addresses) {
        (Command::Proxy, Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (Command::Proxy, Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
        (Command::Local, _) => None,
        // Some client of the balancer's, who must not be taken for the balancer: that one is trusted.
        (Command::Proxy, _) => return Err(HeadError::Unnamed),
    })
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Protocol, Type, Version};

    use super::*;

    fn head(command: Command, addresses: impl Into<Addresses>) -> Vec<u8> {
        let head = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        head.write_tlv(Type::NoOp, &[0; 40]).unwrap().build().unwrap()
    }

    fn v4() -> (SocketAddr, SocketAddr) {
        (
            "192.0.2.7:41000".parse().unwrap(),
            "198.51.100.1:443".parse().unwrap(),
        )
    }

    async fn read_all(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, HeadError>, Vec<u8>) {
        let read = read(&mut bytes).await;
        (read, bytes.to_vec())
    }

    #[tokio::test]
    async fn the_client_is_whom_the_balancer_names_and_its_bytes_are_left() {
        let v6: (SocketAddr, SocketAddr) = (
            "[2001:db8::7]:41000".parse().unwrap(),
            "[::1]:443".parse().unwrap(),
        );
        for (client, server) in [v4(), v6] {
            let sent = [head(Command::Proxy, (client, server)), b"GET /".to_vec()].concat();
            let (read, left) = read_all(&sent).await;
            assert_eq!(read.unwrap(), Some(client));
            assert_eq!(left, b"GET /");
        }
    }

    #[tokio::test]
    async fn a_balancer_speaking_for_itself_names_nobody() {
        let (read, _) = read_all(&head(Command::Local, v4())).await;
        assert_eq!(read.unwrap(), None);
    }

    #[tokio::test]
    async fn anything_else_is_told_apart() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (read, left) = read_all(request).await;
        assert!(matches!(read, Err(HeadError::Absent)), "{read:?}");
        assert_eq!(left, request[PROTOCOL_PREFIX.len()..]);
        let (read, _) = read_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 41000 443\r\n").await;
        assert!(matches!(read, Err(HeadError::Absent)), "{read:?}");
        let whole = head(Command::Proxy, v4());
        for cut in 0..whole.len() {
            let (read, _) = read_all(&whole[..cut]).await;
            assert!(matches!(read, Err(HeadError::Broken(_))), "{cut}: {read:?}");
        }
        let unnamed = head(Command::Proxy, Addresses::Unspecified);
        let (read, _) = read_all(&unnamed).await;
        assert!(matches!(read, Err(HeadError::Unnamed)), "{read:?}");
        let mut version = whole.clone();
        version[12] = 0x31;
        let (read, _) = read_all(&version).await;
        assert!(matches!(read, Err(HeadError::Invalid(_))), "{read:?}");
        let mut long = whole;
        long[14..16].copy_from_slice(&[0xff, 0xff]);
        let (read, left) = read_all(&long).await;
        assert!(matches!(read, Err(HeadError::TooLong(65535))), "{read:?}");
        assert!(!left.is_empty());
    }
}
