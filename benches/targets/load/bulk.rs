//! Many bytes on one connection, through blocking sockets: what costs is the proxy.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::Context;

use super::{Protocol, Target, read_head};

const PIECE: usize = 256 * 1024;

/// GET of a body of so many bytes.
pub(crate) fn download(target: Target, bytes: u64) -> anyhow::Result<()> {
    let mut stream = target.connect()?;
    stream.write_all(&target.get(&format!("/down/{bytes}")))?;
    let answer = read_head(&mut stream)?;
    anyhow::ensure!(
        answer.status == 200 && answer.length == bytes,
        "status {}, {} bytes of {bytes}",
        answer.status,
        answer.length
    );
    read(&mut stream, bytes)
}

/// POST of a body of so many bytes.
pub(crate) fn upload(target: Target, bytes: u64) -> anyhow::Result<()> {
    let mut stream = target.connect()?;
    stream.write_all(&target.request("POST", "/up", &format!("Content-Length: {bytes}\r\n")))?;
    write(&mut stream, bytes)?;
    let answer = read_head(&mut stream)?;
    anyhow::ensure!(answer.status == 200, "status {}", answer.status);
    read(&mut stream, answer.length)
}

/// So many bytes down one tunnel.
pub(crate) fn tunnel_down(target: Target, bytes: u64) -> anyhow::Result<()> {
    let mut stream = target.tunnel(&format!("/source/{bytes}"), Protocol::Raw)?;
    read(&mut stream, bytes)
}

/// So many bytes up one tunnel, until the upstream has them all.
pub(crate) fn tunnel_up(target: Target, bytes: u64) -> anyhow::Result<()> {
    let mut stream = target.tunnel(&format!("/sink/{bytes}"), Protocol::Raw)?;
    write(&mut stream, bytes)?;
    read(&mut stream, 1)
}

fn read(stream: &mut TcpStream, mut bytes: u64) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE];
    while bytes > 0 {
        let most = usize::try_from(bytes)?.min(PIECE);
        let read = stream
            .read(&mut piece[..most])
            .with_context(|| format!("{bytes} bytes were still to come"))?;
        anyhow::ensure!(read > 0, "the end, with {bytes} bytes still to come");
        bytes -= read as u64;
    }
    Ok(())
}

fn write(stream: &mut TcpStream, mut bytes: u64) -> anyhow::Result<()> {
    let piece = vec![0; PIECE];
    while bytes > 0 {
        let most = usize::try_from(bytes)?.min(PIECE);
        stream
            .write_all(&piece[..most])
            .with_context(|| format!("{bytes} bytes were still to go"))?;
        bytes -= most as u64;
    }
    Ok(())
}
