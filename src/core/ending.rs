//! How sessions and workers end. Every ending carries its reason.

use std::fmt;
use std::time::Duration;

use super::Memory;

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// `herd stop`, `DELETE`.
    Stopped,
    /// The last stream, connection or hold that kept the session closed.
    Disconnected,
    /// Nothing held the session for its `ttl`.
    Ttl,
    /// `max_lifetime` passed.
    MaxLifetime,
    /// The worker ended by itself.
    Crashed(Exit),
    /// The worker lives, and did not answer herd's liveness probes; killed.
    ProbeFailed(Unwell),
    /// herd is draining and `drain_timeout` passed, or a second signal came.
    Drained,
    /// Its principal is in herd.yaml no more.
    Revoked,
}

impl EndReason {
    /// What [`code`](Self::code) can be.
    pub const CODES: [&'static str; 8] = [
        "stopped",
        "disconnected",
        "ttl",
        "max_lifetime",
        "crashed",
        "probe_failed",
        "drained",
        "revoked",
    ];

    /// The stable word for logs, metrics and the control API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Disconnected => "disconnected",
            Self::Ttl => "ttl",
            Self::MaxLifetime => "max_lifetime",
            Self::Crashed(_) => "crashed",
            Self::ProbeFailed(_) => "probe_failed",
            Self::Drained => "drained",
            Self::Revoked => "revoked",
        }
    }

    /// Whether the worker was lost, and with it what its client believes to be there.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Crashed(_) | Self::ProbeFailed(_))
    }

    /// Whether the worker is killed without a word: its client is gone, somebody said "now", or it would not listen.
    pub fn is_at_once(&self) -> bool {
        matches!(
            self,
            Self::Disconnected | Self::Stopped | Self::Revoked | Self::ProbeFailed(_)
        )
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped on request"),
            Self::Disconnected => f.write_str("its client disconnected"),
            Self::Ttl => f.write_str("idle for its ttl"),
            Self::MaxLifetime => f.write_str("reached max_lifetime"),
            Self::Crashed(exit) => write!(f, "the worker ended by itself: {exit}"),
            Self::ProbeFailed(unwell) => write!(f, "the worker {unwell}"),
            Self::Drained => f.write_str("herd is shutting down"),
            Self::Revoked => f.write_str("its key was taken out of herd.yaml"),
        }
    }
}

/// What liveness probes have come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwell {
    /// In a row.
    pub failures: u32,
    /// What the latest probe saw.
    pub last: String,
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failures, last) = (self.failures, &self.last);
        write!(f, "failed {failures} liveness probes in a row; the last: {last}")
    }
}

/// How a worker's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It had met a limit of its sandbox before, which may have nothing to do with it.
    Limited {
        status: Status,
        limit: Limit,
    },
    /// The keeper died (killed from outside) before it could report; the tree died with it.
    KeeperLost,
}

/// What wait(2) says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Code(i32),
    Signal(i32),
}

/// A limit that a worker has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The kernel killed because it had used all the memory that it may.
    Memory,
    /// The kernel killed for want of memory, and the worker had not used all that it may.
    HostMemory,
    /// The kernel refused it this many processes or threads.
    Processes { refused: u64 },
    /// It wanted to run and had to wait, so long.
    Processor { waited: Duration },
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("it ran out of memory (sandbox.memory)"),
            Self::HostMemory => f.write_str(
                "the machine, or a control group above herd's, ran out of memory; the worker was within sandbox.memory",
            ),
            Self::Processes { refused } => {
                write!(
                    f,
                    "it was refused {refused} more processes or threads (sandbox.pids)"
                )
            }
            Self::Processor { waited } => {
                write!(f, "it had to wait {waited:.1?} for the processor (sandbox.cpus)")
            }
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => Status::Code(*code).fmt(f),
            Self::Signal(signal) => Status::Signal(*signal).fmt(f),
            Self::Limited { status, limit } => write!(f, "{status}; {limit}"),
            Self::KeeperLost => f.write_str("its keeper was killed"),
        }
    }
}

/// A worker did not become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    pub kind: StartFailureKind,
    /// The worker's last output lines, at most 20 lines and 4 KiB, control bytes already escaped.
    pub log_tail: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailureKind {
    /// The program could not be executed at all; the text names what and why.
    Exec { message: String },
    /// It ended before it was ready.
    Exited(Exit),
    /// It was ready, and ended before a session needed it.
    Unused(Exit),
    /// It did not become ready within `start_timeout`; `last` tells what the last probe saw.
    Timeout { after: Duration, last: String },
    /// Another process already listens on the worker's port.
    PortTaken { port: u16 },
    /// herd could not give the worker what it needs (a port, a directory, a launcher).
    Resource { message: String },
    /// A worker may use more memory than this host has, so it was never begun. Bytes.
    TooLarge { memory: u64, of: Memory },
}

impl StartFailureKind {
    /// What [`code`](Self::code) can be.
    pub const CODES: [&'static str; 7] = [
        "exec",
        "exited",
        "unused",
        "timeout",
        "port_taken",
        "resource",
        "too_large",
    ];

    /// The stable word for metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Exited(_) => "exited",
            Self::Unused(_) => "unused",
            Self::Timeout { .. } => "timeout",
            Self::PortTaken { .. } => "port_taken",
            Self::Resource { .. } => "resource",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

impl fmt::Display for StartFailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { message } | Self::Resource { message } => f.write_str(message),
            Self::Exited(exit) => write!(f, "the worker ended before it was ready: {exit}"),
            Self::Unused(exit) => write!(f, "a worker ended by itself before it was needed: {exit}"),
            Self::Timeout { after, last } => {
                write!(f, "the worker was not ready within {after:?}; last probe: {last}")
            }
            Self::TooLarge { memory, of } => {
                let (memory, total) = (memory >> 20, of.total >> 20);
                write!(
                    f,
                    "a worker may use {memory} MiB (sandbox.memory), and this host has {total} MiB for all of them \
                     (admission.reserve set aside); it would never fit"
                )
            }
            Self::PortTaken { port } => {
                write!(f, "port {port} is used by a process that is not the worker's")
            }
        }
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}
