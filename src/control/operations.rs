//! Everything that can be asked, in one table of three chapters: requests are routed by it, their queries checked by it, and
//! the OpenAPI document is written from it. What is not in it is not served.

mod front;
mod herd;
mod sessions;

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::query::{Parameter, Query, Takes};
use crate::config::May;

/// The table.
pub(super) fn all() -> impl Iterator<Item = &'static Operation> {
    [front::OPERATIONS, sessions::OPERATIONS, herd::OPERATIONS]
        .into_iter()
        .flatten()
}

/// Which code answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Dashboard,
    DashboardFile,
    Health,
    Ready,
    Metrics,
    Document,
    Version,
    ListSessions,
    MintSession,
    ShowSession,
    CreateSession,
    StopSession,
    MintToken,
    Logs,
    Hold,
    Exec,
    ListWorkers,
    ShowWorker,
    Events,
    Pressure,
    Drain,
    Reload,
}

/// A method of a path.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) verb: Verb,
    pub(super) method: Method,
    /// `{name}` stands for any one segment.
    pub(super) path: &'static str,
    /// What it does, in one line, and in more.
    pub(super) summary: &'static str,
    pub(super) about: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) headers: &'static [Header],
    /// An optional body of JSON.
    pub(super) body: Option<SchemaOf>,
    pub(super) answers: &'static [Answered],
    pub(super) problems: &'static [Problems],
}

/// A request header that it reads.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// `None`: anything; what is not understood is passed over.
    pub(super) pattern: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) content: Content,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Json(SchemaOf),
    /// Lines of JSON.
    Lines(SchemaOf),
    /// Server-sent events, whose data is JSON.
    Events(SchemaOf),
    Text,
    OpenMetrics,
    Page,
    /// Scripts and styles of the page.
    PageFile,
    /// Messages of [`super::channels`], of which the last is JSON.
    WebSocket(SchemaOf),
}

/// A status of failure, and the codes it comes with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problems {
    pub(super) status: u16,
    pub(super) codes: &'static str,
}

pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Operation {
    /// What stands for the placeholders, if the path is of this shape.
    pub(super) fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let (mut wanted, mut segments) = (self.path.split('/'), path.split('/'));
        let mut placed = None;
        loop {
            match (wanted.next(), segments.next()) {
                (None, None) => return Some(placed),
                (Some(name), Some(segment)) if name.starts_with('{') => placed = Some(segment),
                (Some(name), Some(segment)) if name == segment => {}
                _ => return None,
            }
        }
    }

    /// What a key has to allow.
    pub(super) fn needs(&self) -> May {
        match self.verb {
            Verb::Health | Verb::Ready | Verb::Metrics => May::Metrics,
            // Holding may create, and letting go ends.
            Verb::Hold | Verb::Exec => May::Control,
            _ if self.method == Method::GET => May::Read,
            _ => May::Control,
        }
    }

    /// Whether no key is needed at all.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.verb, Verb::Dashboard | Verb::DashboardFile)
    }

    /// Whether its answer goes on for as long as its client likes.
    pub(super) fn is_stream(&self, query: &Query<'_>) -> bool {
        match self.verb {
            Verb::Hold | Verb::Exec | Verb::Events => true,
            Verb::Logs => query.flag("follow"),
            _ => false,
        }
    }

    /// Whether HEAD is answered too. Not where a GET has consequences or never ends.
    pub(super) fn has_head(&self) -> bool {
        self.method == Method::GET
            && !matches!(self.verb, Verb::Hold | Verb::Exec | Verb::Events | Verb::Logs)
    }
}

const fn flag(name: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        takes: Takes::Flag,
        about,
    }
}

const fn json<T: JsonSchema>(status: u16, about: &'static str) -> Answered {
    Answered {
        status,
        about,
        content: Content::Json(of::<T>),
    }
}

const fn problems(status: u16, codes: &'static str) -> Problems {
    Problems { status, codes }
}

const WORKER: Parameter = Parameter {
    name: "worker",
    takes: Takes::Kinds,
    about: "Only of these kinds of workers, separated by commas.",
};

const DRAINING: Problems = problems(503, "draining");
