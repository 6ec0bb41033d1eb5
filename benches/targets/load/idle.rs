//! Connections that are used once and then left alone.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::pingpong::{SIZE, message};
use super::{Protocol, Target};

/// Keep-alive connections, each after one request.
pub(crate) fn keep_alive(target: Target, connections: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..connections).map(|_| target.once("/small", "")).collect()
}

/// WebSockets, each after one message there and back.
pub(crate) fn websockets(target: Target, connections: usize) -> anyhow::Result<Vec<TcpStream>> {
    let open = |_| {
        let mut tunnel = target.tunnel("/echo", Protocol::WebSocket)?;
        tunnel.write_all(&message())?;
        tunnel.read_exact(&mut [0; SIZE])?;
        Ok(tunnel)
    };
    (0..connections).map(open).collect()
}
