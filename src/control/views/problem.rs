//! What went wrong (RFC 9457).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config;

/// RFC 9457 problem details.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    /// The same as the `X-Herd-Error` header.
    pub code: String,
    pub detail: String,
    /// The worker's last lines, where a start failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Every mistake of herd.yaml, where it is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Mistake>,
}

/// A mistake in herd.yaml.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, like `workers.browser.max`; empty where none is concerned.
    pub path: String,
    pub message: String,
    /// That line of the file; empty where no line says it.
    pub source: String,
}

impl From<config::Problem> for Mistake {
    fn from(problem: config::Problem) -> Self {
        let config::Problem {
            line,
            column,
            path,
            message,
            source,
        } = problem;
        Self {
            line,
            column,
            path,
            message,
            source,
        }
    }
}
