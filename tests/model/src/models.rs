//! The models. Each plays one of herd's protocols with the files of the variant that it is compiled in: the
//! owner's part on the model's first thread, clients on others.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::super::core::{HolderKind, Holders, Idle, Moment, Release, Unheld};
use super::attention::{Attention, Listed};
use super::departures::Departures;
use super::sync::{Mutex, Notify};

struct Session {
    holders: Holders,
    listed: Listed,
    attention: Attention<Arc<Session>>,
    /// Its worker was told to die.
    dead: AtomicBool,
}

impl Session {
    fn held_by(kinds: &[HolderKind]) -> Arc<Self> {
        Self::new(Unheld::Decide, kinds)
    }

    fn new(unheld: Unheld, kinds: &[HolderKind]) -> Arc<Self> {
        let holders = Holders::new(at(0), unheld);
        for kind in kinds {
            assert!(holders.acquire(*kind));
        }
        Arc::new(Self {
            holders,
            listed: Listed::new(),
            attention: Attention::new(),
            dead: AtomicBool::new(false),
        })
    }

    /// What dropping a `Hold` does.
    fn leave(self: &Arc<Self>, kind: HolderKind) {
        let release = self.holders.release(kind, at(1));
        if release == Release::Left {
            assert!(!self.dead.swap(true, Ordering::SeqCst), "killed twice");
        }
        if release != Release::Quiet {
            self.attention.list(&self.listed, || Arc::clone(self));
        }
    }

    /// The core, once the grace is over.
    fn end_if_unheld(&self) -> bool {
        let seen = self.holders.snapshot();
        let ended = seen.holders == 0 && self.holders.close_if_unchanged(seen.sequence);
        if ended {
            self.dead.store(true, Ordering::SeqCst);
        }
        ended
    }

    fn assert_served(&self) {
        assert!(!self.dead.load(Ordering::SeqCst), "a holder of a dead worker");
    }

    /// The driver's loop: looks whenever it is asked to, until the look says that this is the end.
    fn attend_until(&self, mut look: impl FnMut(&Session) -> bool) {
        let mut done = false;
        while !done {
            wait(self.attention.listed());
            self.attention
.attend(|session| &session.listed, |session| done |= look(&session));
        }
    }
}

fn at(ms: u64) -> Moment {
    Moment(Duration::from_millis(ms))
}

/// Nothing in a model suspends: its waiting blocks.
fn wait(future: impl Future<Output = ()>) {
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(pin!(future).poll(&mut context), Poll::Ready(()));
}

fn client(session: &Arc<Session>, life: impl FnOnce(&Arc<Session>) + 'static) -> thread::JoinHandle<()> {
    let session = Arc::clone(session);
    thread::spawn(move || life(&session))
}

pub(crate) fn a_closed_session_admits_nobody() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Request]);
        let first = client(&session, |session| session.leave(HolderKind::Request));
        let second = client(&session, |session| {
            if session.holders.acquire(HolderKind::Request) {
                session.assert_served();
                session.leave(HolderKind::Request);
            }
        });
        // A stop, of a worker that is reused as soon as nobody holds it.
        session.holders.close();
        if session.holders.snapshot().holders == 0 {
            session.dead.store(true, Ordering::SeqCst);
        }
        first.join().unwrap();
        second.join().unwrap();
        assert!(
            !session.holders.acquire(HolderKind::Hold),
            "acquired after the close"
        );
    });
}

pub(crate) fn a_disconnect_spares_who_came_since() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Stream]);
        session.leave(HolderKind::Stream);
        let comes = client(&session, |session| {
            if session.holders.acquire(HolderKind::Request) {
                session.assert_served();
                session.leave(HolderKind::Request);
            }
        });
        session.end_if_unheld();
        comes.join().unwrap();
    });
}

/// Where a disconnect ends a session at once, whoever leaves last kills its worker without asking the owner.
pub(crate) fn a_session_that_was_left_has_no_holder() {
    loom::model(|| {
        let session = Session::new(Unheld::End, &[HolderKind::Stream, HolderKind::Request]);
        let stream = client(&session, |session| session.leave(HolderKind::Stream));
        let comes = client(&session, |session| {
            if session.holders.acquire(HolderKind::Request) {
                session.assert_served();
                session.leave(HolderKind::Request);
            }
        });
        session.leave(HolderKind::Request);
        stream.join().unwrap();
        comes.join().unwrap();
        assert!(session.dead.load(Ordering::SeqCst), "all left, and it lives on");
        assert!(!session.holders.acquire(HolderKind::Stream), "a holder of a dead worker");
    });
}

/// The owner stops a session while its last holder leaves: one of the two closes it.
pub(crate) fn a_stop_and_the_last_holder_agree_on_who_ends_a_session() {
    loom::model(|| {
        let session = Session::new(Unheld::End, &[HolderKind::Stream]);
        let leaves = client(&session, |session| session.leave(HolderKind::Stream));
        session.holders.close();
        let left = session.holders.snapshot().left;
        leaves.join().unwrap();
        assert_eq!(
            session.dead.load(Ordering::SeqCst),
            left,
            "ended for two reasons"
        );
    });
}

/// The ttl's deadline comes at the very moment at which a long request ends.
pub(crate) fn a_session_in_use_until_now_is_not_idle() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Request]);
        let leaves = client(&session, |session| {
            assert_eq!(session.holders.release(HolderKind::Request, at(100)), Release::Quiet);
        });
        let idle = session.holders.close_if_idle(Duration::from_millis(10), at(100));
        assert!(idle != Idle::Closed, "evicted for idleness at its last use");
        leaves.join().unwrap();
    });
}

/// A lost notification leaves the owner waiting for ever.
///
/// Bounded: with four preemptions of a thread there are minutes of interleavings. Both mistakes need two.
pub(crate) fn the_last_holder_of_a_session_that_had_a_stream_is_noticed() {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(3);
    bounded.check(|| {
        let session = Session::held_by(&[HolderKind::Stream]);
        let stream = client(&session, |session| session.leave(HolderKind::Stream));
        let request = client(&session, |session| {
            if session.holders.acquire(HolderKind::Request) {
                session.leave(HolderKind::Request);
            }
        });
        session.attend_until(Session::end_if_unheld);
        stream.join().unwrap();
        request.join().unwrap();
    });
}

/// A worker that is reused waits for the last holder of its old session.
pub(crate) fn the_last_holder_of_an_ended_session_is_noticed() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Request, HolderKind::Request]);
        let clients =
            [(); 2].map(|()| client(&session, |session| session.leave(HolderKind::Request)));
        session.holders.close();
        let unheld = |session: &Session| session.holders.snapshot().holders == 0;
        if !unheld(&session) {
            session.attend_until(unheld);
        }
        for client in clients {
            client.join().unwrap();
        }
    });
}

/// A worker that is reused serves nobody while a command of its old session still runs, or is about to.
pub(crate) fn a_worker_is_handed_on_after_the_guests_of_its_session() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Request]);
        let holder = client(&session, |session| session.leave(HolderKind::Request));
        let guest = client(&session, |session| {
            if session.holders.enter().is_ok() {
                assert!(!session.dead.load(Ordering::SeqCst), "a guest of another session");
                if session.holders.leave() != Release::Quiet {
                    session.attention.list(&session.listed, || Arc::clone(session));
                }
            }
        });
        session.holders.close();
        let handed_on = |session: &Session| {
            let empty = session.holders.snapshot().is_empty();
            if empty {
                session.dead.store(true, Ordering::SeqCst);
            }
            empty
        };
        if !handed_on(&session) {
            session.attend_until(handed_on);
        }
        holder.join().unwrap();
        guest.join().unwrap();
    });
}

/// With `on_disconnect: ttl` the owner quietens a session without holders; only that absence.
pub(crate) fn a_stream_that_came_while_its_session_was_quietened_is_heard() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Stream]);
        assert_eq!(session.holders.release(HolderKind::Stream, at(1)), Release::Notify);
        let comes = client(&session, |session| {
            assert!(session.holders.acquire(HolderKind::Stream));
            let release = session.holders.release(HolderKind::Stream, at(2));
            assert_eq!(release, Release::Notify, "a stream left unheard");
        });
        let seen = session.holders.snapshot();
        if seen.holders == 0 {
            session.holders.quieten_if_unchanged(seen.sequence);
        }
        comes.join().unwrap();
    });
}

/// Both were about to get a stream of the same session.
pub(crate) fn clients_that_leave_together_unanswered_are_noticed() {
    loom::model(|| {
        let session = Session::held_by(&[HolderKind::Request, HolderKind::Request]);
        let notices = Arc::new(AtomicUsize::new(0));
        let clients = [(); 2].map(|()| {
            let notices = Arc::clone(&notices);
            client(&session, move |session| {
                let release = session.holders.release_unanswered(HolderKind::Request, at(1));
                notices.fetch_add(usize::from(release == Release::Notify), Ordering::SeqCst);
            })
        });
        for client in clients {
            client.join().unwrap();
        }
        assert_eq!(notices.load(Ordering::SeqCst), 1, "all left unheard");
        assert!(session.end_if_unheld());
    });
}

/// The hand-over itself is one thread's (the connection's); only the session's end is concurrent with it.
pub(crate) fn a_request_becomes_a_stream_without_a_gap() {
    hand_over(|session| {
        assert!(
            session.holders.acquire(HolderKind::Stream),
            "ended between request and stream"
        );
        session.leave(HolderKind::Request);
    });
}

pub(crate) fn a_gap_between_request_and_stream() {
    hand_over(|session| {
        session.leave(HolderKind::Request);
        assert!(
            session.holders.acquire(HolderKind::Stream),
            "ended between request and stream"
        );
    });
}

fn hand_over(switch: impl Fn(&Arc<Session>) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let session = Session::held_by(&[HolderKind::Stream, HolderKind::Request]);
        let before = client(&session, |session| session.leave(HolderKind::Stream));
        let upgrades = client(&session, move |session| {
            switch(session);
            session.assert_served();
            session.leave(HolderKind::Stream);
        });
        session.attend_until(Session::end_if_unheld);
        before.join().unwrap();
        upgrades.join().unwrap();
    });
}

/// A client leaves while the mailbox has no room for its wake-up. `room` plays the mailbox's semaphore: a
/// failed attempt reads it and orders nothing.
pub(crate) fn a_departure_is_heard_though_the_mailbox_is_full() {
    struct Mailbox {
        room: AtomicUsize,
        message: Notify,
        departures: Departures,
        reply_closed: AtomicBool,
    }
    loom::model(|| {
        let mailbox = Arc::new(Mailbox {
            room: AtomicUsize::new(0),
            message: Notify::new(),
            departures: Departures::new(),
            reply_closed: AtomicBool::new(false),
        });
        // The one that fills it.
        mailbox.message.notify_one();
        let leaves = thread::spawn({
            let mailbox = Arc::clone(&mailbox);
            move || {
                mailbox.reply_closed.store(true, Ordering::Release);
                mailbox.departures.announce();
                if mailbox.room.load(Ordering::Acquire) > 0 {
                    mailbox.room.fetch_sub(1, Ordering::AcqRel);
                    mailbox.message.notify_one();
                }
            }
        });
        let mut abandoned = false;
        while !abandoned {
            wait(mailbox.message.notified());
            mailbox.room.fetch_add(1, Ordering::AcqRel);
            abandoned = mailbox.departures.take() && mailbox.reply_closed.load(Ordering::Acquire);
        }
        leaves.join().unwrap();
    });
}

/// A session ends while a data-plane thread, which was granted it, is about to remember it
/// (`proxy::thread::Thread::claim`). The thread hears of endings one at a time, between its other deeds.
pub(crate) fn no_cache_keeps_an_ended_session() {
    end_and_insert(|session, ending| {
        session.holders.close();
        ending.tell();
    });
}

pub(crate) fn an_ending_told_before_the_close() {
    end_and_insert(|session, ending| {
        ending.tell();
        session.holders.close();
    });
}

struct Ending {
    told: Mutex<bool>,
    wake: Notify,
}

impl Ending {
    fn tell(&self) {
        *self.told.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

fn end_and_insert(end: impl Fn(&Session, &Ending) + Copy + Send + Sync + 'static) {
    loom::model(move || {
        let session = Session::held_by(&[HolderKind::Request]);
        let ending = Arc::new(Ending {
            told: Mutex::new(false),
            wake: Notify::new(),
        });
        let driver = client(&session, {
            let ending = Arc::clone(&ending);
            move |session| end(session, &ending)
        });
        let mut heard = ending.take();
        let mut cached = !session.holders.snapshot().closed;
        while !heard {
            wait(ending.wake.notified());
            heard = ending.take();
            cached = false;
        }
        driver.join().unwrap();
        assert!(!cached, "the cache keeps an ended session");
    });
}
