//! Clients that are gone without a word: nothing comes from them any more, not even an acknowledgement.
//!
//! Where nothing is under way the kernel's keep-alive finds out. Where something is, it would give up after a quarter of an
//! hour, or with TCP_USER_TIMEOUT also on a client that is well and only does not read for a while: a paused browser, a
//! reader slower than its answer. So each thread looks by itself at what the kernel knows of its connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::sys::tcp;

/// So many looks in the time after which a client counts as gone.
const LOOKS: u32 = 8;
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Connections looked at before others on the thread have their turn.
const AT_ONCE: usize = 256;

/// The clients of one thread, by the descriptors of their connections.
#[derive(Debug, Default)]
pub(crate) struct Peers(RefCell<HashMap<RawFd, Peer>>);

#[derive(Debug, Clone, Copy)]
struct Peer {
    /// Its connection may be closed before it is forgotten, and the descriptor's number then be somebody else's.
    cookie: u64,
    /// So many looks in a row it owed an acknowledgement, and none had come since the look before.
    silent: u32,
}

/// The client is watched until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    peers: &'a Peers,
    socket: RawFd,
    cookie: u64,
}

impl Peers {
    pub(crate) fn watch(&self, socket: RawFd) -> std::io::Result<Watched<'_>> {
        let cookie = tcp::cookie(socket)?;
        let peer = Peer { cookie, silent: 0 };
        self.0.borrow_mut().insert(socket, peer);
        Ok(Watched {
            peers: self,
            socket,
            cookie,
        })
    }

    /// Aborts the connections of those that are gone. Runs as long as the thread.
    pub(crate) async fn look_after(&self, dead_after: impl Fn() -> Duration) {
        let mut last = Instant::now();
        loop {
            let pause = (dead_after() / LOOKS).max(SHORTEST_PAUSE);
            sleep(pause).await;
            // Longer than the pause on a machine that has no time.
            let since = last.elapsed();
            last = Instant::now();
            let sockets: Vec<RawFd> = self.0.borrow().keys().copied().collect();
            for some in sockets.chunks(AT_ONCE) {
                some.iter().for_each(|socket| self.look(*socket, since));
                tokio::task::yield_now().await;
            }
        }
    }

    fn look(&self, socket: RawFd, since: Duration) {
        let mut peers = self.0.borrow_mut();
        let Some(peer) = peers.get_mut(&socket) else {
            return;
        };
        match tcp::unanswered(socket) {
            Ok(Some(long)) if long >= since => peer.silent += 1,
            _ => peer.silent = 0,
        }
        if peer.silent < LOOKS {
            return;
        }
        // The socket is this thread's, so nobody closes it between this question and the deed.
        if tcp::cookie(socket).is_ok_and(|cookie| cookie == peer.cookie) {
            tracing::debug!("a client is gone without a word");
            let _ = tcp::abort(socket);
        }
        peers.remove(&socket);
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut peers = self.peers.0.borrow_mut();
        if peers
            .get(&self.socket)
            .is_some_and(|peer| peer.cookie == self.cookie)
        {
            peers.remove(&self.socket);
        }
    }
}
