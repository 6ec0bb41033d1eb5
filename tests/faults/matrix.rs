//! Which faults there are, in which states of a session they can be injected, and why not in the others.

use crate::skip::skipped;
use crate::supervised::Mode;

/// What is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillHerd,
    KillLauncher,
    KillKeeper,
    KillInit,
    KillWorker,
    SetuidWorker,
    IgnoresTerm,
    DoubleForks,
    ClosesListener,
    NeverHealthy,
    BindsLate,
    HangsMidResponse,
    SendsTooLittle,
    SendsTooMuch,
    ClientReset,
    ClientFin,
    ClientHalfClose,
    ClientVanishes,
    ForkBombDuringKill,
    MemoryBomb,
    DiskFlood,
    InodeFlood,
    LogFlood,
    StateDirFull,
    OutOfDescriptors,
    StopAndContinue,
    CgroupBusy,
    ReusedPids,
    RestartUnderLoad,
}

/// Where the session is when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// No session: the worker that waits for one.
    Warm,
    /// The same, and it has served one before.
    Recycled,
    Queued,
    /// The worker is not ready.
    Starting,
    /// Bound, and nothing is asked.
    Idle,
    /// A request whose answer has not begun.
    Waiting,
    /// An answer whose body has begun.
    Streaming,
    WebSocket,
    /// SIGTERM was sent.
    Stopping,
    /// SIGKILL was sent, and a process of the tree cannot die yet.
    Dying,
    /// herd was told to end, and an answer is under way.
    Drain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    Bare,
    Sandbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) fault: Fault,
    pub(crate) state: State,
    pub(crate) shape: Shape,
    pub(crate) mode: Mode,
}

/// What the table in docs/reliability.md lists as not injected, beside what is unreachable by its nature.
pub(crate) const NOT_APPLICABLE: &[(&str, &str)] = &[
    (
        "partition of a coordination store",
        "herd has none: a session lives and dies on one machine",
    ),
    (
        "a thread of herd that exits alone",
        "not to be had from outside: a signal ends all threads of a process, a data-plane thread's loop ends only with \
         herd, and a panic ends all of herd (`panic = \"abort\"` in the release build), which is a kill of herd",
    ),
    (
        "a jump of the clock",
        "nothing to inject it into: herd reckons with the monotonic clock, which nobody can set; the other one only \
         stamps logs and records",
    ),
    (
        "the moment in which a worker is recycled",
        "nothing tells a client of it; random moments, this one among them, are hit by `random_kills`",
    ),
];

impl Fault {
    pub(crate) const ALL: &[Self] = &[
        Self::KillHerd,
        Self::KillLauncher,
        Self::KillKeeper,
        Self::KillInit,
        Self::KillWorker,
        Self::SetuidWorker,
        Self::IgnoresTerm,
        Self::DoubleForks,
        Self::ClosesListener,
        Self::NeverHealthy,
        Self::BindsLate,
        Self::HangsMidResponse,
        Self::SendsTooLittle,
        Self::SendsTooMuch,
        Self::ClientReset,
        Self::ClientFin,
        Self::ClientHalfClose,
        Self::ClientVanishes,
        Self::ForkBombDuringKill,
        Self::MemoryBomb,
        Self::DiskFlood,
        Self::InodeFlood,
        Self::LogFlood,
        Self::StateDirFull,
        Self::OutOfDescriptors,
        Self::StopAndContinue,
        Self::CgroupBusy,
        Self::ReusedPids,
        Self::RestartUnderLoad,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillHerd => "kill -9 of herd",
            Self::KillLauncher => "kill -9 of the launcher",
            Self::KillKeeper => "kill -9 of the keeper",
            Self::KillInit => "kill -9 of the sandbox's init",
            Self::KillWorker => "kill -9 of the worker",
            Self::SetuidWorker => "the worker changes its user",
            Self::IgnoresTerm => "the worker ignores SIGTERM",
            Self::DoubleForks => "the worker double-forks and leaves its session",
            Self::ClosesListener => "the worker closes its listener",
            Self::NeverHealthy => "the worker is never healthy",
            Self::BindsLate => "the worker binds late",
            Self::HangsMidResponse => "the worker hangs in its answer",
            Self::SendsTooLittle => "the worker sends less than it announced",
            Self::SendsTooMuch => "the worker sends more than it announced",
            Self::ClientReset => "the client resets",
            Self::ClientFin => "the client closes",
            Self::ClientHalfClose => "the client closes its sending side",
            Self::ClientVanishes => "the client vanishes without a packet",
            Self::ForkBombDuringKill => "a fork bomb while it is killed",
            Self::MemoryBomb => "a memory bomb",
            Self::DiskFlood => "the disk is filled",
            Self::InodeFlood => "all inodes are taken",
            Self::LogFlood => "the log is flooded",
            Self::StateDirFull => "the state directory is full",
            Self::OutOfDescriptors => "herd is out of descriptors",
            Self::StopAndContinue => "SIGSTOP and SIGCONT of herd",
            Self::CgroupBusy => "the control group stays busy",
            Self::ReusedPids => "leftovers whose pids are strangers' now",
            Self::RestartUnderLoad => "restarts under load",
        }
    }

    /// For the name of the test.
    fn word(self) -> String {
        kebab(&format!("{self:?}"))
    }

    /// Every state that it can meet; which of them also depends on [`Case::unreachable`].
    fn states(self) -> &'static [State] {
        use State::{
            Drain, Dying, Idle, Queued, Recycled, Starting, Stopping, Streaming, Waiting, Warm, WebSocket,
        };
        match self {
            Self::KillHerd | Self::KillLauncher | Self::KillKeeper | Self::KillInit | Self::KillWorker => &[
                Warm, Recycled, Queued, Starting, Idle, Waiting, Streaming, WebSocket, Stopping, Dying, Drain,
            ],
            Self::SetuidWorker => &[Idle, Streaming, WebSocket],
            Self::IgnoresTerm => &[Idle, Drain],
            Self::DoubleForks => &[Idle, Streaming, WebSocket, Drain],
            Self::ClosesListener => &[Idle, Streaming, WebSocket],
            Self::NeverHealthy | Self::BindsLate => &[Starting],
            Self::HangsMidResponse | Self::SendsTooLittle | Self::SendsTooMuch => &[Streaming],
            Self::ClientReset | Self::ClientFin | Self::ClientHalfClose => {
                &[Queued, Starting, Waiting, Streaming, WebSocket]
            }
            Self::ClientVanishes => &[Waiting, Streaming, WebSocket],
            Self::ForkBombDuringKill => &[Idle, Streaming, WebSocket],
            Self::MemoryBomb | Self::DiskFlood | Self::InodeFlood | Self::LogFlood => &[Idle],
            Self::StateDirFull | Self::OutOfDescriptors => &[Starting],
            Self::StopAndContinue => &[Starting, Idle, Waiting, Streaming, WebSocket],
            Self::CgroupBusy => &[Dying],
            Self::ReusedPids => &[Idle, Starting],
            Self::RestartUnderLoad => &[Streaming],
        }
    }

    fn is_kill(self) -> bool {
        matches!(
            self,
            Self::KillHerd | Self::KillLauncher | Self::KillKeeper | Self::KillInit | Self::KillWorker
        )
    }
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Recycled => "warm again",
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Idle => "bound, idle",
            Self::Waiting => "request sent",
            Self::Streaming => "answer under way",
            Self::WebSocket => "WebSocket open",
            Self::Stopping => "stopping",
            Self::Dying => "dying",
            Self::Drain => "herd drains",
        }
    }
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Sandbox => "sandbox",
        }
    }
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for mode in modes() {
            for &fault in Fault::ALL {
                for &state in fault.states() {
                    for shape in [Shape::Bare, Shape::Sandbox] {
                        let case = Self {
                            fault,
                            state,
                            shape,
                            mode,
                        };
                        if case.unreachable().is_none() {
                            cases.push(case);
                        }
                    }
                }
            }
        }
        cases
    }

    /// Everything that was left out of the product, and why.
    pub(crate) fn left_out() -> Vec<(Self, &'static str)> {
        let mut found = Vec::new();
        for mode in [Mode::Own, Mode::Unprivileged] {
            for &fault in Fault::ALL {
                for shape in [Shape::Bare, Shape::Sandbox] {
                    for &state in fault.states() {
                        let case = Self {
                            fault,
                            state,
                            shape,
                            mode,
                        };
                        if let Some(why) = case.unreachable() {
                            found.push((case, why));
                        }
                    }
                }
            }
        }
        found
    }

    pub(crate) fn name(&self) -> String {
        let (fault, state) = (self.fault.word(), kebab(&format!("{:?}", self.state)));
        format!("{fault}/{state}/{}/{}", self.shape.name(), self.who())
    }

    pub(crate) fn who(&self) -> &'static str {
        match self.mode {
            Mode::Own if nix::unistd::geteuid().is_root() => "root",
            Mode::Own | Mode::Unprivileged => "user",
            Mode::Subordinate => "user with ids",
            Mode::Weak => "root, weak guard",
            Mode::UnprivilegedWeak => "user, weak guard",
        }
    }

    /// Why this one cannot be, or would test nothing.
    fn unreachable(&self) -> Option<&'static str> {
        use Fault::{
            CgroupBusy, ClientVanishes, DiskFlood, DoubleForks, IgnoresTerm, InodeFlood, KillInit,
            KillKeeper, MemoryBomb, SetuidWorker,
        };
        let bare = self.shape == Shape::Bare;
        let weak = self.mode.is_weak();
        if weak && !bare {
            return Some("without namespaces there are no sandboxes");
        }
        match self.fault {
            SetuidWorker if weak => {
                Some("not guaranteed by the weak guard: a new user sheds the parent-death signal")
            }
            fault if weak && !(fault.is_kill() || matches!(fault, IgnoresTerm | DoubleForks)) => {
                Some("the guard makes no difference to it")
            }
            KillInit if bare => Some("a bare worker has no init of its own"),
            KillKeeper | KillInit if self.state == State::Dying => Some("it was killed already"),
            SetuidWorker if bare && self.mode.is_unprivileged() => {
                Some("a user cannot become another; in a sandbox the attempt is made all the same")
            }
            ClientVanishes if self.mode != Mode::Own => Some("the kernel finds it for every user alike"),
            ClientVanishes if !nix::unistd::geteuid().is_root() => {
                Some("only root can give the client a network of its own")
            }
            MemoryBomb if bare => Some("a bare worker has no limit of memory"),
            MemoryBomb if self.mode.is_unprivileged() => Some(
                "without root this host has no control group to give, and herd refuses to start with `memory`",
            ),
            DiskFlood | InodeFlood if bare => Some("a bare worker has its user's files"),
            CgroupBusy if bare => Some("a bare worker has no control group"),
            CgroupBusy if self.mode.is_unprivileged() => {
                Some("without root this host has no control group to give")
            }
            _ => None,
        }
    }
}

fn modes() -> Vec<Mode> {
    let mut modes = Mode::all();
    if nix::unistd::geteuid().is_root() && Mode::Subordinate.other_user().is_none() {
        skipped("no user with subordinate ids, so that mode is not tested");
    } else if Mode::Subordinate.other_user().is_some() {
        modes.push(Mode::Subordinate);
    }
    modes
}

fn kebab(camel: &str) -> String {
    let mut text = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}
