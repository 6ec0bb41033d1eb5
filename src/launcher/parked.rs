//! What ties the launcher to a keeper: a pair of sockets. By it mount namespaces outlive their processes by a moment, and
//! commands reach the keeper of a bare worker.
//!
//! Whose exit is the last of a mount namespace waits until every processor has noticed that its mounts are gone; the
//! overlay of a bundle is one more such wait. That is a worker's exit, or its keeper's, and a death is over when both
//! are. So the launcher holds each namespace until it has told of the death, and lets go of it when it has nothing
//! better to do.
//!
//! It never opens one: a keeper, and a sandbox's init, send theirs to a socket that nobody reads, and what waits in
//! there is held. Whatever becomes of the launcher, the kernel closes its socket, and with it what it holds.
//!
//! In the other direction the launcher passes on what herd asks of a keeper: rarely, so herd needs no descriptor of its
//! own for each worker. (The keeper of a sandbox is asked for connections all the time, and has a socket to herd.)

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::fd;

use super::wire::{self, Ask};

/// The launcher's end, never read.
#[derive(Debug)]
pub(super) struct Parked(OwnedFd);

impl Parked {
    /// Asks the keeper, if it listens: the launcher waits for nobody.
    pub(super) fn ask(&self, ask: &Ask, line: BorrowedFd<'_>) {
        // Whoever asks sees the line close where this fails.
        let _ = wire::make_room(&self.0)
            .and_then(|()| fd::set_nonblocking(&self.0))
            .and_then(|()| wire::send(self.0.as_fd(), ask, &[line]));
    }
}

/// Where a keeper sends its namespaces to, and hears of commands.
#[derive(Debug)]
pub(super) struct Parking(OwnedFd);

impl From<Parking> for OwnedFd {
    fn from(parking: Parking) -> Self {
        parking.0
    }
}

/// `None` where half of the descriptors that the launcher may have are taken: it needs some to make processes with, and
/// without this a death takes longer, a bare worker can run no commands, and that is all.
pub(super) fn make(limit: u64) -> Option<(Parked, Parking)> {
    let (ours, theirs) = fd::packet_pair().ok()?;
    let few = u64::try_from(ours.as_raw_fd()).is_ok_and(|number| number < limit / 2);
    few.then_some((Parked(ours), Parking(theirs)))
}

impl AsFd for Parking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Has the calling process's mount namespace held. Best effort: without it, its end takes a little longer.
pub(super) fn park(parking: BorrowedFd<'_>) {
    if let Ok(namespace) = File::open("/proc/self/ns/mnt") {
        let _ = fd::send_packet(parking, b"m", &[namespace.as_fd()]);
    }
}

/// Of the dead, to be let go.
#[derive(Debug, Default)]
pub(super) struct Leftovers(VecDeque<Parked>);

impl Leftovers {
    /// More than this many are not held for want of a better moment.
    const MOST: usize = 16;

    pub(super) fn push(&mut self, parked: Parked) {
        self.0.push_back(parked);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.0.len() > Self::MOST
    }

    /// One, because it may take milliseconds.
    pub(super) fn drop_one(&mut self) {
        drop(self.0.pop_front());
    }
}
