//! Making and holding sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::driver::Origin;

/// The body of `PUT /v1/sessions/{id}` and `POST /v1/sessions`; none is as good as `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewSession {
    /// The kind of worker that a new session gets, and an existing one must have; else the first kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    pub wait: Waiting,
}

/// What to do where no worker slot is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// Wait for one, as long as the kind's `queue` allows.
    #[default]
    Queue,
    /// Fail at once.
    Refuse,
}

/// A session that is being created: the answer to `Prefer: respond-async`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    pub id: String,
    pub principal: Option<String>,
}

/// First line of `GET /v1/sessions/{id}/hold`: held from now on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    pub id: String,
    pub principal: Option<String>,
    pub generation: u64,
    pub kind: String,
    pub worker: String,
    pub origin: HeldOrigin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldOrigin {
    Created,
    Reused,
}

/// Last line of a hold stream whose session ended under it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HoldEnded {
    pub ended: String,
    pub detail: String,
}

impl From<Origin> for HeldOrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Created => Self::Created,
            Origin::Reused => Self::Reused,
        }
    }
}
