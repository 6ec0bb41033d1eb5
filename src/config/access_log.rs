//! `access_log`: a line for each request of the data plane.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::{self, LogTarget, Query, SessionShown, Share};
use super::raw::words;
use super::share::ShareText;
use super::text::{FromText, from_text};
use super::validate::Judge;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "keys and values, e.g. {path: /var/log/herd/access.log}"
)]
pub(super) struct AccessLog {
    /// A file that lines are added to, made with mode 0640 where there is none; or `stdout`. Required.
    path: Option<LogPath>,
    /// The share of requests that are written: `0.01` or `1/100`. Errors are always written. Default: 1.
    sample: Option<ShareText>,
    /// Whether the query is written, without what of it is herd's. It often holds what should stay secret. Default: false.
    query: Option<bool>,
    /// How session ids are written: `plain` (default), `hash` (of their SHA-256 16 digits), or `omit`.
    session: Option<Shown>,
}

words! {
    Shown { Plain = "plain", Hash = "hash", Omit = "omit" }
}

/// A file, or the word `stdout`.
#[derive(Debug, Clone)]
pub(super) struct LogPath(LogTarget);

from_text!(LogPath);

impl FromText for LogPath {
    const EXPECTING: &'static str = "a file such as /var/log/herd/access.log, or stdout";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "stdout" => Ok(Self(LogTarget::Stdout)),
            text if text.is_empty() || text.contains('\0') => {
                Err("is not a path; write e.g. /var/log/herd/access.log, or stdout".to_owned())
            }
            text => Ok(Self(LogTarget::File(PathBuf::from(text)))),
        }
    }
}

impl Judge<'_> {
    /// `None`: something is wrong with it, which is reported.
    pub(super) fn access_log(&mut self, raw: AccessLog) -> Option<model::AccessLog> {
        let Some(LogPath(to)) = raw.path else {
            if !self.problems.mentions("access_log.path") && !self.problems.mentions("access_log") {
                self.at_key(
                    &["access_log"],
                    "has no path; write e.g. {path: /var/log/herd/access.log}, or {path: stdout}",
                );
            }
            return None;
        };
        Some(model::AccessLog {
            to,
            sample: raw.sample.map_or(Share::ALL, |share| share.0),
            query: match raw.query {
                Some(true) => Query::Kept,
                Some(false) | None => Query::LeftOut,
            },
            session: match raw.session {
                Some(Shown::Plain) | None => SessionShown::Plain,
                Some(Shown::Hash) => SessionShown::Hash,
                Some(Shown::Omit) => SessionShown::Omit,
            },
        })
    }
}
