//! The shared side of a bound session: what the data plane keeps per session and uses without asking
//! the driver.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Kind;
use crate::core::{EndReason, HolderKind, Holders, KindId, Moment, NoGuest, Release, SessionRef, WorkerId};
use crate::worker::{Command, Endpoint, ExecError, KillSwitch, MOST_COMMANDS, Pulse, Running};

use super::attention::{Attention, Listed};
use super::clock::Clock;

/// One incarnation of a session, bound to one worker. Shared by all data-plane threads.
#[derive(Debug)]
pub struct Session {
    pub name: SessionRef,
    pub kind_id: KindId,
    pub kind: Arc<Kind>,
    pub worker: WorkerId,
    pub endpoint: Endpoint,
    /// Who moves the session's bytes notes it here.
    pub pulse: Arc<Pulse>,
    pub(super) holders: Arc<Holders>,
    pub(super) kill_switch: Option<Arc<KillSwitch>>,
    pub(super) end: watch::Sender<Option<EndReason>>,
    pub(super) attention: Arc<Attention<Arc<Session>>>,
    pub(super) listed: Listed,
    pub(super) clock: Clock,
    /// Since when it has its worker.
    pub(super) bound: Moment,
}

impl Session {
    /// Takes a hold without visiting the driver. `None`: the session has ended; attach anew.
    pub fn hold(self: &Arc<Self>, kind: HolderKind) -> Option<Hold> {
        self.holders.acquire(kind).then(|| Hold {
            session: Arc::clone(self),
            kind,
            client: Client::Answered,
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

    /// Runs a command beside its worker's program, in the same tree. That holds nothing: the session may end under it,
    /// and ends it. But the worker serves no other session before the guest has left.
    pub async fn exec(self: &Arc<Self>, command: Command) -> Result<(Running, Guest), ExecError> {
        let guest = Guest::enter(self)?;
        match &self.kill_switch {
            Some(switch) => Ok((switch.keeper().exec(command).await?, guest)),
            None => Err(ExecError::Gone(std::io::ErrorKind::NotConnected.into())),
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }
}

/// Something that goes on in a session's worker without keeping the session alive; to be dropped when it is over.
#[derive(Debug)]
pub struct Guest(Arc<Session>);

impl Guest {
    fn enter(session: &Arc<Session>) -> Result<Self, ExecError> {
        match session.holders.enter() {
            Ok(()) => Ok(Self(Arc::clone(session))),
            Err(NoGuest::Closed) => Err(ExecError::Ended),
            Err(NoGuest::Full) => Err(ExecError::Busy { most: MOST_COMMANDS }),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Self(session) = self;
        if session.holders.leave() != Release::Quiet {
            session.attention.list(&session.listed, || Arc::clone(session));
        }
    }
}

/// Whether a holder's client has its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Expected,
    Answered,
}

/// A holder; dropping it releases the session.
#[derive(Debug)]
pub struct Hold {
    session: Arc<Session>,
    kind: HolderKind,
    client: Client,
}

impl Hold {
    /// Wraps a hold that the core has already taken for this request.
    pub(super) fn granted(session: Arc<Session>, kind: HolderKind) -> Self {
        Self {
            session,
            kind,
            client: Client::Answered,
        }
    }

    /// Its client is about to get a stream, or a session of its own. Should it leave before it is answered,
    /// that counts as a stream that closed, unless somebody else holds the session. Otherwise a client that
    /// dies while it connects would leave its worker behind until the ttl.
    pub fn expect_client(&mut self) {
        self.client = Client::Expected;
    }

    /// The client has its answer, whatever that is.
    pub fn answered(&mut self) {
        self.client = Client::Answered;
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let session = &self.session;
        let release = match self.client {
            Client::Answered => session.holders.release(self.kind, session.now()),
            Client::Expected => session.holders.release_unanswered(self.kind, session.now()),
        };
        if release == Release::Left
            && let Some(switch) = &session.kill_switch
        {
            // Its end is certain and its client gone: the driver hears of it, but nothing waits for the driver.
            switch.kill();
        }
        if release != Release::Quiet {
            session.attention.list(&session.listed, || Arc::clone(session));
        }
    }
}
