//! Why a request was not given a session. One variant per answer that a client can tell apart.

use std::time::Duration;

use super::{EndReason, KindId, StartFailure, StartFailureKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The id is bound to another kind.
    WorkerMismatch { bound_to: KindId },
    /// No slot is free and the queue is full, or the client asked not to wait.
    AtCapacity { retry_after: Duration },
    /// Waited `queue.timeout` for a slot.
    QueueTimeout { waited: Duration },
    /// herd is shutting down.
    Draining,
    /// The kind's workers keep failing to start.
    WorkerBackoff { retry_after: Duration },
    /// The worker did not become ready.
    StartFailed(StartFailure),
    /// The session's worker crashed and its state is lost; answered until the tombstone expires.
    SessionLost { reason: EndReason },
    /// The session was stopped while this request waited for its worker.
    SessionStopped,
}

impl Refusal {
    /// The stable word for answers, logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::WorkerMismatch { .. } => "worker_mismatch",
            Self::AtCapacity { .. } => "at_capacity",
            Self::QueueTimeout { .. } => "queue_timeout",
            Self::Draining => "draining",
            Self::WorkerBackoff { .. } => "worker_backoff",
            Self::StartFailed(failure) => match failure.kind {
                StartFailureKind::Timeout { .. } => "worker_start_timeout",
                _ => "worker_start_failed",
            },
            Self::SessionLost { .. } => "session_lost",
            Self::SessionStopped => "session_ended",
        }
    }
}
