//! The `liveness` of a kind: as it is written, and what it comes to.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::model;
use super::text::{FromText as _, HealthPath};
use super::units::{Count, PositiveTime};

/// Shorter pauses would make herd a load on its workers.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const MOST_FAILURES: usize = 1000;

const EXPECTING: &str = "off, a path, or settings such as {path: /healthz, interval: 10s}";

/// `off`, a path, or settings.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    Off,
    On(Settings),
}

#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "off, a path, or settings such as {path: /healthz, interval: 10s}"
)]
#[schemars(rename = "Liveness", extend("required" = ["path"]))]
pub(super) struct Settings {
    /// A worker is alive as long as a GET of this path answers 200 to 399. Required.
    pub(super) path: Option<HealthPath>,
    /// Time between two probes, at least 100ms. Default: 10s.
    pub(super) interval: Option<PositiveTime>,
    /// A probe that is not answered within this has failed. Default: 2s.
    pub(super) timeout: Option<PositiveTime>,
    /// So many failures in a row end the worker, 1 to 1000. Default: 3.
    pub(super) failures: Option<Count>,
}

struct ChoiceVisitor;

impl<'de> Visitor<'de> for ChoiceVisitor {
    type Value = Choice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTING)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Choice, E> {
        if text == "off" {
            return Ok(Choice::Off);
        }
        let path = HealthPath::from_text(text).map_err(E::custom)?;
        Ok(Choice::On(Settings {
            path: Some(path),
            ..Settings::default()
        }))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Choice, E> {
        Err(match value {
            true => E::custom("is the truth value true; write the path to ask for, e.g. /healthz"),
            false => E::custom("is the truth value false; write off"),
        })
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Choice, M::Error> {
        Settings::deserialize(de::value::MapAccessDeserializer::new(map)).map(Choice::On)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

impl JsonSchema for Choice {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("LivenessChoice")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<Settings>();
        json_schema!({ "anyOf": [{ "const": "off" }, { "type": "string", "pattern": "^/" }, settings] })
    }
}

/// What is wrong with it, by the key below `liveness`; no key: as a whole.
pub(super) fn validated(
    choice: Option<Choice>,
) -> Result<Option<model::Liveness>, Vec<(Option<&'static str>, String)>> {
    let Some(Choice::On(settings)) = choice else {
        return Ok(None);
    };
    let mut wrong = Vec::new();
    let interval = settings.interval.map_or(Duration::from_secs(10), |time| time.0);
    if interval < SHORTEST_INTERVAL {
        wrong.push((
            Some("interval"),
            "is too short; write at least 100ms, e.g. 10s".to_owned(),
        ));
    }
    let failures = settings.failures.map_or(3, |count| count.0);
    if !(1..=MOST_FAILURES).contains(&failures) {
        wrong.push((
            Some("failures"),
            "is out of range; write 1 to 1000, e.g. 3".to_owned(),
        ));
    }
    if settings.path.is_none() {
        wrong.push((None, "has no path; write e.g. {path: /healthz}".to_owned()));
    }
    match settings.path {
        Some(HealthPath(path)) if wrong.is_empty() => Ok(Some(model::Liveness {
            path,
            interval,
            timeout: settings.timeout.map_or(Duration::from_secs(2), |time| time.0),
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
        })),
        _ => Err(wrong),
    }
}
