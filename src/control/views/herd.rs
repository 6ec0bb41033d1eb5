//! herd as a whole: whether it is ready, what a drain or a reload has begun, and which herd it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::build::Build;
use crate::driver;

/// `GET /readyz`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// New sessions are admitted.
    pub ready: bool,
    pub draining: bool,
    /// Kinds whose sessions are refused for now because their workers do not start.
    pub failing: Vec<String>,
}

/// `POST /v1/drain`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    pub draining: bool,
    /// Sessions that were still bound when the drain was asked for.
    pub bound: usize,
}

/// `POST /v1/reload`: the file is in force. Kinds that are not named are as they were.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// Counts the configurations that were loaded.
    pub config_generation: u64,
    pub added: Vec<String>,
    /// Kinds whose workers are replaced: warm ones now, bound ones as their sessions end.
    pub renewed: Vec<String>,
    /// Kinds of which only the rules have changed.
    pub adjusted: Vec<String>,
    pub removed: Vec<String>,
}

/// `GET /v1/version`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    pub version: String,
    pub build: Build,
    pub pid: u32,
    /// Where sessions are reached.
    pub data_url: String,
    /// The header that names the session.
    pub session_header: String,
    /// The configuration in force; each that was loaded counts one more.
    pub config_generation: u64,
    /// RFC 3339, UTC.
    pub started: String,
    pub uptime_ms: u64,
}

impl From<driver::Reloaded> for Reloaded {
    fn from(reloaded: driver::Reloaded) -> Self {
        let driver::Reloaded {
            generation,
            added,
            renewed,
            adjusted,
            removed,
        } = reloaded;
        Self {
            config_generation: generation.0,
            added,
            renewed,
            adjusted,
            removed,
        }
    }
}
