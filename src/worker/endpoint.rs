//! Where a ready worker is reached, and the proof that it is the worker that answers there.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::launcher::{Door, Keeper};
use crate::sys::listener::{self, Listener};
use crate::sys::process::{self, Ownership};

/// Where a ready worker is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Tcp(TcpEndpoint),
    /// A socket in the worker's own 0700 directory.
    Unix(Arc<PathBuf>),
    /// In a sandbox, through its keeper.
    Inside(InsideEndpoint),
}

/// A connection to a worker.
#[derive(Debug)]
pub enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Endpoint {
    /// Connects, and makes sure that it is the worker that accepted. `TCP_NODELAY` is set.
    ///
    /// `ConnectionRefused` also stands for "somebody else listens there now": to the caller it is the same, the
    /// worker cannot be reached.
    pub async fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(tcp) => {
                let mut stream = TcpStream::connect(tcp.addr).await?;
                if tcp.verify().await? == Verified::Replaced {
                    // The first may still have met whoever listened in between.
                    stream = TcpStream::connect(tcp.addr).await?;
                    if tcp.verify().await? == Verified::Replaced {
                        return Err(tcp.refused());
                    }
                }
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
            Self::Inside(inside) => inside.connect().await,
            Self::Unix(path) => Ok(Connection::Unix(UnixStream::connect(path.as_path()).await?)),
        }
    }
}

/// Where a sandboxed worker is reached. No proof is needed: nobody else is in there.
#[derive(Debug, Clone)]
pub struct InsideEndpoint {
    /// `None`: the worker's UNIX socket.
    port: Option<SocketAddr>,
    keeper: Arc<Keeper>,
}

impl PartialEq for InsideEndpoint {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && Arc::ptr_eq(&self.keeper, &other.keeper)
    }
}

impl Eq for InsideEndpoint {}

impl InsideEndpoint {
    pub(super) fn port(addr: SocketAddr, keeper: Arc<Keeper>) -> Self {
        Self {
            port: Some(addr),
            keeper,
        }
    }

    pub(super) fn socket(keeper: Arc<Keeper>) -> Self {
        Self { port: None, keeper }
    }

    /// The worker's address inside, as the worker knows it.
    pub fn address(&self) -> Option<SocketAddr> {
        self.port
    }

    async fn connect(&self) -> io::Result<Connection> {
        let Some(addr) = self.port else {
            let socket = self.keeper.open(Door::Unix).await?;
            let stream = std::os::unix::net::UnixStream::from(socket);
            return Ok(Connection::Unix(UnixStream::from_std(stream)?));
        };
        let door = match addr {
            SocketAddr::V4(_) => Door::Tcp4,
            SocketAddr::V6(_) => Door::Tcp6,
        };
        let socket = self.keeper.open(door).await?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Connection::Tcp(stream))
    }
}

/// A bare worker's port, with the identity of the listener that was proven to be the worker's.
#[derive(Debug, Clone)]
pub struct TcpEndpoint {
    pub addr: SocketAddr,
    proof: Arc<Proof>,
}

#[derive(Debug)]
struct Proof {
    /// Of the listener last proven; the kernel never gives it to another socket.
    cookie: AtomicU64,
    keeper: Arc<Keeper>,
}

impl PartialEq for TcpEndpoint {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr && Arc::ptr_eq(&self.proof, &other.proof)
    }
}

impl Eq for TcpEndpoint {}

/// Whose listener it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Nobody,
    Proven(Listener),
    Stranger,
    /// This many processes of the tree could not be looked into.
    Unknown(usize),
}

/// Asks who listens at `addr`, and whether it is the keeper's tree. That reads /proc in this thread, for as many processes
/// as a [tree](process::tree) has at most.
pub(super) async fn standing(addr: SocketAddr, keeper: &Keeper) -> io::Result<Standing> {
    let Some(listener) = listener::at(addr)? else {
        return Ok(Standing::Nobody);
    };
    let Some(root) = keeper.pid() else {
        return Ok(Standing::Stranger);
    };
    let ownership = match process::owns_socket(root, listener.inode) {
        // A sandbox's processes may be another user's on this host; their keeper has rights over them.
        Ownership::Unreadable(processes) => match keeper.owns(listener.inode).await {
            Ok(true) => Ownership::Owned,
            Ok(false) => Ownership::NotOwned,
            Err(_) => Ownership::Unreadable(processes),
        },
        plain => plain,
    };
    // The number was the keeper's only if the keeper still lives, and the inode this listener's only if that
    // still listens.
    if keeper.has_exited() || listener::at(addr)? != Some(listener) {
        return Ok(Standing::Nobody);
    }
    Ok(match ownership {
        Ownership::Owned => Standing::Proven(listener),
        Ownership::NotOwned => Standing::Stranger,
        Ownership::Unreadable(processes) => Standing::Unknown(processes),
    })
}

impl TcpEndpoint {
    pub(super) fn new(addr: SocketAddr, listener: Listener, keeper: Arc<Keeper>) -> Self {
        Self {
            addr,
            proof: Arc::new(Proof {
                cookie: AtomicU64::new(listener.cookie),
                keeper,
            }),
        }
    }

    /// Proves that a connection made just before was accepted by this worker: its proven listener is still the
    /// one at the address. One question to the kernel, a few microseconds; only a worker that has opened a new
    /// listener costs a look through its descriptors.
    async fn verify(&self) -> io::Result<Verified> {
        let listener = listener::at(self.addr)?;
        if listener.is_some_and(|l| l.cookie == self.proof.cookie.load(Ordering::Acquire)) {
            return Ok(Verified::Same);
        }
        match standing(self.addr, &self.proof.keeper).await? {
            Standing::Proven(listener) => {
                self.proof.cookie.store(listener.cookie, Ordering::Release);
                Ok(Verified::Replaced)
            }
            Standing::Nobody | Standing::Stranger | Standing::Unknown(_) => Err(self.refused()),
        }
    }

    fn refused(&self) -> io::Error {
        let text = format!(
            "what listens at {} is not the worker's proven listener",
            self.addr
        );
        io::Error::new(io::ErrorKind::ConnectionRefused, text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verified {
    Same,
    /// The worker has opened another listener, which is proven now.
    Replaced,
}
