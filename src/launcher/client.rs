//! herd's side of the launcher: asks for keepers and hears of their ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, oneshot};

use crate::sys::fd;
use crate::sys::pidfd::PidFd;

use super::fork::{Forked, Guard};
use super::run::KILL_TREE;
use super::wire::{self, KeeperId, Program, Reply, Request};

/// Talks to the launcher. One thread's; [`Client::listen`] has to be polled for anything to be heard.
#[derive(Debug)]
pub struct Client {
    socket: AsyncFd<OwnedFd>,
    launcher: Arc<PidFd>,
    guard: Guard,
    next: Cell<u64>,
    /// One sender at a time waits for room in the socket.
    sending: Mutex<()>,
    waiting: RefCell<HashMap<KeeperId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    spawned: Option<oneshot::Sender<Result<PidFd, String>>>,
    reaped: oneshot::Sender<()>,
}

/// The launcher is gone, and every worker with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the launcher is gone ({why}), and every worker with it")]
pub struct Lost {
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot start a worker: {message}")]
    Refused { message: String },
    #[error("cannot start a worker: the launcher is gone")]
    Lost,
}

/// A running keeper; its death is its worker's whole tree's.
#[derive(Debug)]
pub struct Keeper {
    pidfd: PidFd,
    pid: Option<i32>,
    kill_with: Signal,
}

impl Keeper {
    /// As the host numbers it. `None`: it was gone before its number could be read.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Kills the whole tree. Returns at once; the launcher reports when it is reaped.
    pub fn kill(&self) -> io::Result<()> {
        self.pidfd.signal(self.kill_with)
    }

    /// Asks the worker's process group to end.
    pub fn terminate(&self) -> io::Result<()> {
        self.pidfd.signal(Signal::SIGTERM)
    }

    pub fn has_exited(&self) -> bool {
        self.pidfd.has_exited()
    }
}

impl Client {
    /// Needs a tokio runtime with I/O.
    pub fn new(forked: Forked) -> io::Result<Self> {
        nix::fcntl::fcntl(
            &forked.socket,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        // Room for the largest request; the kernel caps it at net.core.wmem_max, which is enough by default.
        nix::sys::socket::setsockopt(
            &forked.socket,
            nix::sys::socket::sockopt::SndBuf,
            &(2 * wire::MAX_BODY),
        )?;
        // SAFETY: an `OwnedFd` is the same open descriptor from here to its drop, and nothing takes it out.
        let socket = unsafe { AsyncFd::register(forked.socket) }.map_err(io::Error::from)?;
        Ok(Self {
            socket,
            launcher: forked.pidfd,
            guard: forked.guard,
            next: Cell::new(0),
            sending: Mutex::new(()),
            waiting: RefCell::default(),
        })
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    pub fn launcher(&self) -> &Arc<PidFd> {
        &self.launcher
    }

    /// Starts a keeper with `program`; the pipes are the write ends of stdout, stderr and the status pipe.
    /// The receiver resolves once the whole tree is gone and reaped (or, with an error, once the launcher is).
    pub async fn spawn(
        &self,
        program: Program,
        pipes: [OwnedFd; 3],
    ) -> Result<(Keeper, oneshot::Receiver<()>), SpawnError> {
        let keeper = KeeperId(self.next.replace(self.next.get() + 1));
        let request = wire::encode(&Request::Spawn { keeper, program }).map_err(|e| SpawnError::Refused {
            message: e.to_string(),
        })?;
        let (spawned, answer) = oneshot::channel();
        let (reaped, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(
            keeper,
            Waiting {
                spawned: Some(spawned),
                reaped,
            },
        );
        let fds = [pipes[0].as_fd(), pipes[1].as_fd(), pipes[2].as_fd()];
        if self.send(&request, &fds).await.is_err() {
            self.waiting.borrow_mut().remove(&keeper);
            return Err(SpawnError::Lost);
        }
        // The write ends must be the worker's alone, or their end would never be seen.
        drop(pipes);
        let pidfd = match answer.await {
            Ok(Ok(pidfd)) => pidfd,
            Ok(Err(message)) => return Err(SpawnError::Refused { message }),
            Err(_) => return Err(SpawnError::Lost),
        };
        let pid = pidfd.pid().ok().flatten();
        let kill_with = match self.guard {
            Guard::Weak { .. } => KILL_TREE,
            Guard::PidNamespace | Guard::UserPidNamespace => Signal::SIGKILL,
        };
        Ok((
            Keeper {
                pidfd,
                pid,
                kill_with,
            },
            told,
        ))
    }

    /// Hears the launcher until it is gone. Everyone who waits for it is told then.
    pub async fn listen(&self) -> Lost {
        let mut buffer = Vec::new();
        let why = loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| {
                    wire::receive(socket.as_fd(), &mut buffer)
                })
                .await;
            match received {
                Ok(Some((reply, fds))) => self.hear(reply, fds),
                Ok(None) => break "it has ended".to_owned(),
                Err(e) => break e.to_string(),
            }
        };
        self.waiting.borrow_mut().clear();
        Lost { why }
    }

    fn hear(&self, reply: Reply, mut fds: Vec<OwnedFd>) {
        let mut waiting = self.waiting.borrow_mut();
        match reply {
            Reply::Spawned { keeper } => {
                let result = fds
                    .pop()
                    .map(PidFd::from)
                    .ok_or_else(|| "its pidfd is missing".to_owned());
                if let Some(spawned) = waiting.get_mut(&keeper).and_then(|w| w.spawned.take()) {
                    let _ = spawned.send(result);
                }
            }
            Reply::SpawnFailed { keeper, message } => {
                if let Some(spawned) = waiting.remove(&keeper).and_then(|w| w.spawned) {
                    let _ = spawned.send(Err(message));
                }
            }
            Reply::Reaped { keeper } => {
                if let Some(entry) = waiting.remove(&keeper) {
                    let _ = entry.reaped.send(());
                }
            }
            Reply::Ready | Reply::Refused { .. } => {}
        }
    }

    async fn send(&self, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _turn = self.sending.lock().await;
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                fd::send_packet(socket.as_fd(), body, fds)
            })
            .await
    }
}
