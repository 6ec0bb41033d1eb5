//! The `liveness` of a kind: as it is written, and what it comes to.

use std::time::Duration;

use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;
use serde::de;

use super::model;
use super::switch::{Switch, Switched, Wrong};
use super::text::{FromText as _, HealthPath};
use super::units::{Count, PositiveTime};

/// Shorter pauses would make herd a load on its workers.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const MOST_FAILURES: usize = 1000;

/// `off`, a path, or settings.
pub(super) type Choice = Switch<Settings>;

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

impl Switched for Settings {
    const EXPECTING: &'static str = "off, a path, or settings such as {path: /healthz, interval: 10s}";
    const INSTEAD_OF_TRUE: &'static str = "the path to ask for, e.g. /healthz";

    fn from_word<E: de::Error>(path: &str) -> Result<Self, E> {
        let path = HealthPath::from_text(path).map_err(E::custom)?;
        Ok(Self {
            path: Some(path),
            ..Self::default()
        })
    }

    fn word_schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }
}

pub(super) fn validated(choice: Option<Choice>) -> Result<Option<model::Liveness>, Vec<Wrong>> {
    let Some(Switch::On(settings)) = choice else {
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
