//! How many per time: a token bucket, kept as the moment at which it will be full again (the "generic cell rate
//! algorithm"). That is one number, which whoever counts keeps as it likes: plain, or atomic.

use std::time::Duration;

/// So many per time, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub number: u32,
    pub per: Duration,
    /// At least 1.
    pub burst: u32,
}

/// How much a bucket holds, and how fast it fills. Times are in nanoseconds since a moment that its owner chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// What one takes out, and what the full bucket holds.
    interval: u64,
    capacity: u64,
}

impl Bucket {
    /// One that has never been used is full at 0.
    pub fn of(rate: Rate) -> Self {
        let interval = (Self::nanos(rate.per) / u64::from(rate.number.max(1))).max(1);
        Self {
            interval,
            capacity: interval.saturating_mul(u64::from(rate.burst.max(1))),
        }
    }

    /// When it will be full, if one is taken out of it `now`. `Err`: after this time there would be one.
    pub fn take(self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let after = full_at.max(now).saturating_add(self.interval);
        let over = after.saturating_sub(now).saturating_sub(self.capacity);
        match over {
            0 => Ok(after),
            over => Err(Duration::from_nanos(over)),
        }
    }

    /// When this one will be full, if `now` as many are missing in it as in the one before, as far as it can be.
    pub fn after(self, before: Self, full_at: u64, now: u64) -> u64 {
        let missing = full_at.saturating_sub(now);
        let missing = u128::from(missing) * u128::from(self.interval) / u128::from(before.interval);
        let missing = u64::try_from(missing).unwrap_or(u64::MAX).min(self.capacity);
        now.saturating_add(missing)
    }

    /// A time as buckets count it.
    pub fn nanos(time: Duration) -> u64 {
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    fn bucket(number: u32, burst: u32) -> Bucket {
        let per = Duration::from_secs(1);
        Bucket::of(Rate { number, per, burst })
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_then_one_per_interval() {
        let bucket = bucket(10, 3);
        let full_at = (0..3).fold(0, |full_at, _| bucket.take(full_at, 0).unwrap());
        assert_eq!(bucket.take(full_at, 0), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(full_at, 99 * MILLI), Err(Duration::from_millis(1)));
        let full_at = bucket.take(full_at, 100 * MILLI).unwrap();
        assert_eq!(bucket.take(full_at, 100 * MILLI), Err(Duration::from_millis(100)));
    }

    #[test]
    fn what_is_not_used_is_kept_up_to_the_burst_only() {
        let bucket = bucket(10, 3);
        let later = 3_600_000 * MILLI;
        let mut full_at = 0;
        let admitted = std::iter::from_fn(|| {
            full_at = bucket.take(full_at, later).ok()?;
            Some(())
        });
        assert_eq!(admitted.take(10).count(), 3);
    }

    #[test]
    fn what_is_missing_goes_over_to_another_rate_as_far_as_its_burst_goes() {
        let (before, now) = (bucket(10, 3), 7 * MILLI);
        let full_at = before.take(before.take(0, now).unwrap(), now).unwrap();
        let slower = bucket(1, 5);
        assert_eq!(
            slower.after(before, full_at, now),
            2007 * MILLI,
            "two are missing"
        );
        let smaller = bucket(10, 1);
        assert_eq!(
            smaller.after(before, full_at, now),
            107 * MILLI,
            "no more than it holds"
        );
        assert_eq!(
            slower.after(before, full_at, 1000 * MILLI),
            1000 * MILLI,
            "full by now"
        );
    }
}
