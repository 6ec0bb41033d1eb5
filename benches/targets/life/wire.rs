//! What the benchmark and its jail say to each other, a line of JSON each. Workers write between the jail's lines, to
//! the same pipe: `listening TOKEN`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// All at once, as far as one process can.
    Start(Vec<Start>),
    /// SIGKILL to a floor's first process, and its reaping.
    Kill { token: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    /// Names it in what is said of it.
    pub(super) token: String,
    pub(super) how: How,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum How {
    /// A program of the distribution, or the worker with nothing around it.
    Run { argv: Vec<String>, dir: PathBuf },
    /// The floor of a bare worker: a PID and a mount namespace, and in it a first process with one child.
    Tree { argv: Vec<String> },
    /// The floor of a sandbox.
    Sandbox(Sandbox),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sandbox {
    pub(super) argv: Vec<String>,
    pub(super) rootfs: PathBuf,
    /// Shown at /run/herd, where the worker's socket is.
    pub(super) sockets: PathBuf,
    /// Control groups to make and to enter: what to write into which file of each.
    pub(super) groups: Vec<(PathBuf, Vec<(String, String)>)>,
    /// The first of 65,536 ids; `None`: only one's own.
    pub(super) first_id: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    Ready,
    /// CLOCK_MONOTONIC in ns, when the question was read.
    Began {
        at: u64,
    },
    /// It is reaped; after `Kill`, with the time from the signal on, in ns.
    Gone {
        token: String,
        took: Option<u64>,
    },
    Failed {
        token: String,
        why: String,
    },
}

/// CLOCK_MONOTONIC in ns: the same for all processes.
pub(super) fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        .unwrap_or(0)
}
