//! How many requests per time: one atomic number for all threads, so that the limit is exact whichever thread a request
//! comes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::core::{self, Rate};

#[derive(Debug)]
pub(super) struct Bucket {
    epoch: Instant,
    bucket: core::Bucket,
    /// When it will be full, since the epoch.
    full_at: AtomicU64,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            epoch: Instant::now(),
            bucket: core::Bucket::of(rate),
            full_at: AtomicU64::new(0),
        }
    }

    /// The same bucket, if it holds and fills at this rate; else a new one, which lacks as much as the old one does.
    pub(super) fn with(self: &Arc<Self>, rate: Rate) -> Arc<Self> {
        let bucket = core::Bucket::of(rate);
        if bucket == self.bucket {
            return Arc::clone(self);
        }
        let full_at = self.full_at.load(Ordering::Relaxed);
        let full_at = bucket.after(self.bucket, full_at, self.at(Instant::now()));
        Arc::new(Self {
            epoch: self.epoch,
            bucket,
            full_at: AtomicU64::new(full_at),
        })
    }

    /// `Err`: after this time there would be room.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = self.at(now);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let after = self.bucket.take(full_at, now)?;
            // Nothing else is published by it, so that the number alone has to be right.
            match self
                .full_at
                .compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(changed) => full_at = changed,
            }
        }
    }

    fn at(&self, now: Instant) -> u64 {
        core::Bucket::nanos(now.saturating_duration_since(self.epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_one_limit() {
        let bucket = Bucket::new(Rate {
            number: 1,
            per: Duration::from_secs(1),
            burst: 50,
        });
        let now = bucket.epoch;
        let admitted: usize = std::thread::scope(|scope| {
            let ask = || (0..100).filter(|_| bucket.take(now).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 50);
    }
}
