//! A share of all: `0.01`, `1/100`.

use std::fmt;

use schemars::json_schema;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::model::Share;
use super::schema::inline_schema;

/// As it is written in herd.yaml.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShareText(pub(super) Share);

struct ShareVisitor;

impl ShareVisitor {
    fn share<E: de::Error>(number: f64) -> Result<ShareText, E> {
        Share::new(number).map(ShareText).ok_or_else(|| {
            E::custom(format!(
                "is {number}; write 0 to 1, e.g. 0.01 for one in a hundred"
            ))
        })
    }
}

impl Visitor<'_> for ShareVisitor {
    type Value = ShareText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share from 0 to 1, such as 0.01 or 1/100")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ShareText, E> {
        Self::share(number as f64)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<ShareText, E> {
        Self::share(number)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ShareText, E> {
        let of = || {
            let (part, whole) = text.split_once('/')?;
            let (part, whole): (u32, u32) = (part.parse().ok()?, whole.parse().ok()?);
            (whole > 0).then(|| f64::from(part) / f64::from(whole))
        };
        match of() {
            Some(number) => Self::share(number),
            None => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for ShareText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShareVisitor)
    }
}

inline_schema!(
    ShareText,
    json_schema!({ "type": ["number", "string"], "minimum": 0, "maximum": 1, "pattern": "^[0-9]+/[0-9]+$" })
);
