//! Which build of herd this is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Build {
    /// The commit that it was built from, `-dirty` if there were changes; null where that is not known, as in debug builds.
    pub commit: Option<String>,
    /// What it was built for, e.g. `x86_64-unknown-linux-gnu`.
    pub target: String,
    /// The version of the compiler.
    pub rustc: String,
}

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Build {
    pub fn this() -> Self {
        let commit = env!("HERD_BUILD_COMMIT");
        Self {
            commit: (!commit.is_empty()).then(|| commit.to_owned()),
            target: env!("HERD_BUILD_TARGET").to_owned(),
            rustc: env!("HERD_BUILD_RUSTC").to_owned(),
        }
    }
}

impl std::fmt::Display for Build {
    /// `0f8076aa4f12, x86_64-unknown-linux-gnu, rustc 1.95.0`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            commit,
            target,
            rustc,
        } = self;
        let commit = commit.as_deref().unwrap_or("unknown commit");
        write!(f, "{commit}, {target}, rustc {rustc}")
    }
}
