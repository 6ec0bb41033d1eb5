//! The shared side of a bound session: what the data plane keeps per session and uses without asking
//! the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Kind;
use crate::core::{EndReason, HolderKind, Holders, KindId, Moment, Release, SessionRef, WorkerId};
use crate::worker::Endpoint;

use super::attention::Attention;
use super::clock::Clock;

/// One incarnation of a session, bound to one worker. Shared by all data-plane threads.
#[derive(Debug)]
pub struct Session {
    pub name: SessionRef,
    pub kind_id: KindId,
    pub kind: Arc<Kind>,
    pub worker: WorkerId,
    pub endpoint: Endpoint,
    pub(super) holders: Arc<Holders>,
    pub(super) end: watch::Sender<Option<EndReason>>,
    pub(super) attention: Arc<Attention>,
    /// On the attention list already; keeps that list bounded by the number of sessions.
    pub(super) listed: AtomicBool,
    pub(super) clock: Clock,
}

impl Session {
    /// Takes a hold without visiting the driver. `None`: the session has ended; attach anew.
    pub fn hold(self: &Arc<Self>, kind: HolderKind) -> Option<Hold> {
        self.holders.acquire(kind).then(|| Hold {
            session: Arc::clone(self),
            kind,
        })
    }

    /// Why it ended, if it has.
    pub fn ended(&self) -> Option<EndReason> {
        self.end.borrow().clone()
    }

    /// No new request can hold it any more. One atomic load.
    pub fn is_closed(&self) -> bool {
        self.holders.snapshot().closed
    }

    /// Resolves when the session has ended.
    pub async fn wait_end(&self) -> EndReason {
        let mut end = self.end.subscribe();
        loop {
            if let Some(reason) = end.borrow_and_update().clone() {
                return reason;
            }
            if end.changed().await.is_err() {
                // The sender lives in `self`, which outlives this borrow.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the session has ended, or with `None` after `limit`: for a caller that has seen a
    /// broken worker connection and has to tell a crash from a worker that merely hung up.
    pub async fn wait_end_for(&self, limit: Duration) -> Option<EndReason> {
        tokio::time::timeout(limit, self.wait_end()).await.ok()
    }

    /// For a client that is about to get a stream: should it leave before it is answered, that counts as a
    /// stream that closed. Otherwise a client that dies while it connects would leave its worker behind
    /// until the ttl.
    pub fn expect_client(self: &Arc<Self>) -> ExpectedClient {
        ExpectedClient {
            session: Some(Arc::clone(self)),
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }
}

/// A client that has no answer yet; see [`Session::expect_client`].
#[derive(Debug)]
pub struct ExpectedClient {
    session: Option<Arc<Session>>,
}

impl ExpectedClient {
    /// It has its answer, whatever that is.
    pub fn answered(mut self) {
        self.session = None;
    }
}

impl Drop for ExpectedClient {
    fn drop(&mut self) {
        // One holder may be this client's own request, on its way out. Others have the say themselves.
        if let Some(session) = self.session.take()
            && session.holders.snapshot().holders <= 1
        {
            drop(session.hold(HolderKind::Stream));
        }
    }
}

/// A holder; dropping it releases the session.
#[derive(Debug)]
pub struct Hold {
    session: Arc<Session>,
    kind: HolderKind,
}

impl Hold {
    /// Wraps a hold that the core has already taken for this request.
    pub(super) fn granted(session: Arc<Session>, kind: HolderKind) -> Self {
        Self { session, kind }
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.session.holders.release(self.kind, self.session.now()) == Release::Notify
            && !self.session.listed.swap(true, Ordering::AcqRel)
        {
            self.session.attention.push(Arc::clone(&self.session));
        }
    }
}
