//! What keeps a session alive, counted on the session itself.
//!
//! An established session's requests never visit the owner task: they acquire and release here, with
//! one compare-and-swap each. One word carries everything a decision needs, so that "nothing holds it,
//! therefore end it" is a single atomic step that a new request either precedes or is refused by:
//!
//! ```text
//! bit 63 closed | 62 notify | 61 ever a stream | 60 ever a hold | 59..44 holds | 43..28 sequence | 27 left
//!     26..20 guests | 19..0 all holders
//! ```
//!
//! The sequence counts acquisitions (it wraps): a deadline that was armed at sequence *n* can tell
//! whether anybody came since. A closed word never opens again; the next incarnation has its own.
//!
//! Where a disconnect ends a session at once, nobody has to be asked about it: whoever leaves last closes the
//! word, in a step that a newcomer precedes or is refused by, and may kill the worker. The owner finds the session
//! *left* and draws the conclusions.
//!
//! A guest (a command of `herd exec`) holds nothing: the session may end while it is there. But the worker serves no other
//! session before its guests have left.

use std::time::Duration;

use super::Moment;
use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;
const NOTIFY: u64 = 1 << 62;
const EVER_STREAM: u64 = 1 << 61;
const EVER_HOLD: u64 = 1 << 60;
const HOLD_ONE: u64 = 1 << 44;
const HOLD_MASK: u64 = 0xffff << 44;
const SEQUENCE_ONE: u64 = 1 << 28;
const SEQUENCE_MASK: u64 = 0xffff << 28;
const LEFT: u64 = 1 << 27;
const GUEST_ONE: u64 = 1 << 20;
const GUEST_MASK: u64 = 0x7f << 20;
const COUNT_MASK: u64 = GUEST_ONE - 1;

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
    /// The same, and its end is certain: this was the last holder, and nobody can acquire any more.
    Left,
}

/// What becomes of a session that nothing holds any more, once a stream, connection or hold has held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unheld {
    /// Its owner decides.
    Decide,
    /// It ends with its last holder.
    End,
}

/// Why there is no place for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoGuest {
    /// The session has ended.
    Closed,
    /// More cannot be counted.
    Full,
}

/// What [`Holders::close_if_idle`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Idle {
    /// Nothing held it for long enough. Closed now, and no one can acquire any more.
    Closed,
    /// Not before this moment.
    LookAgain(Moment),
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
    /// Closed by its last holder.
    pub left: bool,
    pub guests: u8,
}

impl Snapshot {
    /// Neither a holder nor a guest is there.
    pub fn is_empty(&self) -> bool {
        self.holders == 0 && self.guests == 0
    }
}

/// The holders of one incarnation of a session.
#[derive(Debug)]
pub struct Holders {
    word: AtomicU64,
    /// Microseconds since herd's start of the latest release; what the ttl counts from.
    last_release: AtomicU64,
    /// For display only; decisions use the word.
    streams: AtomicU32,
    /// Whether it is [`Unheld::End`].
    ends_unheld: AtomicBool,
}

impl Holders {
    pub fn new(now: Moment, unheld: Unheld) -> Self {
        Self {
            word: AtomicU64::new(0),
            last_release: AtomicU64::new(micros(now)),
            streams: AtomicU32::new(0),
            ends_unheld: AtomicBool::new(unheld == Unheld::End),
        }
    }

    /// From now on, for whoever has not left yet.
    pub(super) fn decide_unheld(&self, unheld: Unheld) {
        // Who leaves in this moment goes by either: both are a configuration that was in force.
        self.ends_unheld.store(unheld == Unheld::End, Ordering::Relaxed);
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
        let one = self.leaving(kind, now);
        let before = self.word.fetch_sub(one, Ordering::AcqRel);
        let after = before.wrapping_sub(one);
        self.close_if_left(notice(kind, before, after), after)
    }

    /// Gives a hold back whose client has left before its answer. If nothing else holds the session, that
    /// counts as a stream that closed; otherwise the others have the say. One step, so that of several who
    /// leave together the last knows that it is.
    pub fn release_unanswered(&self, kind: HolderKind, now: Moment) -> Release {
        let one = self.leaving(kind, now);
        let without = |word: u64| {
            let word = word.wrapping_sub(one);
            match word & COUNT_MASK {
                0 => word | NOTIFY | EVER_STREAM,
                _ => word,
            }
        };
        let (Ok(before) | Err(before)) =
            self.word
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(without(word)));
        let after = without(before);
        self.close_if_left(notice(kind, before, after), after)
    }

    /// Lets a guest in. One step, so that whoever closes the session finds it, or it finds the session closed.
    pub fn enter(&self) -> Result<(), NoGuest> {
        let entered = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let full = word & GUEST_MASK == GUEST_MASK;
                (word & CLOSED == 0 && !full).then(|| word + GUEST_ONE)
            });
        match entered {
            Ok(_) => Ok(()),
            Err(word) if word & CLOSED != 0 => Err(NoGuest::Closed),
            Err(_) => Err(NoGuest::Full),
        }
    }

    /// Every guest that has entered leaves exactly once.
    pub fn leave(&self) -> Release {
        let before = self.word.fetch_sub(GUEST_ONE, Ordering::AcqRel);
        debug_assert!(before & GUEST_MASK != 0, "left more often than entered");
        let after = before.wrapping_sub(GUEST_ONE);
        match after & CLOSED != 0 && after & (GUEST_MASK | COUNT_MASK) == 0 {
            true => Release::Notify,
            false => Release::Quiet,
        }
    }

    /// Closes a session whose last holder has just left it for good.
    fn close_if_left(&self, release: Release, after: u64) -> Release {
        let after = decode(after);
        let ends = self.ends_unheld.load(Ordering::Relaxed);
        let last = ends && after.holders == 0 && (after.ever_stream || after.ever_hold);
        // Not if somebody came since: then that one's leaving decides.
        let unchanged = |s: Snapshot| !s.closed && s.sequence == after.sequence;
        match last && release == Release::Notify && self.change_if(unchanged, |word| word | CLOSED | LEFT) {
            true => Release::Left,
            false => release,
        }
    }

    /// What the word falls by. The moment is stored before it does: whoever sees zero also sees the moment.
    fn leaving(&self, kind: HolderKind, now: Moment) -> u64 {
        self.last_release.fetch_max(micros(now), Ordering::Release);
        match kind {
            HolderKind::Hold => 1 + HOLD_ONE,
            HolderKind::Stream | HolderKind::Connection => {
                self.streams.fetch_sub(1, Ordering::Relaxed);
                1
            }
            HolderKind::Request => 1,
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

    /// Closes if nothing has held it for `ttl`.
    pub fn close_if_idle(&self, ttl: Duration, now: Moment) -> Idle {
        let seen = self.snapshot();
        if seen.holders > 0 {
            return Idle::LookAgain(now + ttl);
        }
        // Read after the zero that it belongs to; read before, it could be older than a holder that left
        // in between, and end a session that was in use a moment ago.
        let ends = self.last_release() + ttl;
        if ends > now {
            Idle::LookAgain(ends)
        } else if self.close_if_unchanged(seen.sequence) {
            Idle::Closed
        } else {
            Idle::LookAgain(now + ttl)
        }
    }

    /// Closes if nobody acquired since `sequence` was read.
    #[must_use]
    pub fn close_if_unchanged(&self, sequence: u16) -> bool {
        self.change_if(|s| !s.closed && s.sequence == sequence, |word| word | CLOSED)
    }

    /// Closes whatever holds it; present holders still release.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Plain requests stop notifying the owner until the next stream or hold. Not if somebody acquired since
    /// `sequence` was read: it may be that next one, and its leaving has to be heard.
    pub fn quieten_if_unchanged(&self, sequence: u16) {
        self.change_if(|s| s.sequence == sequence, |word| word & !NOTIFY);
    }

    fn change_if(&self, condition: impl Fn(Snapshot) -> bool, change: impl Fn(u64) -> u64) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                condition(decode(word)).then(|| change(word))
            })
            .is_ok()
    }
}

/// Whether a release that took the word from `before` to `after` concerns the owner.
fn notice(kind: HolderKind, before: u64, after: u64) -> Release {
    debug_assert!(before & COUNT_MASK != 0, "released more often than acquired");
    let last = after & COUNT_MASK == 0 && after & (NOTIFY | CLOSED) != 0;
    let last_hold = kind == HolderKind::Hold && after & HOLD_MASK == 0;
    if last || last_hold {
        Release::Notify
    } else {
        Release::Quiet
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
        left: word & LEFT != 0,
        guests: ((word & GUEST_MASK) >> 20) as u8,
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
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Request, at(5)), Release::Quiet);
        assert_eq!(h.last_release(), at(5));
    }

    #[test]
    fn after_a_stream_the_last_holder_notifies_until_quietened() {
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Stream));
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Stream, at(1)), Release::Quiet);
        assert_eq!(h.release(HolderKind::Request, at(2)), Release::Notify);
        h.quieten_if_unchanged(h.snapshot().sequence);
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Request, at(3)), Release::Quiet);
        assert!(h.snapshot().ever_stream);
    }

    #[test]
    fn the_last_hold_notifies_even_while_requests_run() {
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Request));
        assert!(h.acquire(HolderKind::Hold));
        assert_eq!(h.snapshot().holds, 1);
        assert_eq!(h.release(HolderKind::Hold, at(1)), Release::Notify);
        assert_eq!(h.snapshot().holders, 1);
    }

    #[test]
    fn a_guest_keeps_nothing_alive_and_whoever_waits_for_it_hears_of_its_leaving() {
        let h = Holders::new(at(0), Unheld::End);
        assert_eq!(h.enter(), Ok(()));
        assert_eq!(h.snapshot().holders, 0);
        assert!(h.acquire(HolderKind::Stream));
        assert_eq!(h.release(HolderKind::Stream, at(1)), Release::Left);
        let seen = h.snapshot();
        assert_eq!((seen.closed, seen.guests), (true, 1));
        assert_eq!(h.enter(), Err(NoGuest::Closed));
        assert_eq!(h.leave(), Release::Notify);
        assert_eq!(h.snapshot().guests, 0);
    }

    #[test]
    fn of_holders_and_guests_of_an_ended_session_the_last_to_leave_is_heard() {
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.enter(), Ok(()));
        h.close();
        assert_eq!(h.leave(), Release::Quiet, "the request still runs");
        assert_eq!(h.release(HolderKind::Request, at(1)), Release::Notify);
    }

    #[test]
    fn more_guests_than_can_be_counted_disturb_nobody() {
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Request));
        for _ in 0..127 {
            assert_eq!(h.enter(), Ok(()));
        }
        assert_eq!(h.enter(), Err(NoGuest::Full));
        assert_eq!((h.snapshot().holders, h.snapshot().left), (1, false));
        for _ in 0..127 {
            assert_eq!(h.leave(), Release::Quiet);
        }
        assert_eq!((h.snapshot().holders, h.snapshot().guests), (1, 0));
    }

    #[test]
    fn a_closed_session_admits_nobody() {
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Request));
        let ttl = Duration::from_millis(1);
        assert_eq!(h.close_if_idle(ttl, at(7)), Idle::LookAgain(at(8)));
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
        let h = Holders::new(at(0), Unheld::Decide);
        let armed = h.snapshot().sequence;
        assert!(h.acquire(HolderKind::Request));
        let _ = h.release(HolderKind::Request, at(1));
        assert!(!h.close_if_unchanged(armed));
        assert!(h.close_if_unchanged(h.snapshot().sequence));
    }

    #[test]
    fn a_session_is_idle_from_its_last_release_on() {
        let (h, ttl) = (Holders::new(at(0), Unheld::Decide), Duration::from_millis(10));
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Request, at(5)), Release::Quiet);
        assert_eq!(h.close_if_idle(ttl, at(14)), Idle::LookAgain(at(15)));
        assert_eq!(h.close_if_idle(ttl, at(15)), Idle::Closed);
        assert!(!h.acquire(HolderKind::Request));
    }

    #[test]
    fn who_came_after_the_look_is_not_quietened() {
        let h = Holders::new(at(0), Unheld::Decide);
        let seen = h.snapshot().sequence;
        assert!(h.acquire(HolderKind::Stream));
        h.quieten_if_unchanged(seen);
        assert_eq!(h.release(HolderKind::Stream, at(1)), Release::Notify);
    }

    #[test]
    fn the_last_client_that_leaves_unanswered_counts_as_a_stream() {
        let h = Holders::new(at(0), Unheld::Decide);
        assert!(h.acquire(HolderKind::Request));
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release_unanswered(HolderKind::Request, at(1)), Release::Quiet);
        assert!(!h.snapshot().ever_stream, "another client is there");
        assert_eq!(h.release_unanswered(HolderKind::Request, at(2)), Release::Notify);
        assert!(h.snapshot().ever_stream);
    }

    #[test]
    fn a_session_that_ends_with_its_last_holder_is_closed_by_it() {
        let h = Holders::new(at(0), Unheld::End);
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(
            h.release(HolderKind::Request, at(1)),
            Release::Quiet,
            "no stream yet"
        );
        assert!(h.acquire(HolderKind::Stream));
        assert!(h.acquire(HolderKind::Request));
        assert_eq!(h.release(HolderKind::Stream, at(2)), Release::Quiet);
        assert_eq!(h.release(HolderKind::Request, at(3)), Release::Left);
        assert!(h.snapshot().closed && h.snapshot().left);
        assert!(!h.acquire(HolderKind::Request));
    }

    #[test]
    fn a_session_that_was_closed_by_its_owner_is_not_left() {
        let h = Holders::new(at(0), Unheld::End);
        assert!(h.acquire(HolderKind::Stream));
        h.close();
        assert_eq!(h.release(HolderKind::Stream, at(1)), Release::Notify);
        assert!(!h.snapshot().left);
    }

    #[test]
    fn the_sequence_wraps_without_touching_its_neighbours() {
        let h = Holders::new(at(0), Unheld::Decide);
        for _ in 0..=u32::from(u16::MAX) {
            assert!(h.acquire(HolderKind::Request));
            let _ = h.release(HolderKind::Request, at(0));
        }
        let s = h.snapshot();
        assert_eq!((s.holders, s.holds, s.sequence), (0, 0, 0));
    }
}
