//! That somebody left while waiting. The wake-up goes through the mailbox, which may be full; the word of it may
//! not be lost for that.

use super::sync::{AtomicBool, Ordering};

#[derive(Debug)]
pub(super) struct Departures(AtomicBool);

impl Departures {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Told after the leaving itself, and before the attempt to wake the driver. A swap, not a store: a driver
    /// that misses it has its look before this, and so has the room in its mailbox that the look was for;
    /// the wake-up then fits in.
    pub(super) fn announce(&self) {
        self.0.swap(true, Ordering::AcqRel);
    }

    /// Whether anybody left since the last look. Taken after every message.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
