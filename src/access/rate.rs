//! How many requests per time: a token bucket, kept as the moment at which it will be full again (the "generic cell rate
//! algorithm"). One atomic number for all threads, so that the limit is exact whichever thread a request comes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::Rate;

#[derive(Debug)]
pub(super) struct Bucket {
    epoch: Instant,
    /// Nanoseconds that one request takes out, and that the full bucket holds.
    interval: u64,
    capacity: u64,
    /// When it will be full, in nanoseconds since the epoch.
    full_at: AtomicU64,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = (nanos(rate.per) / u64::from(rate.requests.max(1))).max(1);
        Self {
            epoch: Instant::now(),
            interval,
            capacity: interval.saturating_mul(u64::from(rate.burst.max(1))),
            full_at: AtomicU64::new(0),
        }
    }

    /// The same one, if it holds and fills at this rate; else another in which as much is missing, as far as it can be.
    pub(super) fn with(self: &Arc<Self>, rate: Rate) -> Arc<Self> {
        let mut next = Self::new(rate);
        if (next.interval, next.capacity) == (self.interval, self.capacity) {
            return Arc::clone(self);
        }
        let missing = self
            .full_at
            .load(Ordering::Relaxed)
            .saturating_sub(nanos(next.epoch.saturating_duration_since(self.epoch)));
        // In requests, which are what is counted.
        let requests = u128::from(missing) * u128::from(next.interval) / u128::from(self.interval);
        *next.full_at.get_mut() = u64::try_from(requests).unwrap_or(u64::MAX).min(next.capacity);
        Arc::new(next)
    }

    /// `Err`: after this time there would be room.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = nanos(now.saturating_duration_since(self.epoch));
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let after = full_at.max(now).saturating_add(self.interval);
            let over = after.saturating_sub(now).saturating_sub(self.capacity);
            if over > 0 {
                return Err(Duration::from_nanos(over));
            }
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
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(requests: u32, burst: u32) -> Bucket {
        Bucket::new(Rate {
            requests,
            per: Duration::from_secs(1),
            burst,
        })
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_then_one_per_interval() {
        let bucket = bucket(10, 3);
        let start = bucket.epoch;
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(99);
        assert_eq!(bucket.take(later), Err(Duration::from_millis(1)));
        let later = start + Duration::from_millis(100);
        assert_eq!(bucket.take(later), Ok(()));
        assert_eq!(bucket.take(later), Err(Duration::from_millis(100)));
    }

    #[test]
    fn what_is_not_used_is_kept_up_to_the_burst_only() {
        let bucket = bucket(10, 3);
        let later = bucket.epoch + Duration::from_secs(3600);
        let admitted = (0..10).filter(|_| bucket.take(later).is_ok()).count();
        assert_eq!(admitted, 3);
    }

    #[test]
    fn threads_share_one_limit() {
        let bucket = bucket(1, 50);
        let now = bucket.epoch;
        let admitted: usize = std::thread::scope(|scope| {
            let ask = || (0..100).filter(|_| bucket.take(now).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 50);
    }
}
