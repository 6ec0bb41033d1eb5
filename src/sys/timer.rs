//! Pauses finer than tokio's, whose timers tick by the millisecond.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// From here on a millisecond more or less does not matter.
const COARSE: Duration = Duration::from_millis(5);

/// Resolves after `length`. Needs a tokio runtime with I/O and time; without a descriptor to spare it is as coarse as
/// tokio's.
pub async fn pause(length: Duration) {
    if length >= COARSE || fine(length).await.is_err() {
        tokio::time::sleep(length).await;
    }
}

async fn fine(length: Duration) -> io::Result<()> {
    let timer = TimerFd::new(
        ClockId::CLOCK_MONOTONIC,
        TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
    )?;
    // Zero would disarm it.
    let length = TimeSpec::from_duration(length.max(Duration::from_nanos(1)));
    timer.set(Expiration::OneShot(length), TimerSetTimeFlags::empty())?;
    super::fd::watched(timer.into())?.readable().await?.retain_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_pause_lasts_at_least_as_long_as_asked() {
        for length in [0, 100, 6000].map(Duration::from_micros) {
            let start = Instant::now();
            pause(length).await;
            assert!(start.elapsed() >= length);
        }
    }
}
