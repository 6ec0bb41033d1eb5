//! A client connection, as its requests see it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::core::{HolderKind, SessionId};
use crate::driver::Hold;
use crate::proxy::fields::{Present, Sender, Trust};
use crate::proxy::gate::Line;
use crate::proxy::record::{Peer, Record};
use crate::proxy::thread::{Claim, Local};
use crate::proxy::tunnel::Talk;
use crate::proxy::upstream::WorkerIo;

/// What all requests of one client connection share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(super) sender: Sender,
    /// HTTP/1 only.
    pub(crate) line: Option<Rc<Line>>,
    /// HTTP/1.0: an answer without a length ends with the connection, so that one which is cut looks whole.
    pub(crate) old: Cell<bool>,
    /// Set with an answer of 101; the connection's owner takes it.
    pub(crate) upgrade: RefCell<Option<Upgrade>>,
    /// `bind: connection`: one per session, until the connection closes.
    holds: RefCell<HashMap<SessionId, Hold>>,
}

/// A tunnel whose worker side stands.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) worker: oneshot::Receiver<(WorkerIo, Bytes)>,
    pub(crate) talk: Talk,
    pub(crate) hold: Hold,
    pub(crate) record: Option<Rc<Record>>,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, sender: Sender, line: Option<Rc<Line>>) -> Rc<Self> {
        Rc::new(Self {
            peer,
            sender,
            line,
            old: Cell::new(false),
            upgrade: RefCell::new(None),
            holds: RefCell::default(),
        })
    }

    /// Where a request comes from. What a proxy passes on may come from anywhere, also where the proxy is not one that is
    /// trusted and has merely left its mark.
    pub(crate) fn local(&self, fields: Present) -> Local {
        let is_loopback = self.peer.ip().to_canonical().is_loopback();
        match self.sender.trust() {
            Trust::Untrusted if is_loopback && !fields.forwarded => Local::Loopback,
            _ => Local::Remote,
        }
    }

    pub(super) fn as_peer(&self) -> Peer {
        Peer {
            address: self.peer,
            trust: self.sender.trust(),
            scheme: self.sender.scheme(),
        }
    }

    pub(super) fn hold_connection(&self, claim: &Claim) {
        let session = &claim.bound.session;
        let mut holds = self.holds.borrow_mut();
        if holds
            .get(&session.name.id)
            .is_some_and(|hold| Arc::ptr_eq(hold.session(), session))
        {
            return;
        }
        // A hold of an earlier incarnation is dropped here.
        if let Some(hold) = session.hold(HolderKind::Connection) {
            holds.retain(|_, hold| !hold.session().is_closed());
            holds.insert(session.name.id.clone(), hold);
        }
    }
}
