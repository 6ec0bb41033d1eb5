//! Sandboxes: OCI containers, launched in this process through libcontainer.
//!
//! ```text
//! launcher
//!  └─ keeper       PID 1 of the worker's PID namespace, in the sandbox's network namespace
//!      └─ init     PID 1 of the sandbox's own namespaces; waits, locked up, for the program (a *created* sandbox)
//!          └─ the worker's process tree
//! ```
//!
//! The keeper owns the sandbox like any other worker's tree: whatever happens to it, the kernel kills everything
//! in its PID namespace, and with the last of them go the mounts and the network. It does in its own namespaces all
//! that needs rights over the host, then leaves the host's files ([`files`]) before libcontainer begins ([`launch`]);
//! so what libcontainer does, it does with nothing around it.
//!
//! What libcontainer is *not* asked for: control groups (the keeper's, through directories that were opened
//! before), system call filters (the [executor](init)'s, precompiled), reading or writing any state.

mod doors;
mod files;
mod identity;
mod init;
mod launch;
mod plan;
mod spec;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::config::SandboxNetwork;
use crate::sandbox::cgroup::{Group, GroupId, Hierarchies};
use crate::sys::lifeline::Lifeline;
use crate::sys::process::{self, Ownership};
use crate::sys::{fd, network};

use super::keeper::{self, Guarding, Keeper};
use super::parked::{self, Parking};
use super::wire::{self, Answer, Ask, Report};
use launch::Launch;

pub use files::{HOME, OWN_BINARY, SOCKET, SOCKET_DIR, SYSTEM};
pub use identity::{Ids, Owner, Slot, SubRange};
pub use plan::{OWN_NAME, Plan, PlanError, PlanErrorKind, PlanId, Plans, needs, prepare, unopened};

/// The port a worker in a network of its own is told to listen on. Nobody else is there to take it.
pub const PORT: u16 = 8080;

/// What one keeper is to make.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) plan: Arc<Plan>,
    pub(super) ids: Ids,
    pub(super) slot: Slot,
    /// Some directory of the host; the sandbox is built over it, out of everybody else's sight.
    pub(super) dir: PathBuf,
    pub(super) group: GroupId,
}

/// Runs in the freshly forked keeper; its result is the exit status.
pub(super) fn run(
    order: &Order,
    hierarchies: &Hierarchies,
    pipes: [OwnedFd; 3],
    control: OwnedFd,
    parking: Option<Parking>,
    parent: &Lifeline,
) -> i32 {
    let [stdout, stderr, status] = pipes;
    let mut keep: Vec<_> = [&stdout, &stderr, &status, &control]
        .into_iter()
        .map(AsRawFd::as_raw_fd)
        .collect();
    keep.push(parent.as_raw_fd());
    keep.extend(parking.as_ref().map(|parking| parking.as_fd().as_raw_fd()));
    keep.extend(hierarchies.descriptors());
    if fd::close_all_except(&keep).is_err() {
        return 1;
    }
    // Directories that are made here have to be open to the sandbox's user, whatever herd was started with.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let status_fd = status.as_raw_fd();
    let mut keeper = Keeper::new(status, Guarding::Namespace);
    keeper.guard(parent);
    let signals = match SignalFd::with_flags(&keeper::signals(), SfdFlags::SFD_CLOEXEC) {
        Ok(signals) => signals,
        Err(e) => {
            keeper.failed(format!("the keeper cannot watch its signals: {}", e.desc()));
            return 1;
        }
    };
    let outputs = [stdout.as_raw_fd(), stderr.as_raw_fd(), status_fd];
    let created = match create(order, hierarchies, outputs, parking.as_ref()) {
        Ok(created) => created,
        Err(message) => {
            keeper.failed(message);
            return 1;
        }
    };
    // Only the sandbox writes there from now on, so that its end is the end of the output.
    drop((stdout, stderr));
    keeper.report(&Report::Created);
    if let Some(parking) = parking {
        parked::park(parking.as_fd());
    }
    Serving {
        keeper,
        created,
        control,
        signals,
    }
    .serve();
    0
}

/// A sandbox whose init waits.
struct Created {
    init: Pid,
    /// To the init.
    orders: OwnedFd,
    stage: Stage,
    group: Group,
}

/// What the init has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing: it waits for its program.
    Waiting,
    Told,
}

fn create(
    order: &Order,
    hierarchies: &Hierarchies,
    outputs: [i32; 3],
    parking: Option<&Parking>,
) -> Result<Created, String> {
    let plan = &order.plan;
    let identity = order.ids.identity(order.slot, plan.user);
    let group = hierarchies
        .create(order.group, &plan.limits)
        .map_err(|e| e.to_string())?;
    // Groups of whoever runs herd; a user namespace made without privilege keeps them (user_namespaces(7)).
    let _ = nix::unistd::setgroups(&[]);
    if plan.network == SandboxNetwork::None {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("cannot make a network namespace: {}", e.desc()))?;
        network::bring_loopback_up().map_err(|e| format!("cannot bring up the loopback interface: {e}"))?;
    }
    let room = files::mount_room(plan, &order.dir)?;
    let listener = launch::started_already(room.as_fd())?;
    nix::unistd::fchdir(&room).map_err(|e| format!("cannot enter the sandbox's room: {}", e.desc()))?;
    drop(room);
    let (orders, init_orders) = orders().map_err(|e| format!("cannot make a socket: {e}"))?;
    let [stdout, stderr, status] = outputs;
    let doors = group
        .doors()
        .map_err(|e| format!("cannot open the sandbox's control group: {e}"))?;
    let init = init::Init {
        plan: Arc::clone(plan),
        rename: identity.rename,
        doors: doors.iter().map(AsRawFd::as_raw_fd).collect(),
        parking: parking.map(|parking| parking.as_fd().as_raw_fd()),
        orders: init_orders.as_raw_fd(),
        stdout,
        stderr,
        status,
    };
    let spec =
        spec::spec(&identity, files::HOSTNAME).map_err(|e| format!("cannot describe the sandbox: {e}"))?;
    let launch = Launch::begin(spec, init, &identity, listener)?;
    files::build(plan, &identity, launch.user_namespace())?;
    let pid = launch.finish()?;
    Ok(Created {
        init: pid,
        orders,
        stage: Stage::Waiting,
        group,
    })
}

/// The keeper's end, and the init's. The keeper never waits for the init.
fn orders() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = fd::packet_pair()?;
    wire::make_room(&ours)?;
    fd::set_nonblocking(&ours)?;
    Ok((ours, theirs))
}

struct Serving {
    keeper: Keeper,
    created: Created,
    control: OwnedFd,
    signals: SignalFd,
}

impl Serving {
    /// Until the sandbox's init has ended.
    fn serve(mut self) {
        let mut buffer = Vec::new();
        while let Alive::Yes = self.reap() {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            ];
            if fd::retry(|| poll(&mut fds, PollTimeout::NONE)).is_err() {
                return;
            }
            let (signal, asked) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
            if signal
                && let Ok(Some(info)) = self.signals.read_signal()
                && info.ssi_signo == Signal::SIGTERM as u32
            {
                // A created sandbox has nothing to end politely.
                if self.created.stage == Stage::Waiting {
                    return;
                }
                // Its parent is this process, and it is not reaped: the number is its own.
                let _ = kill(self.created.init, Signal::SIGTERM);
            }
            if asked {
                match wire::receive(self.control.as_fd(), &mut buffer) {
                    Ok(Some((ask, fds))) => self.obey(ask, fds),
                    // herd is gone, and the jail is about to follow.
                    Ok(None) | Err(_) => return,
                }
            }
        }
        let outcome = self.created.group.outcome();
        self.keeper.report(&Report::Limits { outcome });
    }

    fn reap(&mut self) -> Alive {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return Alive::Yes,
                Ok(status) if status.pid() == Some(self.created.init) => {
                    // It ends by itself after its program, whose end it has told. Only the kernel kills it, with
                    // everything that lacks memory.
                    if let WaitStatus::Signaled(_, signal, _) = status {
                        self.keeper.report(&Report::Signalled {
                            signal: signal as i32,
                        });
                    }
                    return Alive::No;
                }
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => return Alive::No,
            }
        }
    }

    fn obey(&mut self, ask: Ask, mut fds: Vec<OwnedFd>) {
        match ask {
            Ask::Run { .. } => {
                let result = match std::mem::replace(&mut self.created.stage, Stage::Told) {
                    Stage::Waiting => wire::send(self.created.orders.as_fd(), &ask, &[]),
                    Stage::Told => Err(io::Error::other("it already runs a program")),
                };
                if let Err(e) = result {
                    self.keeper
                        .failed(format!("cannot tell the sandbox what to run: {e}"));
                }
            }
            Ask::Open { door } => {
                let Some(reply) = fds.pop() else { return };
                // Whoever asked may have gone.
                let _ = match doors::open(door) {
                    Ok(socket) => wire::send(reply.as_fd(), &Answer::Here, &[socket.as_fd()]),
                    Err(e) => {
                        let errno = e.raw_os_error().unwrap_or(libc::EIO);
                        wire::send(reply.as_fd(), &Answer::Refused { errno }, &[])
                    }
                };
            }
            Ask::Owns { inode } => {
                let Some(reply) = fds.pop() else { return };
                // The whole tree is this process's to look into, but for herd's own init, which listens nowhere.
                let answer = match process::owns_socket(OWN_PID, inode) {
                    Ownership::Owned => Answer::Here,
                    Ownership::NotOwned | Ownership::Unreadable(_) => Answer::Refused { errno: libc::ENOENT },
                };
                let _ = wire::send(reply.as_fd(), &answer, &[]);
            }
            // The answer is the init's. If it does not get there, herd sees the line close.
            Ask::Exec { .. } if self.created.stage == Stage::Told => {
                let Some(line) = fds.pop() else { return };
                let _ = wire::send(self.created.orders.as_fd(), &ask, &[line.as_fd()]);
            }
            Ask::Exec { .. } => {}
        }
    }
}

/// A keeper is the first process of its PID namespace.
const OWN_PID: i32 = 1;

enum Alive {
    Yes,
    No,
}
