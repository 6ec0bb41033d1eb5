//! What herd and its launcher say to each other: one JSON body per packet, descriptors beside it.
//!
//! ```text
//! herd      Plan{plan} + [its text]                          before the first Spawn of a plan that is newer than the launcher
//! herd      Spawn{keeper, …} + [stdout, stderr, status]      to the launcher; + [control] for a sandbox
//! launcher  Ready | Refused                                  once, at its own start
//!           Spawned{keeper} + [pidfd]  or  SpawnFailed       one answer to each Spawn
//! herd      Kill{keeper}                                     after a Spawned whose pidfd found no room
//! launcher  Reaped{keeper}                                   once after Spawned: the whole tree is gone
//! keeper    Report lines on the status pipe                  exec failure, notes, the worker's exit
//! herd      Run{program}, Open{door} + [reply]               on a sandbox's control socket, to its keeper
//! keeper    Here + [socket]  or  Refused                     on the reply socket of that one question
//! herd      Exec{command} + [line]                           on a sandbox's control socket; its keeper passes it on to
//!                                                            the sandbox's init
//! herd      Exec{keeper, command} + [line]                   to the launcher, which passes it on to a bare worker's keeper
//! keeper    Runs + [herd's ends]  or  Busy  or  Refused      first, on that line, which is the command's alone
//!           Exited  or  Signalled  or  NotRun                last
//! ```

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::sandbox::cgroup::{GroupId, Outcome};
use crate::sys::fd;
use crate::sys::terminal::Size;

use super::sandbox::{PlanId, Slot};

/// Largest body, bytes. `execve` itself takes at most 128 KiB per string and a quarter of the stack in all.
pub(crate) const MAX_BODY: usize = 256 * 1024;

/// One keeper, for the life of a launcher. A worker that is tried again on another port gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeeperId(pub u64);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Carries a file with the plan, which may be larger than a packet. Those that are to be forgotten are of no use any
    /// more.
    Plan { plan: PlanId, forget: Vec<PlanId> },
    /// Carries the write ends of stdout, stderr and the status pipe, in this order.
    Spawn { keeper: KeeperId, task: Task },
    /// herd cannot hold a keeper that was spawned: it had no descriptor free for the pidfd.
    Kill { keeper: KeeperId },
    /// Carries the command's line. For the keeper of a bare worker.
    Exec { keeper: KeeperId, command: Command },
}

/// What a keeper is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    Bare {
        program: Program,
    },
    /// Carries one more descriptor, the keeper's end of the control socket.
    Sandbox {
        /// Which herd and the launcher both have.
        plan: PlanId,
        slot: Slot,
        dir: String,
        group: GroupId,
    },
}

/// What a keeper is asked. That of a bare worker only the last; a sandbox's init the first and the last.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Once: the sandbox has waited for it.
    Run { program: Program },
    /// Carries the socket for the answer.
    Open { door: Door },
    /// Whether a process of the sandbox has this socket. Carries the socket for the answer.
    Owns { inode: u32 },
    /// Carries the command's line. When herd's end of it closes, the command ends.
    Exec { command: Command },
}

/// A socket inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Door {
    /// Not connected.
    Tcp4,
    Tcp6,
    /// For questions about listeners (sock_diag(7)).
    Listeners,
    /// Connected to the worker's own UNIX socket.
    Unix,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Here,
    Refused { errno: i32 },
}

/// What to run, completely: nothing is inherited but the launcher's resource limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Never empty; the first is looked up in `PATH` of `env` unless it names a path.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
}

/// What to run beside the program of a worker, in the same tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// As of [`Program`].
    pub argv: Vec<String>,
    /// Beside and before the variables of the program.
    pub env: Vec<(String, String)>,
    /// Else where the program was started.
    pub cwd: Option<String>,
    pub on: On,
}

/// What a command has as its descriptors 0 to 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum On {
    /// /dev/null and two pipes.
    Outputs,
    /// Three pipes.
    Pipes,
    /// A terminal of its own.
    Terminal(Size),
}

/// What is said of a command, on its line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Carries herd's ends: the terminal's alone, or those of stdout, stderr and, if it was asked for, stdin.
    Runs,
    /// So many run already, and more may not.
    Busy {
        most: usize,
    },
    /// It cannot be tried.
    Refused {
        message: String,
    },
    /// The kernel does not run it. `code` is what a shell would tell: 126, or 127 where there is no such program.
    NotRun {
        message: String,
        code: u8,
    },
    Exited {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ready,
    Refused {
        message: String,
    },
    /// Carries the keeper's pidfd.
    Spawned {
        keeper: KeeperId,
    },
    SpawnFailed {
        keeper: KeeperId,
        message: String,
    },
    Reaped {
        keeper: KeeperId,
    },
}

/// A keeper's own words, one JSON line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The program could not be run at all.
    ExecFailed {
        message: String,
    },
    /// The sandbox waits for its program.
    Created,
    /// What the limits of the sandbox have done, after its end.
    Limits {
        outcome: Outcome,
    },
    /// Something is weaker than it should be; for herd's log.
    Note {
        message: String,
    },
    /// The worker's main process ended.
    Exited {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
    /// What it left behind, which the keeper's own end takes along: as many processes, of so much memory, in bytes.
    Left {
        processes: usize,
        memory: u64,
    },
}

/// Room for the largest message in whoever sends by `socket`; the kernel caps it at net.core.wmem_max, which is enough
/// by default.
pub(super) fn make_room(socket: &OwnedFd) -> io::Result<()> {
    let room = 2 * MAX_BODY;
    Ok(nix::sys::socket::setsockopt(
        socket,
        nix::sys::socket::sockopt::SndBuf,
        &room,
    )?)
}

pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    fd::send_packet(socket, &encode(message)?, fds)
}

pub(crate) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_BODY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the command line and environment take {} bytes; at most {MAX_BODY} can be passed on",
                body.len()
            ),
        ));
    }
    Ok(body)
}

/// `None`: the other side is gone.
///
/// The buffer becomes as large as the message: what a keeper touches of its memory is its own from then on, and there
/// are as many keepers as workers.
pub(crate) fn receive<T: for<'de> Deserialize<'de>>(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(fd::packet_length(socket)?.min(MAX_BODY), 0);
    receive_into(socket, buffer)
}

/// For messages that are a few words: without clearing a large buffer for each.
pub(crate) fn receive_small<T: for<'de> Deserialize<'de>>(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(256, 0);
    receive_into(socket, buffer)
}

fn receive_into<T: for<'de> Deserialize<'de>>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    match fd::receive_packet(socket, buffer)? {
        (0, _) => Ok(None),
        (len, fds) => Ok(Some((serde_json::from_slice(&buffer[..len])?, fds))),
    }
}
