//! What a line of the history says.

use std::io;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::time::{self, millis, rfc3339};
use super::super::views::{Sandbox, Session, State};
use crate::driver::{Burial, SessionView};

/// Why a session ended whose end no line tells. Beside the reasons of [`crate::core::EndReason`]: no herd sees it happen.
pub(in super::super) const HERD_DIED: &str = "herd_died";

/// Fields may be added; those that are not known are passed over, as are lines that are none of these.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Began {
        began: Beginning,
    },
    /// Nothing is to be concluded any more of sessions up to this generation whose end is not told.
    Settled {
        settled: u64,
    },
    Ended(Box<Kept>),
}

/// A session has its worker. As short as it can be: most are never read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Beginning {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) principal: Option<String>,
    pub(super) generation: u64,
    pub(super) kind: String,
    pub(super) sandbox: Sandbox,
    #[serde(default)]
    pub(super) config_generation: Option<u64>,
    #[serde(default)]
    pub(super) worker: Option<String>,
    #[serde(default)]
    pub(super) pid: Option<i32>,
    pub(super) created: String,
    pub(super) run: String,
}

/// A session has ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) session: Session,
    /// The worker's last lines, escaped.
    #[serde(default)]
    pub(super) log: Vec<String>,
}

impl Line {
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Began { began } => began.generation,
            Self::Settled { settled } => *settled,
            Self::Ended(kept) => kept.session.generation,
        }
    }
}

impl Beginning {
    pub(super) fn new(view: &SessionView, run: &str) -> Self {
        Self {
            id: view.session.id.id().to_owned(),
            principal: view.session.id.principal().map(str::to_owned),
            generation: view.session.generation.0,
            kind: view.kind.clone(),
            sandbox: view.sandboxing.unwrap_or_default().into(),
            config_generation: view.config.map(|config| config.0),
            worker: view.worker.map(|worker| worker.to_string()),
            pid: view.pid,
            created: rfc3339(view.created),
            run: run.to_owned(),
        }
    }

    /// It ended between two moments, nobody knows when.
    pub(super) fn died(self, after: &str, before: &str) -> Kept {
        let at = |text: &str| time::moment(text, SystemTime::UNIX_EPOCH);
        let lived = at(after).zip(at(&self.created));
        let lived = lived.and_then(|(after, created)| after.duration_since(created).ok());
        let detail = format!(
            "herd ended without an end of this session on record (it was killed, or crashed, or the host did), between \
             {after} and {before}; what ran of the session was killed by the kernel with it"
        );
        let session = Session {
            id: self.id,
            principal: self.principal,
            generation: self.generation,
            kind: self.kind,
            sandbox: self.sandbox,
            config_generation: self.config_generation,
            outdated: false,
            state: State::Ended,
            reason: Some(HERD_DIED.to_owned()),
            detail: Some(detail),
            worker: self.worker,
            pid: self.pid,
            endpoint: None,
            created: self.created,
            age_ms: millis(lived.unwrap_or_default()),
            holders: 0,
            requests: 0,
            streams: 0,
            holds: 0,
            ends_in_ms: None,
            ends_for: None,
            ended: None,
            death: None,
            disconnect_to_dead_ms: None,
            usage: None,
            run: Some(self.run),
        };
        Kept {
            session,
            log: Vec::new(),
        }
    }
}

impl Kept {
    pub(super) fn new(Burial { view, log }: Burial, run: &str) -> Self {
        let session = Session {
            run: Some(run.to_owned()),
            ..Session::new(view, SystemTime::now())
        };
        Self { session, log }
    }
}

pub(super) fn began(began: &Beginning) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::json!({ "began": began }))?)
}

pub(super) fn settled(generation: u64) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::json!({ "settled": generation }))?)
}

pub(super) fn ended(kept: &Kept) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(kept)?)
}
