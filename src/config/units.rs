//! Durations and sizes as they are written in herd.yaml.

use std::fmt;
use std::time::Duration;

use schemars::json_schema;
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

use super::schema::inline_schema;

const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const DURATION: &str = "a duration with its unit, such as 250ms, 30s, 15m or 1h30m";
const DURATION_PATTERN: &str = "^([0-9]+(ms|s|m|h|d))+$";

/// `250ms`, `30s`, `15m`, `1h30m`, `2d`; at most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// A duration above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PositiveTime(pub(super) Duration);

/// A duration, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeOrNever(pub(super) Option<Duration>);

/// Bytes: `256K`, `1M`, `2G` (powers of 1024), or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

/// A whole number from 0 to a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize);

#[derive(Debug, Clone, PartialEq, Eq)]
enum DurationError {
    NoUnit,
    Malformed,
    TooLong,
}

fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or(DurationError::NoUnit)?;
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return Err(DurationError::Malformed);
        }
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(DurationError::Malformed),
        };
        let part = number.checked_mul(milliseconds).ok_or(DurationError::TooLong)?;
        total = total.saturating_add(Duration::from_millis(part));
        rest = after;
    }
    if total > LONGEST {
        Err(DurationError::TooLong)
    } else {
        Ok(total)
    }
}

fn duration_error<E: de::Error>(text: &str, error: &DurationError) -> E {
    let text = text.escape_debug();
    match error {
        DurationError::NoUnit => E::custom(format!("has no unit; write {text}s for seconds, or {text}ms")),
        DurationError::Malformed => E::custom(format!("\"{text}\" is not a duration; write {DURATION}")),
        DurationError::TooLong => E::custom(format!(
            "\"{text}\" is longer than ten years; write at most 3650d"
        )),
    }
}

/// Reads a duration, or hands other words to `word`.
struct DurationVisitor<T> {
    expecting: &'static str,
    duration: fn(Duration) -> Result<T, &'static str>,
    word: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for DurationVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        if let Some(value) = (self.word)(text) {
            return Ok(value);
        }
        let duration = parse_duration(text).map_err(|e| duration_error(text, &e))?;
        (self.duration)(duration).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        if number < 0 {
            return Err(E::invalid_type(Unexpected::Signed(number), &self));
        }
        Err(duration_error(&number.to_string(), &DurationError::NoUnit))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = DurationVisitor {
            expecting: DURATION,
            duration: |d| Ok(Self(d)),
            word: |_| None,
        };
        deserializer.deserialize_any(visitor)
    }
}

impl<'de> Deserialize<'de> for PositiveTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = |d: Duration| {
            if d.is_zero() {
                Err("cannot be zero; write e.g. 30s")
            } else {
                Ok(Self(d))
            }
        };
        deserializer.deserialize_any(DurationVisitor {
            expecting: DURATION,
            duration,
            word: |_| None,
        })
    }
}

impl<'de> Deserialize<'de> for TimeOrNever {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor {
            expecting: "a duration with its unit, such as 30s, 15m or 1h30m, or never",
            duration: |d| Ok(Self(Some(d))),
            word: |word| (word == "never").then_some(Self(None)),
        })
    }
}

/// Bytes, as herd.yaml and the command line have them: `4096`, `64K`, `1MiB`.
pub fn size(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 64K, 1M or a number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        size(text)
            .map(Size)
            .ok_or_else(|| E::invalid_type(Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
        let bytes =
            usize::try_from(number).map_err(|_| E::invalid_type(Unexpected::Signed(number), &self))?;
        Ok(Size(bytes))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number such as 5")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
        if number > 1_000_000 {
            return Err(E::custom(format!("is {number}; write at most 1000000")));
        }
        let count =
            usize::try_from(number).map_err(|_| E::invalid_type(Unexpected::Signed(number), &self))?;
        Ok(Count(count))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

inline_schema!(
    Time,
    json_schema!({ "type": "string", "pattern": DURATION_PATTERN })
);
inline_schema!(
    PositiveTime,
    json_schema!({ "type": "string", "pattern": DURATION_PATTERN })
);
inline_schema!(
    TimeOrNever,
    json_schema!({ "type": "string", "pattern": "^(never|([0-9]+(ms|s|m|h|d))+)$" })
);
inline_schema!(
    Size,
    json_schema!({ "type": ["string", "integer"], "pattern": "^[0-9]+([KMG](iB)?)?$", "minimum": 0 })
);
inline_schema!(
    Count,
    json_schema!({ "type": "integer", "minimum": 0, "maximum": 1_000_000 })
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("15m"), Ok(900_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("2d"), Ok(172_800_000));
        assert_eq!(ms("0s"), Ok(0));
        assert_eq!(ms("30"), Err(DurationError::NoUnit));
        assert_eq!(ms("1m30"), Err(DurationError::NoUnit));
        for wrong in ["", "s", "5 m", "1.5h", "-1s", "5min", "5M", "never"] {
            assert_eq!(ms(wrong), Err(DurationError::Malformed), "{wrong}");
        }
        assert_eq!(ms("99999999999999999999s"), Err(DurationError::TooLong));
        assert_eq!(ms("9999999999999999999d"), Err(DurationError::TooLong));
        assert_eq!(ms("3651d"), Err(DurationError::TooLong));
    }
}
