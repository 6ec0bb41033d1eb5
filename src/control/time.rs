//! Moments and spans of time as they stand in answers and queries.

use std::time::{Duration, SystemTime};

/// RFC 3339, in UTC with milliseconds. A moment before 1970 is shown as 1970's first.
pub(super) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// A moment as RFC 3339, or as a time before now: `10m`, `1h30m`.
pub(super) fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    // A bare 0, which humantime takes, may as well be meant as seconds since 1970.
    if let Ok(ago) = humantime::parse_duration(text)
        && text != "0"
    {
        return now.checked_sub(ago);
    }
    parse_rfc3339(text)
}

/// Also with an offset from UTC, `+01:00`, which humantime does not read.
fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let at = text.len().checked_sub("+00:00".len())?;
    let (local, offset) = text.split_at_checked(at)?;
    let (sign, hours, minutes) = match offset.as_bytes() {
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => (*sign, [*h1, *h2], [*m1, *m2]),
        _ => return humantime::parse_rfc3339(text).ok(),
    };
    let number = |digits: [u8; 2]| {
        let digits = digits.map(|digit| digit.wrapping_sub(b'0'));
        digits
            .iter()
            .all(|digit| *digit < 10)
            .then(|| u64::from(digits[0]) * 10 + u64::from(digits[1]))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let whole = local.ends_with(|last: char| last.is_ascii_digit());
    if !whole || hours > 23 || minutes > 59 {
        return None;
    }
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let offset = Duration::from_secs((hours * 60 + minutes) * 60);
    match sign {
        b'+' => local.checked_sub(offset),
        _ => local.checked_add(offset),
    }
}

/// Whether it is written as the API takes one.
pub fn is_moment(text: &str) -> bool {
    moment(text, SystemTime::now()).is_some()
}

/// Whole milliseconds, rounded down.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// To the microsecond: more digits say nothing.
pub(super) fn fine_millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn moments_are_written_as_date_and_time() {
        let at = UNIX_EPOCH + Duration::from_millis(951_782_400_007);
        assert_eq!(rfc3339(at), "2000-02-29T00:00:00.007Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn moments_are_read_as_written_or_as_a_time_ago() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        assert_eq!(moment("10m", now), Some(now - Duration::from_secs(600)));
        assert_eq!(moment("1970-01-01T02:46:40.000Z", now), Some(now));
        assert_eq!(moment("1970-01-01T03:46:40+01:00", now), Some(now));
        assert_eq!(moment("1970-01-01T00:16:40.000-02:30", now), Some(now));
        for wrong in [
            "",
            "0",
            "10",
            "yesterday",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00+0x:00",
            "1970-01-01T00:00:00Z+01:00",
        ] {
            assert_eq!(moment(wrong, now), None, "{wrong:?}");
        }
    }
}
