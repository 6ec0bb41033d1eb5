//! A client's connection: TCP as it is, or TLS over it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::fields::Scheme;
use super::splice::Socket;
use crate::sys::fd::retry;

/// The socket under a connection.
///
/// Readiness to read does not tell an end from unread input, and an end behind it is not read. Whoever looks for the end
/// while nobody reads ([`Self::poll_left`]) takes unread input off the readiness, which then only comes back with news; a
/// read knows to look at the socket itself first.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    /// Input lies in the socket that readiness no longer tells of.
    unread: Cell<bool>,
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            unread: Cell::new(false),
        }
    }

    /// Ready once the other end has closed its side or is gone. Reads nothing.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.tcp.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match ready!(pin!(self.tcp.ready(Interest::READABLE)).poll(cx)) {
                Ok(ready) if !ready.is_read_closed() => {}
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
            self.unread.set(true);
            // A would-block is what takes it off; an end stays.
            let _ = self.tcp.try_io(Interest::READABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
        }
    }

    /// Input, or the end, has come.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        if self.unread.get() {
            return Ok(());
        }
        self.tcp.readable().await
    }

    /// The first byte that is to be read, which stays where it is.
    ///
    /// # Errors
    /// The other end has closed its side or is gone.
    pub(crate) async fn peek(&self) -> io::Result<u8> {
        let mut first = [0];
        match self.tcp.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first[0]),
        }
    }

    /// The kernel's own copy goes by readiness: registered again, it is told of unread input too.
    fn renewed(self) -> io::Result<Self> {
        if !self.unread.get() {
            return Ok(self);
        }
        Ok(Self::new(TcpStream::from_std(self.tcp.into_std()?)?))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.get() {
            let into = buf.initialize_unfilled();
            let room = into.len();
            let read = retry(|| recv(self.tcp.as_raw_fd(), into, MsgFlags::empty()));
            self.unread.set(read == Ok(room));
            match read {
                Err(nix::Error::EAGAIN) => {}
                read => {
                    buf.advance(read?);
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }
}

/// What a client's bytes come through.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(Wire),
    Tls(Box<TlsStream<Wire>>),
}

impl Transport {
    pub(crate) fn wire(&self) -> &Wire {
        match self {
            Self::Tcp(wire) => wire,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Self::Tcp(_) => Scheme::Http,
            Self::Tls(_) => Scheme::Https,
        }
    }

    /// What carries the bytes just as they are.
    pub(crate) fn socket(&self) -> Option<Socket<'_>> {
        match self {
            Self::Tcp(wire) => Some(Socket::Tcp(&wire.tcp)),
            Self::Tls(_) => None,
        }
    }

    /// For an owner that goes by the socket's readiness, as splicing does.
    ///
    /// # Errors
    /// The socket cannot be registered again.
    pub(crate) fn renewed(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(wire) => Self::Tcp(wire.renewed()?),
            tls @ Self::Tls(_) => tls,
        })
    }

    /// Ends the connection so that the peer knows something went wrong.
    pub(crate) fn reset(self) {
        // If this fails the peer sees a plain close; there is nothing better to do.
        let _ = socket2::SockRef::from(&self.wire().tcp).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// Says the last and closes, and reads until the peer has closed, too: were there input unread, the kernel would reset the
/// connection, and the reset could overtake what was said.
pub(super) async fn close_after<S>(stream: &mut S, last: &[u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(last).await?;
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.wire().tcp.as_raw_fd()
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(wire) => Pin::new(wire).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(wire) => Pin::new(wire).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(wire) => Pin::new(wire).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(wire) => Pin::new(wire).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(wire) => Pin::new(wire).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }
}
