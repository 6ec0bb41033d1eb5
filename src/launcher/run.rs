//! The launcher process itself: a plain blocking loop over herd's socket and SIGCHLD.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sandbox::cgroup::{GroupId, Hierarchies, Removals};
use crate::sys::fd;
use crate::sys::fork::{Namespaces, Side, clone3, exit_now};
use crate::sys::lifeline::Lifeline;
use crate::sys::process;

use super::fork::Guard;
use super::keeper;
use super::parked::{self, Leftovers, Parked};
use super::sandbox::{self, Ids, Owner, Plan, PlanId, SubRange};
use super::wire::{self, Ask, Command, KeeperId, Program, Reply, Request, Task, Word};

/// poll(2) counts whole milliseconds; a wait must not end before its time and spin.
const ROUND_UP: Duration = Duration::from_millis(1);

/// What the launcher needs to know of sandboxes; made before it is forked.
#[derive(Debug, Default)]
pub struct Sandboxes {
    pub plans: sandbox::Plans,
    pub hierarchies: Hierarchies,
}

/// The ids that the user who runs herd may give away, to whom the kernel lets it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered {
    pub(super) own: Owner,
    pub(super) range: Option<SubRange>,
}

/// What of them the launcher's user namespace has; told by the one byte that lets the launcher go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mapped {
    Own = b'1',
    WithRange = b'+',
}

impl Offered {
    pub(super) fn ids(self, guard: &Guard, mapped: Mapped) -> Option<Ids> {
        match (guard, mapped, self.range) {
            (Guard::Weak { .. }, ..) => None,
            (Guard::PidNamespace, ..) => Some(Ids::Ranges),
            (Guard::UserPidNamespace, Mapped::WithRange, Some(range)) => {
                Some(Ids::Subordinate { uid: self.own, range })
            }
            (Guard::UserPidNamespace, ..) => Some(Ids::Own(self.own)),
        }
    }
}

enum Prepared {
    Bare(Program),
    Sandbox(sandbox::Order, OwnedFd),
}

impl Prepared {
    fn group(&self) -> Option<GroupId> {
        match self {
            Self::Bare(_) => None,
            Self::Sandbox(order, _) => Some(order.group),
        }
    }
}

/// Tells a keeper of the weak guard to kill its tree. Namespaced keepers are simply killed.
pub(crate) const KILL_TREE: Signal = Signal::SIGUSR2;

/// Runs in the freshly forked process; its result is the exit status.
pub(super) fn launcher(
    socket: OwnedFd,
    go: OwnedFd,
    parent: &Lifeline,
    guard: &Guard,
    sandboxes: &Sandboxes,
    offered: Offered,
) -> i32 {
    let ready = set_up(go, parent, guard).and_then(|(mapped, signals)| {
        let lifeline = Lifeline::tie().map_err(|e| format!("cannot make a lifeline: {e}"))?;
        Ok((offered.ids(guard, mapped), signals, lifeline))
    });
    let (ids, signals, lifeline) = match ready {
        Ok(ready) => ready,
        Err(message) => {
            // If herd cannot be told, it sees the end of the socket.
            let _ = wire::send(socket.as_fd(), &Reply::Refused { message }, &[]);
            return 1;
        }
    };
    let weak = matches!(guard, Guard::Weak { .. });
    let plans = sandboxes.plans.iter().flatten();
    let mut launcher = Launcher {
        plans: plans.map(|plan| (plan.id(), Arc::clone(plan))).collect(),
        socket,
        signals,
        lifeline,
        namespaces: if weak {
            Namespaces::NONE
        } else {
            Namespaces::PID_MOUNT
        },
        weak,
        open_files: OpenFiles::raise(),
        sandboxes,
        ids,
        keepers: HashMap::new(),
        reaped: Vec::new(),
        removals: Removals::default(),
        leftovers: Leftovers::default(),
    };
    match launcher.serve() {
        Ok(()) => 0,
        // herd's end is broken or gone; either way this process has no purpose left, and its end is the
        // workers' end.
        Err(_) => 1,
    }
}

fn set_up(go: OwnedFd, parent: &Lifeline, guard: &Guard) -> Result<(Mapped, SignalFd), String> {
    let step = |what: &'static str| move |e: Errno| format!("the launcher cannot {what}: {e}");
    let _ = prctl::set_name(c"herd-launcher");
    // Keepers and inits have it from here, and in a sandbox everybody can read its init's.
    // SAFETY: this process has one thread, and its arguments were read before it was forked.
    unsafe { process::set_command_line("herd") }
        .map_err(|e| format!("the launcher cannot change its command line: {e}"))?;
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("arm its parent-death signal"))?;
    // After arming, not before: a parent that died in between is seen here, a later death is signalled.
    if parent.is_cut() {
        exit_now(1);
    }
    // In a user namespace nothing may be done before the ids are mapped; an end of file means that they never
    // will be.
    let mut byte = [0; 1];
    if fd::retry(|| nix::unistd::read(&go, &mut byte)) != Ok(1) {
        exit_now(1);
    }
    let mapped = match byte == [Mapped::WithRange as u8] {
        true => Mapped::WithRange,
        false => Mapped::Own,
    };
    drop(go);
    // Ctrl-C goes to the whole foreground process group; how herd ends is herd's decision.
    nix::unistd::setsid().map_err(step("leave the foreground process group"))?;
    // Blocked from here on, in every keeper too: a signal that comes before its reader is ready stays pending,
    // where PID 1 of a namespace would lose it.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&keeper::signals()), None).map_err(step("block signals"))?;
    let devnull = std::fs::File::open("/dev/null").map_err(|e| format!("cannot open /dev/null: {e}"))?;
    nix::unistd::dup2_stdin(&devnull).map_err(step("replace its standard input"))?;
    match guard {
        // What a dead keeper leaves behind comes here.
        Guard::Weak { .. } => prctl::set_child_subreaper(true).map_err(step("adopt orphans"))?,
        Guard::PidNamespace | Guard::UserPidNamespace => {
            // Later mounts of the host still appear; the keepers' own /proc stays theirs.
            let (none, slave) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE);
            mount(none, "/", none, slave, none).map_err(step("change mounts in its new namespace"))?;
        }
    }
    let mut mine = SigSet::empty();
    mine.add(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&mine, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(step("watch its children"))?;
    Ok((mapped, signals))
}

struct Launcher<'a> {
    /// Those that may be asked for.
    plans: HashMap<PlanId, Arc<Plan>>,
    socket: OwnedFd,
    signals: SignalFd,
    lifeline: Lifeline,
    namespaces: Namespaces,
    weak: bool,
    open_files: OpenFiles,
    sandboxes: &'a Sandboxes,
    /// `None`: there are no namespaces to make sandboxes of.
    ids: Option<Ids>,
    keepers: HashMap<i32, Kept>,
    /// Keepers that are gone while strays of some keeper are not; only with the weak guard.
    reaped: Vec<Kept>,
    /// Control groups of sandboxes that are gone.
    removals: Removals,
    leftovers: Leftovers,
}

/// How many descriptors a process may have. The launcher holds one per keeper; workers keep the limit that herd was
/// started with, because some programs cannot live with a larger one.
struct OpenFiles {
    usual: u64,
    most: u64,
}

impl OpenFiles {
    fn raise() -> Self {
        let (usual, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
        match setrlimit(Resource::RLIMIT_NOFILE, most, most) {
            Ok(()) => Self { usual, most },
            Err(_) => Self { usual, most: usual },
        }
    }

    /// In a new keeper.
    fn restore(&self) -> nix::Result<()> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, self.usual, most)
    }
}

/// One keeper, and what has to be removed after it.
struct Kept {
    keeper: KeeperId,
    group: Option<GroupId>,
    parked: Option<Parked>,
}

impl Launcher<'_> {
    /// Until herd closes its end.
    fn serve(&mut self) -> io::Result<()> {
        self.say(&Reply::Ready, &[])?;
        let mut buffer = Vec::new();
        loop {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            let pause = match self.leftovers.is_empty() {
                true => self.removals.next(Instant::now()),
                false => Some(Duration::ZERO),
            };
            let timeout = match pause {
                Some(pause) => PollTimeout::try_from(pause + ROUND_UP).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            fd::retry(|| poll(&mut fds, timeout))?;
            let (request, child) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
            if child {
                while let Some(_signal) = self.signals.read_signal()? {}
                self.reap()?;
            }
            if request {
                match wire::receive(self.socket.as_fd(), &mut buffer)? {
                    None => return self.end(),
                    Some((Request::Spawn { keeper, task }, fds)) => self.spawn(keeper, task, fds)?,
                    Some((Request::Plan { plan, forget }, fds)) => self.learn(plan, &forget, fds),
                    Some((Request::Kill { keeper }, _)) => self.kill(keeper),
                    Some((Request::Exec { keeper, command }, fds)) => self.exec(keeper, command, fds),
                }
            }
            // Nobody waits for either. A group that cannot be removed is empty and the next herd's to sweep.
            let idle = !request && !child;
            if idle || self.removals.is_behind() {
                let _ = self.removals.retry(&self.sandboxes.hierarchies, Instant::now());
            }
            if idle || self.leftovers.are_too_many() {
                self.leftovers.drop_one();
            }
        }
    }

    fn spawn(&mut self, keeper: KeeperId, task: Task, mut fds: Vec<OwnedFd>) -> io::Result<()> {
        let prepared = self.prepared(task, &mut fds).and_then(|prepared| {
            let pipes = <[OwnedFd; 3]>::try_from(fds).map_err(|_| "the request lacks its three pipes")?;
            Ok((prepared, pipes))
        });
        let (prepared, pipes) = match prepared {
            Ok(ready) => ready,
            Err(message) => return self.say(&Reply::SpawnFailed { keeper, message }, &[]),
        };
        let group = prepared.group();
        let (parked, parking) = parked::make(self.open_files.most).unzip();
        // SAFETY: the launcher never makes a thread.
        match unsafe { clone3(self.namespaces) } {
            Ok(Side::Child) => {
                if self.open_files.restore().is_err() {
                    exit_now(1);
                }
                let guard = if self.weak {
                    keeper::Guarding::Group
                } else {
                    keeper::Guarding::Namespace
                };
                exit_now(match prepared {
                    Prepared::Bare(program) => keeper::run(&program, pipes, parking, &self.lifeline, guard),
                    Prepared::Sandbox(order, control) => sandbox::run(
                        &order,
                        &self.sandboxes.hierarchies,
                        pipes,
                        control,
                        parking,
                        &self.lifeline,
                    ),
                })
            }
            Ok(Side::Parent { pid, child }) => {
                let kept = Kept {
                    keeper,
                    group,
                    parked,
                };
                self.keepers.insert(pid, kept);
                match self.say(&Reply::Spawned { keeper }, &[child.as_fd()]) {
                    // The kernel counts descriptors under way by user, and a worker of herd's own user can use that up. herd
                    // gives up a keeper that it cannot hold; everybody else lives on.
                    Err(e) if e.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                        self.say(&Reply::Spawned { keeper }, &[])
                    }
                    said => said,
                }
            }
            Err(e) => {
                let message = format!("the kernel refuses another process: {e}");
                self.say(&Reply::SpawnFailed { keeper, message }, &[])
            }
        }
    }

    /// A plan that is not understood is one that the starts which name it will not find.
    fn learn(&mut self, id: PlanId, forget: &[PlanId], mut fds: Vec<OwnedFd>) {
        for old in forget {
            self.plans.remove(old);
        }
        let mut text = Vec::new();
        let read = fds
            .pop()
            .is_some_and(|file| io::Read::read_to_end(&mut std::fs::File::from(file), &mut text).is_ok());
        if read && let Ok(plan) = Plan::unpack(id, &text) {
            self.plans.insert(id, Arc::new(plan));
        }
    }

    /// One that herd has no hold of. Its end is told as any other's.
    fn kill(&self, keeper: KeeperId) {
        let signal = if self.weak { KILL_TREE } else { Signal::SIGKILL };
        for (pid, _) in self.keepers.iter().filter(|(_, kept)| kept.keeper == keeper) {
            // Our own child and not reaped yet: the number cannot have been reused.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
    }

    /// Passes it on to the keeper, whose the rest is. Without one, the line closes, and herd draws its conclusions.
    fn exec(&self, keeper: KeeperId, command: Command, fds: Vec<OwnedFd>) {
        let Some(line) = fds.into_iter().next() else {
            return;
        };
        let Some(kept) = self.keepers.values().find(|kept| kept.keeper == keeper) else {
            return;
        };
        match &kept.parked {
            Some(parked) => parked.ask(&Ask::Exec { command }, line.as_fd()),
            None => {
                let message = "herd is out of file descriptors; raise LimitNOFILE".to_owned();
                let _ = wire::send(line.as_fd(), &Word::Refused { message }, &[]);
            }
        }
    }

    fn prepared(&self, task: Task, fds: &mut Vec<OwnedFd>) -> Result<Prepared, String> {
        let (plan, slot, dir, group) = match task {
            Task::Bare { program } => return Ok(Prepared::Bare(program)),
            Task::Sandbox {
                plan,
                slot,
                dir,
                group,
            } => (plan, slot, dir, group),
        };
        let plan = self
            .plans
            .get(&plan)
            .ok_or("the launcher does not know this sandbox's plan")?;
        let ids = self.ids.ok_or("sandboxes need namespaces, and there are none")?;
        let control = fds.pop().ok_or("the request lacks its control socket")?;
        let order = sandbox::Order {
            plan: Arc::clone(plan),
            ids,
            slot,
            dir: dir.into(),
            group,
        };
        Ok(Prepared::Sandbox(order, control))
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            match process::reap() {
                Ok(None) | Err(Errno::ECHILD) => break,
                Err(e) => return Err(e.into()),
                Ok(Some((pid, _))) => self.reaped.extend(self.keepers.remove(&pid.as_raw())),
            }
        }
        // A namespaced keeper is reaped after everything in its namespace. Without one its tree may still be
        // dying, and each stray's end brings us back here.
        if self.weak && self.kill_strays() > 0 {
            return Ok(());
        }
        for Kept {
            keeper,
            group,
            parked,
        } in std::mem::take(&mut self.reaped)
        {
            self.say(&Reply::Reaped { keeper }, &[])?;
            if let Some(parked) = parked {
                self.leftovers.push(parked);
            }
            if let Some(group) = group {
                // Nothing runs in it any more, and no other sandbox will have its name.
                self.removals.push(group, Instant::now());
            }
        }
        Ok(())
    }

    /// Kills what keepers of the weak guard left behind when they were killed themselves; how many there were.
    fn kill_strays(&self) -> usize {
        let mut strays = process::children(std::process::id() as i32);
        strays.retain(|pid| !self.keepers.contains_key(pid));
        for pid in &strays {
            // Our own child and not reaped yet: the number cannot have been reused.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        strays.len()
    }

    /// herd is gone. As PID 1 of the jail there is nothing to do: the kernel kills everything in it.
    fn end(&mut self) -> io::Result<()> {
        if self.weak {
            for pid in self.keepers.keys() {
                let _ = kill(Pid::from_raw(*pid), KILL_TREE);
            }
            while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {
                self.kill_strays();
            }
        }
        Ok(())
    }

    fn say(&self, reply: &Reply, fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(self.socket.as_fd(), reply, fds)
    }
}
