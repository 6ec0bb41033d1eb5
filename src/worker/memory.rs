//! What this host has left for workers with a limit of memory.
//!
//! A worker that has begun may use all that it was promised, and mostly does not yet. So what is free now is not free:
//! from what is available, what every living worker may still come to need is set apart.
//!
//! ```text
//! left = the less of (MemAvailable, what the limits of herd's own control groups leave)
//!        − sum over living workers with a limit of (limit − what it needs now)
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::Memory;
use crate::sandbox::cgroup::{GroupId, Hierarchies, Own};
use crate::sys::host::available_memory;

/// A reading is good for this long, or for so many times as long as it took, so that herd spends no more than a
/// fiftieth of its time on them however many workers there are.
const GOOD_FOR: Duration = Duration::from_millis(100);
const SHARE: u32 = 50;

/// Most that workers could ever have, bytes. `None`: the kernel does not tell.
pub fn most_memory() -> Option<u64> {
    let (_, total) = available_memory()?;
    let own = Own::find().room();
    Some(own.map_or(total, |own| total.min(own.limit)))
}

/// What a worker was promised.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    /// Bytes.
    pub(super) limit: u64,
    /// Where its use is counted, once it has a sandbox.
    pub(super) group: Option<GroupId>,
}

/// Weighs what is left.
#[derive(Debug, Default)]
pub(super) struct Scales {
    groups: Arc<Hierarchies>,
    own: Own,
    next: Option<Instant>,
}

impl Scales {
    pub(super) fn new(groups: Arc<Hierarchies>) -> Self {
        Self {
            groups,
            own: Own::find(),
            next: None,
        }
    }

    /// The last reading is not good any more.
    pub(super) fn forget(&mut self) {
        self.next = None;
    }

    /// `None`: the last reading is still good, or the kernel does not tell.
    pub(super) fn weigh(&mut self, promises: impl Iterator<Item = Promise>) -> Option<Memory> {
        let began = Instant::now();
        if self.next.is_some_and(|next| began < next) {
            return None;
        }
        let host = available_memory();
        let unused = promises.map(|promise| {
            let needed = promise.group.and_then(|group| self.groups.needed_by(group));
            promise.limit.saturating_sub(needed.unwrap_or(0))
        });
        let promised = unused.fold(0, u64::saturating_add);
        let own = self.own.room();
        self.next = Some(began + GOOD_FOR.max(began.elapsed() * SHARE));
        let (available, total) = host?;
        let (free, limit) = own.map_or((u64::MAX, u64::MAX), |own| (own.free, own.limit));
        Some(Memory {
            left: available.min(free).saturating_sub(promised),
            total: total.min(limit),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_not_left_and_a_reading_is_good_for_a_while() {
        let promise = |limit| Promise { limit, group: None };
        let mut scales = Scales::new(Arc::default());
        let before = scales.weigh(std::iter::empty()).unwrap();
        assert!(before.left <= before.total && before.left > 0, "{before:?}");
        assert_eq!(scales.weigh(std::iter::empty()), None, "just read");
        // Everything there is has been promised, and more than a number can tell.
        for promises in [[before.total, 0], [u64::MAX, u64::MAX]] {
            scales.forget();
            let after = scales.weigh(promises.into_iter().map(promise)).unwrap();
            assert_eq!((after.left, after.total), (0, before.total));
        }
    }
}
