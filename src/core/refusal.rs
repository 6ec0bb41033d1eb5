//! Why a request was not given a session. One variant per answer that a client can tell apart.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{EndReason, KindId, StartFailure, StartFailureKind};

/// What there is not enough of for one more worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// `max` workers are there.
    Slots,
    /// `max_starting` workers start.
    Starts,
    /// This host has less left than a worker may use.
    Memory,
}

impl Lack {
    /// The stable word for the control API.
    pub fn code(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Starts => "starts",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slots => "every worker slot is taken",
            Self::Starts => "as many workers are starting as may at a time",
            Self::Memory => "this host has less memory left than a worker may use",
        })
    }
}

/// What a principal has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// It has as many as it may.
    Sessions { most: usize },
    /// It has made as many as it may for now.
    SessionRate,
}

/// What comes after the principal's name.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sessions { most } => write!(f, "may have so many sessions at a time: {most}"),
            Self::SessionRate => f.write_str("has used up its rate of new sessions"),
        }
    }
}

/// Why a session could not wait for what it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unqueued {
    MayNotWait,
    QueueFull,
}

impl fmt::Display for Unqueued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MayNotWait => "this request may not wait",
            Self::QueueFull => "the queue is full",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The kind is no more: a new configuration is without it.
    UnknownWorker,
    /// The id is bound to another kind.
    WorkerMismatch { bound_to: KindId },
    /// No worker can be had now and the queue is full, or the client asked not to wait.
    AtCapacity {
        retry_after: Duration,
        lack: Lack,
        unqueued: Unqueued,
    },
    /// Waited `queue.timeout` for a start.
    QueueTimeout { waited: Duration, lack: Lack },
    /// Its principal may not have one more, or not yet.
    QuotaExceeded { quota: Quota, retry_after: Duration },
    /// herd is shutting down.
    Draining,
    /// The kind's workers keep failing to start; the last time for this reason.
    WorkerBackoff { retry_after: Duration, last: Arc<str> },
    /// The worker did not become ready.
    StartFailed(StartFailure),
    /// The session's worker crashed and its state is lost; answered until the tombstone expires.
    SessionLost { reason: EndReason },
    /// The session was stopped while this request waited for its worker.
    SessionStopped,
    /// Its principal is in herd.yaml no more.
    Revoked,
}

impl Refusal {
    /// What [`code`](Self::code) can be.
    pub const CODES: [&'static str; 12] = [
        "unknown_worker",
        "worker_mismatch",
        "at_capacity",
        "queue_timeout",
        "quota_exceeded",
        "draining",
        "worker_backoff",
        "worker_start_timeout",
        "worker_start_failed",
        "session_lost",
        "session_ended",
        "unauthorized",
    ];

    /// When to ask again, where it may go better then.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::AtCapacity { retry_after, .. }
            | Self::QuotaExceeded { retry_after, .. }
            | Self::WorkerBackoff { retry_after, .. } => Some(*retry_after),
            Self::QueueTimeout { .. } | Self::Draining | Self::SessionStopped => Some(Duration::from_secs(1)),
            Self::UnknownWorker
            | Self::WorkerMismatch { .. }
            | Self::StartFailed(_)
            | Self::SessionLost { .. }
            | Self::Revoked => None,
        }
    }

    /// The stable word for answers, logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownWorker => "unknown_worker",
            Self::WorkerMismatch { .. } => "worker_mismatch",
            Self::AtCapacity { .. } => "at_capacity",
            Self::QueueTimeout { .. } => "queue_timeout",
            Self::QuotaExceeded { .. } => "quota_exceeded",
            Self::Draining => "draining",
            Self::WorkerBackoff { .. } => "worker_backoff",
            Self::StartFailed(failure) => match failure.kind {
                StartFailureKind::Timeout { .. } => "worker_start_timeout",
                _ => "worker_start_failed",
            },
            Self::SessionLost { .. } => "session_lost",
            Self::SessionStopped => "session_ended",
            Self::Revoked => "unauthorized",
        }
    }
}

/// As far as the refusal itself tells it; how a kind is called, and what to do, whoever answers adds.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWorker => f.write_str("this kind of worker was removed from herd.yaml"),
            Self::WorkerMismatch { .. } => f.write_str("the session is bound to a worker of another kind"),
            Self::AtCapacity { lack, unqueued, .. } => write!(f, "{lack}, and {unqueued}"),
            Self::QueueTimeout { waited, lack } => {
                let waited = waited.as_secs_f64();
                write!(f, "no worker could be had within {waited:.1} s: {lack}")
            }
            Self::QuotaExceeded { quota, .. } => write!(f, "the session's principal {quota}"),
            Self::Draining => f.write_str("herd is shutting down and starts no new session"),
            Self::WorkerBackoff { last, .. } => write!(
                f,
                "recent starts of this kind failed, and herd waits before the next; the last: {last}"
            ),
            Self::StartFailed(failure) => failure.fmt(f),
            Self::SessionLost { reason } => write!(f, "the session is lost: {reason}"),
            Self::SessionStopped => {
                f.write_str("the session was stopped while this request waited for its worker")
            }
            Self::Revoked => f.write_str("the session's principal is in herd.yaml no more"),
        }
    }
}

/// A wait as `Retry-After` tells it: whole seconds (RFC 9110, 10.2.3), and never 0, which would ask for a busy loop.
pub fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Exit, Memory, StartFailureKind, Unwell};
    use super::*;

    #[test]
    fn a_refusal_says_why_and_when_to_ask_again() {
        let waited = Duration::from_micros(1_049_999);
        let refusal = Refusal::QueueTimeout {
            waited,
            lack: Lack::Memory,
        };
        assert_eq!(
            refusal.to_string(),
            "no worker could be had within 1.0 s: this host has less memory left than a worker may use"
        );
        assert_eq!(refusal.retry_after(), Some(Duration::from_secs(1)));
        let lost = Refusal::SessionLost {
            reason: EndReason::Crashed(Exit::Signal(11)),
        };
        assert_eq!(lost.retry_after(), None);
        for (wait, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(wait)), seconds, "{wait} ms");
        }
    }

    #[test]
    fn every_code_is_listed_once() {
        let ends = [
            EndReason::Stopped,
            EndReason::Disconnected,
            EndReason::Ttl,
            EndReason::MaxLifetime,
            EndReason::Crashed(Exit::KeeperLost),
            EndReason::ProbeFailed(Unwell {
                failures: 3,
                last: String::new(),
            }),
            EndReason::Drained,
            EndReason::Revoked,
        ];
        assert_eq!(ends.each_ref().map(EndReason::code), EndReason::CODES);
        let zero = Duration::ZERO;
        let (message, last) = (String::new(), String::new());
        let failures = [
            StartFailureKind::Exec {
                message: message.clone(),
            },
            StartFailureKind::Exited(Exit::KeeperLost),
            StartFailureKind::Unused(Exit::KeeperLost),
            StartFailureKind::Timeout { after: zero, last },
            StartFailureKind::PortTaken { port: 1 },
            StartFailureKind::Resource { message },
            StartFailureKind::TooLarge {
                memory: 2,
                of: Memory { left: 0, total: 1 },
            },
        ];
        assert_eq!(
            failures.each_ref().map(StartFailureKind::code),
            StartFailureKind::CODES
        );
        let failed = |kind: &StartFailureKind| {
            Refusal::StartFailed(StartFailure {
                kind: kind.clone(),
                log_tail: Vec::new(),
            })
        };
        let refusals = [
            Refusal::UnknownWorker,
            Refusal::WorkerMismatch { bound_to: KindId(0) },
            Refusal::AtCapacity {
                retry_after: zero,
                lack: Lack::Slots,
                unqueued: Unqueued::QueueFull,
            },
            Refusal::QueueTimeout {
                waited: zero,
                lack: Lack::Slots,
            },
            Refusal::QuotaExceeded {
                quota: Quota::SessionRate,
                retry_after: zero,
            },
            Refusal::Draining,
            Refusal::WorkerBackoff {
                retry_after: zero,
                last: "".into(),
            },
            failed(&failures[3]),
            failed(&failures[0]),
            Refusal::SessionLost {
                reason: EndReason::Ttl,
            },
            Refusal::SessionStopped,
            Refusal::Revoked,
        ];
        assert_eq!(refusals.each_ref().map(Refusal::code), Refusal::CODES);
    }
}
