//! herd's side of the launcher: asks for keepers and hears of their ends.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, oneshot};

use crate::sandbox::cgroup::GroupId;
use crate::sys::fd;
use crate::sys::pidfd::PidFd;

use super::fork::{Forked, Guard};
use super::run::KILL_TREE;
use super::running::{ExecError, Running};
use super::sandbox::{Ids, Plan, PlanId, Plans, Slot};
use super::wire::{self, Answer, Ask, Command, Door, KeeperId, Program, Reply, Request, Task};

/// Talks to the launcher. One thread's; [`Client::listen`] has to be polled for anything to be heard.
#[derive(Debug)]
pub struct Client {
    wire: Arc<Wire>,
    launcher: Arc<PidFd>,
    guard: Guard,
    plans: Plans,
    /// Plans that the launcher knows, and those of them that it need not know any longer.
    told: RefCell<BTreeSet<PlanId>>,
    retired: RefCell<Vec<PlanId>>,
    ids: Option<Ids>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<KeeperId, Waiting>>,
}

/// To the launcher, from any thread with a tokio runtime.
#[derive(Debug)]
struct Wire {
    socket: AsyncFd<OwnedFd>,
    /// One sender at a time waits for room in the socket.
    sending: Mutex<()>,
}

impl Wire {
    async fn send(&self, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _turn = self.sending.lock().await;
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                fd::send_packet(socket.as_fd(), body, fds)
            })
            .await
    }
}

#[derive(Debug)]
struct Waiting {
    spawned: Option<oneshot::Sender<Result<PidFd, NotSpawned>>>,
    reaped: oneshot::Sender<()>,
}

/// Why there is no pidfd.
#[derive(Debug)]
enum NotSpawned {
    Refused(String),
    /// The keeper runs, and herd had no descriptor free to hold it by.
    Unheld,
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
    /// To the keeper of a sandbox.
    control: Option<OwnedFd>,
    id: KeeperId,
    /// Not to be kept open by a worker that somebody remembers: that it closes is the launcher's end.
    wire: Weak<Wire>,
}

/// A sandbox to be made.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    pub plan: Arc<Plan>,
    pub slot: Slot,
    /// A directory to build it over, seen by its keeper only.
    pub dir: String,
    pub group: GroupId,
}

/// A keeper, and who hears of its end: of the whole tree's, or of the launcher's, as an error.
pub type Spawned = (Keeper, oneshot::Receiver<()>);

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

    /// Tells a created sandbox what to run; once. Whether it does is the report's to tell.
    pub fn run(&self, program: Program) -> io::Result<()> {
        let ask = wire::encode(&Ask::Run { program })?;
        fd::send_packet(self.control()?.as_fd(), &ask, &[])
    }

    /// Has the keeper of a sandbox open a socket inside it. From any thread with a tokio runtime.
    pub async fn open(&self, door: Door) -> io::Result<OwnedFd> {
        let mut fds = self.ask(&Ask::Open { door }).await?;
        fds.pop()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Has the keeper of a sandbox look for a socket among the descriptors of its tree, which may belong to users
    /// that herd itself has no right to look into. An error where the keeper serves no sandbox.
    pub async fn owns(&self, inode: u32) -> io::Result<bool> {
        match self.ask(&Ask::Owns { inode }).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Runs a command beside the worker's program.
    pub async fn exec(&self, command: Command) -> Result<Running, ExecError> {
        let on = command.on;
        let line = self.command(command).await.map_err(ExecError::Gone)?;
        Running::begin(line, on).await
    }

    async fn command(&self, command: Command) -> io::Result<AsyncFd<OwnedFd>> {
        let (ours, theirs) = answered()?;
        match &self.control {
            Some(control) => {
                let ask = wire::encode(&Ask::Exec { command })?;
                fd::send_packet(control.as_fd(), &ask, &[theirs.as_fd()])?;
            }
            None => {
                let keeper = self.id;
                let request = wire::encode(&Request::Exec { keeper, command })?;
                let wire = self.wire.upgrade().ok_or(io::ErrorKind::NotConnected)?;
                wire.send(&request, &[theirs.as_fd()]).await?;
            }
        }
        Ok(ours)
    }

    async fn ask(&self, ask: &Ask) -> io::Result<Vec<OwnedFd>> {
        let (ours, theirs) = answered()?;
        fd::send_packet(self.control()?.as_fd(), &wire::encode(ask)?, &[theirs.as_fd()])?;
        drop(theirs);
        let mut buffer = Vec::new();
        let answer = ours
            .async_io(Interest::READABLE, |socket| {
                wire::receive_small(socket.as_fd(), &mut buffer)
            })
            .await?;
        match answer {
            Some((Answer::Here, fds)) => Ok(fds),
            Some((Answer::Refused { errno }, _)) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
        }
    }

    fn control(&self) -> io::Result<&OwnedFd> {
        self.control
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// A socket for what is said of a question, and its end to send along.
fn answered() -> io::Result<(AsyncFd<OwnedFd>, OwnedFd)> {
    let (ours, theirs) = fd::packet_pair()?;
    fd::set_nonblocking(&ours)?;
    Ok((fd::watched(ours)?, theirs))
}

impl Client {
    /// Needs a tokio runtime with I/O.
    pub fn new(forked: Forked) -> io::Result<Self> {
        fd::set_nonblocking(&forked.socket)?;
        wire::make_room(&forked.socket)?;
        let socket = fd::watched(forked.socket)?;
        Ok(Self {
            wire: Arc::new(Wire {
                socket,
                sending: Mutex::new(()),
            }),
            launcher: forked.pidfd,
            guard: forked.guard,
            told: RefCell::new(
                forked
                    .sandboxes
                    .plans
                    .iter()
                    .flatten()
                    .map(|plan| plan.id())
                    .collect(),
            ),
            retired: RefCell::default(),
            plans: forked.sandboxes.plans,
            ids: forked.ids,
            next: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Those that it was started with, one per kind.
    pub fn plans(&self) -> &Plans {
        &self.plans
    }

    /// The ids that sandboxes share; `None` where there can be no sandboxes.
    pub fn ids(&self) -> Option<Ids> {
        self.ids
    }

    pub fn launcher(&self) -> &Arc<PidFd> {
        &self.launcher
    }

    /// Starts a keeper with `program`; the pipes are the write ends of stdout, stderr and the status pipe.
    pub async fn spawn(&self, program: Program, pipes: [OwnedFd; 3]) -> Result<Spawned, SpawnError> {
        let pipes = Vec::from(pipes);
        self.request(Task::Bare { program }, pipes, None).await
    }

    /// Starts the keeper of a sandbox, which makes it and waits for [`Keeper::run`].
    pub async fn create(&self, sandbox: NewSandbox, pipes: [OwnedFd; 3]) -> Result<Spawned, SpawnError> {
        let refused = |e: io::Error| SpawnError::Refused {
            message: e.to_string(),
        };
        let (ours, theirs) = fd::packet_pair().map_err(refused)?;
        fd::set_nonblocking(&ours)
            .and_then(|()| wire::make_room(&ours))
            .map_err(refused)?;
        self.introduce(&sandbox.plan).await?;
        let NewSandbox {
            plan,
            slot,
            dir,
            group,
        } = sandbox;
        let task = Task::Sandbox {
            plan: plan.id(),
            slot,
            dir,
            group,
        };
        let fds = pipes.into_iter().chain([theirs]).collect();
        self.request(task, fds, Some(ours)).await
    }

    /// No sandbox is made by another plan from now on.
    pub fn keep_only(&self, plans: &BTreeSet<PlanId>) {
        let mut told = self.told.borrow_mut();
        self.retired.borrow_mut().extend(told.difference(plans).copied());
        told.retain(|plan| plans.contains(plan));
    }

    /// Tells the launcher of a plan before it is asked for it.
    async fn introduce(&self, plan: &Plan) -> Result<(), SpawnError> {
        if !self.told.borrow_mut().insert(plan.id()) {
            // On its way, if not there yet: what is sent later comes later.
            return Ok(());
        }
        let packed = pack(plan).and_then(|text| {
            let forget = std::mem::take(&mut *self.retired.borrow_mut());
            let plan = plan.id();
            Ok((text, wire::encode(&Request::Plan { plan, forget })?))
        });
        let (text, request) = match packed {
            Ok(packed) => packed,
            Err(e) => {
                self.told.borrow_mut().remove(&plan.id());
                return Err(SpawnError::Refused {
                    message: format!("cannot pass the sandbox's plan on: {e}"),
                });
            }
        };
        self.wire.send(&request, &[text.as_fd()]).await.map_err(|_| {
            // The next start tells of it again.
            self.told.borrow_mut().remove(&plan.id());
            SpawnError::Lost
        })
    }

    async fn request(
        &self,
        task: Task,
        pipes: Vec<OwnedFd>,
        control: Option<OwnedFd>,
    ) -> Result<Spawned, SpawnError> {
        let keeper = KeeperId(self.next.replace(self.next.get() + 1));
        let request = wire::encode(&Request::Spawn { keeper, task }).map_err(|e| SpawnError::Refused {
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
        let fds: Vec<_> = pipes.iter().map(AsFd::as_fd).collect();
        if self.wire.send(&request, &fds).await.is_err() {
            self.waiting.borrow_mut().remove(&keeper);
            return Err(SpawnError::Lost);
        }
        drop(fds);
        // The write ends must be the worker's alone, or their end would never be seen.
        drop(pipes);
        let pidfd = match answer.await {
            Ok(Ok(pidfd)) => pidfd,
            Ok(Err(NotSpawned::Refused(message))) => return Err(SpawnError::Refused { message }),
            Ok(Err(NotSpawned::Unheld)) => return Err(self.give_up(keeper, told).await),
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
                control,
                id: keeper,
                wire: Arc::downgrade(&self.wire),
            },
            told,
        ))
    }

    /// Has the launcher kill a keeper that herd has no hold of; over when its whole tree is gone.
    async fn give_up(&self, keeper: KeeperId, told: oneshot::Receiver<()>) -> SpawnError {
        let Ok(kill) = wire::encode(&Request::Kill { keeper }) else {
            return SpawnError::Lost;
        };
        if self.wire.send(&kill, &[]).await.is_err() || told.await.is_err() {
            return SpawnError::Lost;
        }
        SpawnError::Refused {
            message: "herd is out of file descriptors; raise LimitNOFILE".to_owned(),
        }
    }

    /// Hears the launcher until it is gone. Everyone who waits for it is told then.
    pub async fn listen(&self) -> Lost {
        let mut buffer = Vec::new();
        let why = loop {
            let received = self
                .wire
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
                let result = fds.pop().map(PidFd::from).ok_or(NotSpawned::Unheld);
                if let Some(spawned) = waiting.get_mut(&keeper).and_then(|w| w.spawned.take()) {
                    let _ = spawned.send(result);
                }
            }
            Reply::SpawnFailed { keeper, message } => {
                if let Some(spawned) = waiting.remove(&keeper).and_then(|w| w.spawned) {
                    let _ = spawned.send(Err(NotSpawned::Refused(message)));
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
}

/// A plan as a file without a name, ready to be read.
fn pack(plan: &Plan) -> io::Result<OwnedFd> {
    let text = plan.packed()?;
    let mut file = std::fs::File::from(memfd_create(c"herd-plan", MFdFlags::MFD_CLOEXEC)?);
    io::Write::write_all(&mut file, &text)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::run::Sandboxes;

    /// As when herd's table is full: recvmsg(2) cuts the pidfd off.
    #[tokio::test]
    async fn a_keeper_without_a_pidfd_is_killed_and_only_its_start_fails() {
        let (ours, theirs) = fd::packet_pair().unwrap();
        let client = Client::new(Forked {
            socket: ours,
            pidfd: Arc::new(PidFd::open(std::process::id() as i32).unwrap()),
            guard: Guard::PidNamespace,
            sandboxes: Sandboxes::default(),
            ids: None,
        })
        .unwrap();
        let launcher = std::thread::spawn(move || {
            let (socket, mut buffer) = (theirs.as_fd(), Vec::new());
            let Some((Request::Spawn { keeper, .. }, pipes)) = wire::receive(socket, &mut buffer).unwrap()
            else {
                panic!("no start is asked for");
            };
            assert_eq!(pipes.len(), 3);
            wire::send(socket, &Reply::Spawned { keeper }, &[]).unwrap();
            let Some((Request::Kill { keeper: killed }, _)) = wire::receive(socket, &mut buffer).unwrap()
            else {
                panic!("no kill is asked for");
            };
            assert_eq!(killed, keeper);
            wire::send(socket, &Reply::Reaped { keeper }, &[]).unwrap();
        });
        let program = Program {
            argv: vec!["true".to_owned()],
            env: Vec::new(),
            cwd: None,
        };
        let pipes = [(); 3].map(|()| nix::unistd::pipe().unwrap().1);
        let (spawned, lost) = tokio::join!(client.spawn(program, pipes), client.listen());
        assert_eq!(
            spawned.err().unwrap().to_string(),
            "cannot start a worker: herd is out of file descriptors; raise LimitNOFILE"
        );
        assert_eq!(
            lost.why, "it has ended",
            "nothing before that ended the connection"
        );
        launcher.join().unwrap();
    }
}
