//! What keeps a session alive, counted on the session itself.
//!
//! An established session's requests never visit the owner task: they acquire and release here, with
//! one compare-and-swap each. One word carries everything a decision needs, so that "nothing holds it,
//! therefore end it" is a single atomic step that a new request either precedes or is refused by:
//!
//! ```text
//! bit 63 closed | 62 notify | 61 ever a stream | 60 ever a hold | 59..44 holds | 43..28 sequence | 27..0 all holders
//! ```
//!
//! The sequence counts acquisitions (it wraps): a deadline that was armed at sequence *n* can tell
//! whether anybody came since. A closed word never opens again; the next incarnation has its own.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Moment;

const CLOSED: u64 = 1 << 63;
const NOTIFY: u64 = 1 << 62;
const EVER_STREAM: u64 = 1 << 61;
const EVER_HOLD: u64 = 1 << 60;
const HOLD_ONE: u64 = 1 << 44;
const HOLD_MASK: u64 = 0xffff << 44;
const SEQUENCE_ONE: u64 = 1 << 28;
const SEQUENCE_MASK: u64 = 0xffff << 28;
const COUNT_MASK: u64 = SEQUENCE_ONE - 1;

/// What holds a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderKind {
    /// An in-flight HTTP request, until the last byte of its response.
    Request,
    /// A WebSocket, another upgrade, a CONNECT tunnel.
    Stream,
    /// A client connection, for kinds with `bind: connection`.
    Connection,
    /// A hold stream of the control API; its end is authoritative.
    Hold,
}

/// What the releaser has to do after [`Holders::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Release {
    Quiet,
    /// The owner has to look at this session now.
    Notify,
}

/// One consistent reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    pub holders: u32,
    pub holds: u16,
    /// Counts acquisitions; wraps.
    pub sequence: u16,
    pub ever_stream: bool,
    pub ever_hold: bool,
    pub closed: bool,
}

/// The holders of one incarnation of a session.
#[derive(Debug)]
pub struct Holders {
    word: AtomicU64,
    /// Microseconds since herd's start of the latest release; what the ttl counts from.
    last_release: AtomicU64,
    /// For display only; decisions use the word.
    streams: AtomicU32,
}

impl Holders {
    pub fn new(now: Moment) -> Self {
        Self {
            word: AtomicU64::new(0),
            last_release: AtomicU64::new(micros(now)),
            streams: AtomicU32::new(0),
        }
    }

    /// Takes a hold, unless the session is closed (or holds more than can be counted).
    #[must_use]
    pub fn acquire(&self, kind: HolderKind) -> bool {
        let taken = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let full = word & COUNT_MASK == COUNT_MASK
                    || kind == HolderKind::Hold && word & HOLD_MASK == HOLD_MASK;
                if word & CLOSED != 0 || full {
                    return None;
                }
                let sequence = word.wrapping_add(SEQUENCE_ONE) & SEQUENCE_MASK;
                let word = (word & !SEQUENCE_MASK | sequence) + 1;
                Some(match kind {
                    HolderKind::Request => word,
                    HolderKind::Stream | HolderKind::Connection => word | NOTIFY | EVER_STREAM,
                    HolderKind::Hold => (word | NOTIFY | EVER_HOLD) + HOLD_ONE,
                })
            });
        if taken.is_ok() && matches!(kind, HolderKind::Stream | HolderKind::Connection) {
            self.streams.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Gives a hold back. Every successful [`acquire`](Self::acquire) is released exactly once, with
    /// the same kind.
    pub fn release(&self, kind: HolderKind, now: Moment) -> Release {
        // Before the count falls: whoever sees zero also sees this moment.
        self.last_release.fetch_max(micros(now), Ordering::Release);
        let (one, is_hold) = match kind {
            HolderKind::Hold => (1 + HOLD_ONE, true),
            HolderKind::Stream | HolderKind::Connection => {
                self.streams.fetch_sub(1, Ordering::Relaxed);
                (1, false)
            }
            HolderKind::Request => (1, false),
        };
        let before = self.word.fetch_sub(one, Ordering::AcqRel);
        debug_assert!(before & COUNT_MASK != 0, "released more often than acquired");
        let after = before - one;
        let last = after & COUNT_MASK == 0 && after & (NOTIFY | CLOSED) != 0;
        let last_hold = is_hold && after & HOLD_MASK == 0;
        if last || last_hold {
            Release::Notify
        } else {
            Release::Quiet
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        decode(self.word.load(Ordering::Acquire))
    }

    /// When the latest holder left (or the session was bound).
    pub fn last_release(&self) -> Moment {
        Moment(Duration::from_micros(self.last_release.load(Ordering::Acquire)))
    }

    /// Streams and connections that hold it now; for display.
    pub fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Closes if nothing holds it. `true`: closed now, and no one can acquire any more.
    #[must_use]
    pub fn close_if_idle(&self) -> bool {
        self.close_if(|s| s.holders == 0)
    }

    /// Closes if nobody acquired since `sequence` was read.
    #[must_use]
    pub fn close_if_unchanged(&self, sequence: u16) -> bool {
        self.close_if(|s| s.sequence == sequence)
    }

    /// Closes whatever holds it; present holders still release.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Plain requests stop notifying the owner until the next stream or hold.
    pub fn quieten(&self) {
        self.word.fetch_and(!NOTIFY, Ordering::AcqRel);
    }

    fn close_if(&self, condition: impl Fn(Snapshot) -> bool) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let now = decode(word);
                (!now.closed && condition(now)).then_some(word | CLOSED)
            })
            .is_ok()
    }
}

fn decode(word: u64) -> Snapshot {
    Snapshot {
        holders: (word & COUNT_MASK) as u32,
        holds: ((word & HOLD_MASK) >> 44) as u16,
        sequence: ((word & SEQUENCE_MASK) >> 28) as u16,
        ever_stream: word & EVER_STREAM != 0,
        ever_hold: word & EVER_HOLD != 0,
        closed: word & CLOSED != 0,
    }
}

fn micros(now: Moment) -> u64 {
    u64::try_from(now.0.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn a_plain_request_never_disturbs_the_owner() {
        let h = Holders::new(at(0));
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Request, at(5)), Release::Quiet);
        assert_eq!(h.last_release(), at(5));
    }

    #[test]
    fn after_a_stream_the_last_holder_notifies_until_quietened() {
        let h = Holders::new(at(0));
        assert!(h.acquire(HolderKind::Stream));
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Stream, at(1)), Release::Quiet);
        assert_eq!(h.release(HolderKind::Request, at(2)), Release::Notify);
        h.quieten();
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Request, at(3)), Release::Quiet);
        assert!(h.snapshot().ever_stream);
    }

    #[test]
    fn the_last_hold_notifies_even_while_requests_run() {
        let h = Holders::new(at(0));
        assert!(h.acquire(HolderKind::Request));
        assert!(h.acquire(HolderKind::Hold));
        assert_eq!(h.snapshot().holds, 1);
        assert_eq!(h.release(HolderKind::Hold, at(1)), Release::Notify);
        assert_eq!(h.snapshot().holders, 1);
    }

    #[test]
    fn a_closed_session_admits_nobody() {
        let h = Holders::new(at(0));
        assert!(h.acquire(HolderKind::Request));
        assert!(!h.close_if_idle());
        h.close();
        assert!(!h.acquire(HolderKind::Request));
        assert_eq!(
            h.release(HolderKind::Request, at(1)),
            Release::Notify,
            "the owner waits for zero"
        );
    }

    #[test]
    fn a_deadline_notices_who_came_since_it_was_armed() {
        let h = Holders::new(at(0));
        let armed = h.snapshot().sequence;
        assert!(h.acquire(HolderKind::Request));
        let _ = h.release(HolderKind::Request, at(1));
        assert!(!h.close_if_unchanged(armed));
        assert!(h.close_if_unchanged(h.snapshot().sequence));
    }

    #[test]
    fn the_sequence_wraps_without_touching_its_neighbours() {
        let h = Holders::new(at(0));
        for _ in 0..=u32::from(u16::MAX) {
            assert!(h.acquire(HolderKind::Request));
            let _ = h.release(HolderKind::Request, at(0));
        }
        let s = h.snapshot();
        assert_eq!((s.holders, s.holds, s.sequence), (0, 0, 0));
    }
}
