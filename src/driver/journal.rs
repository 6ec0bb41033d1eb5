//! What happened, for whoever watches: a bounded ring of events. The driver never waits for its readers;
//! one that falls behind is told how much it missed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::reload::Reloaded;
use crate::core::{EndReason, Origin, SessionId, SessionRef, WorkerId};
use crate::worker::Death;

/// Events that are kept for those who come late.
const KEPT: usize = 4096;

/// One event and its place in the order of all.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Counts from 0 over the life of this herd.
    pub number: u64,
    pub at: SystemTime,
    pub event: Event,
}

#[derive(Debug, Clone)]
pub enum Event {
    /// A session has its worker.
    SessionCreated {
        session: SessionRef,
        kind: String,
        worker: WorkerId,
        pid: Option<i32>,
    },
    /// A session that nobody waited for any more did not come about.
    SessionRefused {
        id: SessionId,
        code: &'static str,
        detail: String,
    },
    /// It was decided to end. With `recycled` its worker lives on, and no `WorkerGone` follows.
    SessionEnded {
        session: SessionRef,
        kind: String,
        reason: EndReason,
        recycled: bool,
    },
    WorkerReady {
        worker: WorkerId,
        kind: String,
    },
    WorkerFailed {
        worker: WorkerId,
        kind: String,
        failure: String,
    },
    /// A ready worker has failed too many liveness probes in a row.
    WorkerUnwell {
        worker: WorkerId,
        kind: String,
        unwell: String,
    },
    /// A worker's whole tree is gone and reaped.
    WorkerGone {
        worker: WorkerId,
        kind: String,
        session: Option<SessionRef>,
        death: Death,
    },
    Draining {
        limit: Duration,
    },
    /// A new configuration is in force.
    ConfigReloaded {
        cause: &'static str,
        reloaded: Reloaded,
    },
    /// It is not: the old one is.
    ConfigReloadFailed {
        cause: &'static str,
        detail: String,
    },
    /// A command that somebody ran in a session is over.
    CommandEnded {
        session: SessionRef,
        command: Vec<String>,
        by: By,
        end: CommandEnd,
        lasted: Duration,
    },
    /// Somebody used the control API to change something.
    Controlled {
        deed: Deed,
        by: By,
    },
}

/// What the control API was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    Create {
        id: SessionId,
    },
    /// A token for a session was signed.
    Token {
        id: SessionId,
    },
    Stop {
        id: SessionId,
    },
    Hold {
        id: SessionId,
        origin: Origin,
    },
    /// Arguments beyond a kilobyte are left out.
    Exec {
        id: SessionId,
        command: Vec<String>,
    },
    Drain,
    Reload,
}

impl Deed {
    /// As its event is called, without `control_`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Token { .. } => "token",
            Self::Stop { .. } => "stop",
            Self::Hold { .. } => "hold",
            Self::Exec { .. } => "exec",
            Self::Drain => "drain",
            Self::Reload => "reload",
        }
    }

    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Create { id }
            | Self::Token { id }
            | Self::Stop { id }
            | Self::Hold { id, .. }
            | Self::Exec { id, .. } => Some(id),
            Self::Drain | Self::Reload => None,
        }
    }
}

/// How a command in a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandEnd {
    Exited {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
    /// `code` is what a shell would tell: 126, or 127 where there is no such program.
    NotRun {
        message: String,
        code: u8,
    },
    /// Killed, or hung up, because nobody waited for it any more.
    ClientLeft,
    /// Killed with its session; for which reason, if that could be learnt.
    SessionEnded {
        reason: Option<EndReason>,
    },
    HerdEnds,
    /// Killed, because whoever asked for it may not any more: a reload took the key away.
    Revoked,
    /// Killed, because its client did not keep to the protocol.
    Misused {
        message: String,
    },
}

impl fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit code {code}"),
            Self::Signalled { signal } => write!(f, "killed by signal {signal}"),
            Self::NotRun { message, .. } | Self::Misused { message } => f.write_str(message),
            Self::ClientLeft => f.write_str("its client left"),
            Self::SessionEnded { reason: None } => f.write_str("its worker has ended"),
            Self::SessionEnded { reason: Some(reason) } => write!(f, "the session ended: {reason}"),
            Self::HerdEnds => f.write_str("herd is ending"),
            Self::Revoked => f.write_str("the key that it was asked for with may not do this any more"),
        }
    }
}

/// Who used it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// As the kernel tells it of the other end of a UNIX socket.
    Peer {
        uid: u32,
        /// When it connected; not necessarily who holds the connection now.
        pid: Option<i32>,
    },
    /// The name of a key.
    Key(Arc<str>),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Peer { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Key(name) => write!(f, "key {name}"),
        }
    }
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    next: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Journal {
    /// Tells this herd's events from those of one before it. Milliseconds since 1970 at its start.
    epoch: u64,
    ring: Mutex<Ring>,
    next: watch::Sender<u64>,
}

impl Journal {
    pub(super) fn new(started: SystemTime) -> Self {
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            epoch: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            ring: Mutex::default(),
            next: watch::Sender::new(0),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// When this herd started.
    pub fn started(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.epoch)
    }

    pub fn push(&self, event: Event) {
        let mut ring = self.ring();
        let number = ring.next;
        ring.next += 1;
        if ring.entries.len() == KEPT {
            ring.entries.pop_front();
        }
        ring.entries.push_back(Entry {
            number,
            at: SystemTime::now(),
            event,
        });
        drop(ring);
        self.tell(number);
    }

    /// Event `number` exists. Two threads may come here in another order than to the ring; the later event stays told.
    fn tell(&self, number: u64) {
        self.next.send_modify(|next| *next = (*next).max(number + 1));
    }

    /// The number of the event that comes next.
    pub fn next(&self) -> u64 {
        self.ring().next
    }

    /// At most `most` events from `number` on, and how many before the first of them are lost.
    pub fn since(&self, number: u64, most: usize) -> (Vec<Entry>, u64) {
        let ring = self.ring();
        let first = ring.entries.front().map_or(ring.next, |entry| entry.number);
        let lost = first.saturating_sub(number);
        let skip = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        (ring.entries.iter().skip(skip).take(most).cloned().collect(), lost)
    }

    /// Waits until event `number` exists.
    pub async fn wait_for(&self, number: u64) {
        let mut next = self.next.subscribe();
        // An error is impossible: the sender is `self`.
        let _ = next.wait_for(|next| *next > number).await;
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained() -> Event {
        Event::Draining {
            limit: Duration::ZERO,
        }
    }

    #[test]
    fn a_reader_gets_what_is_kept_and_is_told_what_is_not() {
        let journal = Journal::new(SystemTime::now());
        assert_eq!(journal.since(0, 10).1, 0);
        for _ in 0..KEPT + 3 {
            journal.push(drained());
        }
        let (entries, lost) = journal.since(0, 2);
        assert_eq!(lost, 3);
        assert_eq!(entries.iter().map(|e| e.number).collect::<Vec<_>>(), [3, 4]);
        let (entries, lost) = journal.since(KEPT as u64 + 2, 10);
        assert_eq!((entries.len(), lost), (1, 0));
        assert_eq!(journal.next(), KEPT as u64 + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_told_late_hides_none_that_came_after_it() {
        let journal = Journal::new(SystemTime::now());
        journal.tell(1);
        journal.tell(0);
        let seen = tokio::time::timeout(Duration::from_secs(1), journal.wait_for(1));
        seen.await.expect("event 1 exists");
    }

    #[tokio::test]
    async fn a_reader_is_woken_by_the_event_that_it_waits_for() {
        let journal = Journal::new(SystemTime::now());
        let seen = async {
            journal.wait_for(1).await;
            journal.next()
        };
        let push = async {
            journal.push(drained());
            tokio::task::yield_now().await;
            journal.push(drained());
        };
        assert_eq!(tokio::join!(seen, push).0, 2);
    }
}
