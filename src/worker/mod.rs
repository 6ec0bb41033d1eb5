//! Workers: from a kind's templates to a ready, supervised process tree, and to its end.

mod endpoint;
mod environment;
mod escape;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod kill;
mod lacking;
mod liveness;
mod logs;
mod memory;
mod output;
mod ports;
mod readiness;
mod report;
mod sandbox;
mod start;
mod state_dir;
mod workers;

use std::sync::Arc;
use std::time::Duration;

pub use endpoint::{Connection, Endpoint, InsideEndpoint, TcpEndpoint};
pub use escape::escape;
pub use kill::KillSwitch;
pub use liveness::{Probes, Pulse};
pub use logs::{Line, Logs, Stream};
pub use memory::most_memory;
pub use output::tail;
pub use ports::DEFAULT_PORTS;
pub use state_dir::{StateDir, StateDirError};
pub use workers::Workers;

/// Commands beside a worker's program.
pub use crate::launcher::{
    Command, ExecError, Line as CommandLine, MOST_COMMANDS, On, Running, Streams, Word,
};

use crate::config::Kind;
use crate::core::{Exit, StartFailure, WorkerId};
pub use crate::launcher::sandbox::{Plan, Plans};

/// How the workers of a kind are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandboxing {
    #[default]
    Off,
    On,
    /// Without limits that were asked for, as `require: best-effort` allows.
    Weaker,
}

impl Sandboxing {
    pub fn by(plan: Option<&Plan>) -> Self {
        match plan {
            None => Self::Off,
            Some(plan) if plan.weaker().is_empty() => Self::On,
            Some(_) => Self::Weaker,
        }
    }
}

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct Make {
    pub kind: Arc<Kind>,
    /// Where the kind has a sandbox.
    pub plan: Option<Arc<Plan>>,
}

impl Make {
    pub fn sandboxing(&self) -> Sandboxing {
        Sandboxing::by(self.plan.as_deref())
    }

    /// Bytes that a worker may use at most, where that is limited.
    pub fn memory(&self) -> Option<u64> {
        self.kind.sandbox.on()?.limits.memory
    }
}

/// What a worker's end took with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Every process of the tree just before it was killed, as the host numbers them (at most 128 listed); none of a
    /// worker whose main process ended by itself.
    pub pids: Vec<i32>,
    /// How many there were; or that main process and those which it left behind.
    pub processes: usize,
    /// Private memory of those processes, bytes.
    pub memory: u64,
    /// From the decision to kill until the whole tree was reaped; zero if the worker ended by itself.
    pub took: Duration,
    /// Of the listed processes, those that were seen alive after the tree was reaped. There is no way to this that
    /// herd knows of: it is looked for, because a guarantee that is not looked at is a claim.
    pub survivors: usize,
    pub exit: Exit,
}

/// What the driver hears of its workers. For each worker: at most one of `Ready` and `StartFailed`,
/// then exactly one `Gone`; after `Ready` any number of `ProbeFailed`.
#[derive(Debug)]
pub enum Event {
    Ready {
        worker: WorkerId,
        endpoint: Endpoint,
    },
    StartFailed {
        worker: WorkerId,
        failure: StartFailure,
    },
    /// A ready worker did not answer a liveness probe, for the `strike`th time in a row; `of` are its end.
    ProbeFailed {
        worker: WorkerId,
        strike: u32,
        of: u32,
        what: String,
    },
    /// The whole tree is gone and reaped.
    Gone {
        worker: WorkerId,
        death: Death,
    },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(tcp) => tcp.addr.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Inside(inside) => match inside.address() {
                Some(addr) => write!(f, "{addr} in its sandbox"),
                None => f.write_str("a socket in its sandbox"),
            },
        }
    }
}
