//! Tokens for sessions.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The body of `POST /v1/sessions/{id}/token`; none is as good as `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewToken {
    /// How long it is good for, milliseconds: 1000 (a second) to 86400000 (a day); else ten minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "whole")]
    #[schemars(range(min = 1000, max = 86_400_000))]
    pub ttl_ms: Option<u64>,
    /// Good for this kind of worker only; else for any that the principal may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// JSON knows one kind of number: 1000.0 is a whole one, too.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else {
        return Ok(None);
    };
    let exact = |float: f64| (float.fract() == 0.0 && (0.0..1e15).contains(&float)).then_some(float as u64);
    let whole = number.as_u64().or_else(|| number.as_f64().and_then(exact));
    whole
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{number} is not a whole number of milliseconds")))
}

/// A signed token for one session.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    pub token: String,
    pub id: String,
    pub principal: String,
    pub worker: Option<String>,
    /// RFC 3339, UTC.
    pub expires: String,
    /// The data port with the token in its query.
    pub url: String,
    /// The cookie and the query parameter that may carry it.
    pub cookie: String,
    pub query: String,
}
