//! Everything that can be asked, in one table: requests are routed by it, their queries checked by it, and the OpenAPI
//! document is written from it. What is not here is not served.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::query::{Parameter, Query, Takes};
use super::views;
use crate::config::May;

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

/// The largest whole number that every reader of JSON keeps exactly (RFC 8259, 6).
const LARGEST: u64 = (1 << 53) - 1;

const STATES: &[&str] = &["queued", "starting", "bound", "ending", "ended"];

const WORKER: Parameter = Parameter {
    name: "worker",
    takes: Takes::Kinds,
    about: "Only of these kinds of workers, separated by commas.",
};

const PRINCIPAL: Parameter = Parameter {
    name: "principal",
    takes: Takes::Principal,
    about: "Whose session: the name of a key under `auth` in herd.yaml. Without `auth` there is none; with it, a new session \
            needs one.",
};

const PREFER: Header = Header {
    name: "Prefer",
    about: "`respond-async` answers at once (202) and goes on creating; `respond-async, wait=5` after five seconds \
            (RFC 7240).",
    pattern: None,
};

const DRAINING: Problems = problems(503, "draining");
/// What streams add to that.
const NO_STREAM: Problems = problems(503, "too_many_streams, draining");
const UNKNOWN_SESSION: Problems = problems(404, "unknown_session");
const BAD_BODY: [Problems; 2] = [
    problems(413, "payload_too_large"),
    problems(415, "unsupported_media_type"),
];
/// Why a session could not be created.
const NOT_CREATED: [Problems; 7] = [
    problems(404, "unknown_worker, unknown_principal"),
    problems(409, "worker_mismatch, principal_required"),
    problems(410, "session_lost"),
    problems(502, "worker_start_failed"),
    problems(504, "worker_start_timeout"),
    problems(429, "quota_exceeded"),
    problems(403, "forbidden, worker_not_allowed"),
];
const FULL: Problems = problems(
    503,
    "at_capacity, queue_timeout, worker_backoff, session_ended, draining",
);

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        verb: Verb::Dashboard,
        method: Method::GET,
        path: "/",
        summary: "The dashboard",
        about: "A page for browsers. It has no data of its own, so it needs no key; it asks for one.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "The page.",
            content: Content::Page,
        }],
        problems: &[],
    },
    Operation {
        verb: Verb::DashboardFile,
        method: Method::GET,
        path: "/dashboard/{file}",
        summary: "A script or the style of the dashboard",
        about: "",
        query: &[],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "The file.",
            content: Content::PageFile,
        }],
        problems: &[problems(404, "not_found")],
    },
    Operation {
        verb: Verb::Health,
        method: Method::GET,
        path: "/healthz",
        summary: "Whether herd lives",
        about: "Answered by the control API alone.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "It does.",
            content: Content::Text,
        }],
        problems: &[],
    },
    Operation {
        verb: Verb::Ready,
        method: Method::GET,
        path: "/readyz",
        summary: "Whether new sessions are admitted",
        about: "503 while herd drains. Kinds whose workers do not start are named; they do not make herd unready, since \
                other kinds may serve.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[
            json::<views::Readiness>(200, "They are."),
            json::<views::Readiness>(503, "They are not: herd drains."),
        ],
        problems: &[],
    },
    Operation {
        verb: Verb::Metrics,
        method: Method::GET,
        path: "/metrics",
        summary: "Metrics",
        about: "OpenMetrics text, as Prometheus reads it. No metric has a session's id as a label.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "All metrics.",
            content: Content::OpenMetrics,
        }],
        problems: &[DRAINING],
    },
    Operation {
        verb: Verb::Document,
        method: Method::GET,
        path: "/openapi.json",
        summary: "This document",
        about: "OpenAPI 3.1.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "The document.",
            content: Content::Json(|_| Schema::default()),
        }],
        problems: &[],
    },
    Operation {
        verb: Verb::Version,
        method: Method::GET,
        path: "/v1/version",
        summary: "Which herd this is",
        about: "",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json::<views::Version>(200, "Version, process and start.")],
        problems: &[],
    },
    Operation {
        verb: Verb::ListSessions,
        method: Method::GET,
        path: "/v1/sessions",
        summary: "List sessions",
        about: "Oldest first. Ended ones are remembered up to a thousand.",
        query: &[
            flag("all", "Ended sessions too, as far as they are remembered."),
            Parameter {
                name: "id",
                takes: Takes::SessionIds,
                about: "Only these, separated by commas; at most 256. Who is not there is left out.",
            },
            WORKER,
            PRINCIPAL,
            Parameter {
                name: "state",
                takes: Takes::Words(STATES),
                about: "Only in these states, separated by commas; `ended` needs `all`.",
            },
            Parameter {
                name: "limit",
                takes: Takes::UpTo(10_000),
                about: "At most so many; the answer's `next` tells where to go on.",
            },
            Parameter {
                name: "after",
                takes: Takes::UpTo(LARGEST),
                about: "Go on after this place: `next` of the answer before.",
            },
            flag(
                "usage",
                "With what their processes use. Looks at every process of the host.",
            ),
        ],
        headers: &[],
        body: None,
        answers: &[json::<views::SessionList>(200, "The sessions.")],
        problems: &[problems(404, "unknown_worker"), DRAINING],
    },
    Operation {
        verb: Verb::MintSession,
        method: Method::POST,
        path: "/v1/sessions",
        summary: "Create a session with a new id",
        about: "Answers when its worker is ready. Nothing holds it then: it ends after the kind's `ttl` unless it is used.",
        query: &[PRINCIPAL],
        headers: &[
            Header {
                name: "Idempotency-Key",
                about: "The same key again, within a day, creates nothing new and answers with the same session.",
                pattern: Some("^[!-~]{1,128}$"),
            },
            PREFER,
        ],
        body: Some(of::<views::NewSession>),
        answers: &[
            json::<views::Session>(201, "Created; `Location` names it."),
            json::<views::Accepted>(
                202,
                "Being created; ask for the session to see what becomes of it.",
            ),
        ],
        problems: &[
            NOT_CREATED[3],
            NOT_CREATED[4],
            NOT_CREATED[5],
            NOT_CREATED[6],
            BAD_BODY[0],
            BAD_BODY[1],
            problems(404, "unknown_worker, unknown_session, unknown_principal"),
            problems(409, "principal_required"),
            problems(422, "idempotency_key_reused"),
            FULL,
        ],
    },
    Operation {
        verb: Verb::ShowSession,
        method: Method::GET,
        path: "/v1/sessions/{id}",
        summary: "Show a session",
        about: "With what keeps it alive, when it ends, what it uses, and former sessions of the same id.",
        query: &[PRINCIPAL],
        headers: &[],
        body: None,
        answers: &[json::<views::SessionHistory>(200, "The session.")],
        problems: &[UNKNOWN_SESSION, DRAINING],
    },
    Operation {
        verb: Verb::CreateSession,
        method: Method::PUT,
        path: "/v1/sessions/{id}",
        summary: "Create a session, or see that it is there",
        about: "Idempotent. Answers when its worker is ready. Nothing holds it then: it ends after the kind's `ttl` \
                unless it is used.",
        query: &[PRINCIPAL],
        headers: &[PREFER],
        body: Some(of::<views::NewSession>),
        answers: &[
            json::<views::Session>(200, "It was there already."),
            json::<views::Session>(201, "Created."),
            json::<views::Accepted>(
                202,
                "Being created; ask for the session to see what becomes of it.",
            ),
        ],
        problems: &[
            NOT_CREATED[0],
            NOT_CREATED[1],
            NOT_CREATED[2],
            NOT_CREATED[3],
            NOT_CREATED[4],
            NOT_CREATED[5],
            NOT_CREATED[6],
            BAD_BODY[0],
            BAD_BODY[1],
            FULL,
        ],
    },
    Operation {
        verb: Verb::StopSession,
        method: Method::DELETE,
        path: "/v1/sessions/{id}",
        summary: "End a session",
        about: "Kills its worker's whole tree, and answers when that is reaped, with what died.",
        query: &[
            Parameter {
                name: "generation",
                takes: Takes::UpTo(LARGEST),
                about: "Only if the session is this incarnation of its id.",
            },
            PRINCIPAL,
        ],
        headers: &[],
        body: None,
        answers: &[json::<views::StopReport>(200, "It has ended.")],
        problems: &[UNKNOWN_SESSION, problems(409, "stale_generation"), DRAINING],
    },
    Operation {
        verb: Verb::Logs,
        method: Method::GET,
        path: "/v1/sessions/{id}/logs",
        summary: "The output of a session's worker",
        about: "As text, control bytes escaped. A reader that is too slow is told how many lines it missed. Of sessions that \
                ended some time ago, or under a former herd, the last lines are kept, below a line of herd's own.",
        query: &[
            flag("follow", "Go on with what comes."),
            Parameter {
                name: "tail",
                takes: Takes::UpTo(1_000_000),
                about: "Begin with the last so many lines of what is kept.",
            },
            Parameter {
                name: "since",
                takes: Takes::Moment,
                about: "Only lines since then: RFC 3339, or a time ago like `10m`.",
            },
            flag("timestamps", "With the moment at which herd read each line."),
            Parameter {
                name: "generation",
                takes: Takes::UpTo(LARGEST),
                about: "Of this incarnation of the id; else of the newest that has some output.",
            },
            PRINCIPAL,
        ],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "The lines.",
            content: Content::Text,
        }],
        problems: &[
            UNKNOWN_SESSION,
            problems(409, "no_worker_yet"),
            problems(410, "output_gone"),
            NO_STREAM,
        ],
    },
    Operation {
        verb: Verb::Hold,
        method: Method::GET,
        path: "/v1/sessions/{id}/hold",
        summary: "Hold a session, creating it if need be",
        about: "The session lives as long as the answer is read; when its last hold is gone, it ends. The first line tells \
                what is held, an empty line comes every 15 s, and a last line tells why the session ended, if it did first.",
        query: &[
            Parameter {
                name: "worker",
                takes: Takes::Kinds,
                about: "The kind of worker that a new session gets, and an existing one must have; else the first kind.",
            },
            PRINCIPAL,
        ],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "Held.",
            content: Content::Lines(of::<views::Held>),
        }],
        problems: &[
            NOT_CREATED[0],
            NOT_CREATED[1],
            NOT_CREATED[2],
            NOT_CREATED[3],
            NOT_CREATED[4],
            NOT_CREATED[5],
            NOT_CREATED[6],
            problems(
                503,
                "at_capacity, queue_timeout, worker_backoff, session_ended, too_many_streams, draining",
            ),
        ],
    },
    Operation {
        verb: Verb::Exec,
        method: Method::GET,
        path: "/v1/sessions/{id}/exec",
        summary: "Run a command in a session's worker",
        about: "A WebSocket. The command runs beside the worker's program: in the same namespaces, under the same limits, with \
                its environment. Messages are binary, and their first byte says what they are: 0 stdin (to herd), 1 stdout, \
                2 stderr (from herd), 3 how the command ended (JSON, the last message), 4 a new size of the terminal (to herd, \
                `{\"cols\": 80, \"rows\": 24}`), 255 and a 0 the end of stdin. When the WebSocket closes, the command is \
                killed; it does not hold the session.",
        query: &[
            PRINCIPAL,
            Parameter {
                name: "command",
                takes: Takes::Texts,
                about: "The program, and each of its arguments.",
            },
            Parameter {
                name: "env",
                takes: Takes::Texts,
                about: "`NAME=VALUE`, beside and before what the worker's program has.",
            },
            Parameter {
                name: "cwd",
                takes: Takes::Text,
                about: "An absolute path, else where the worker's program was started.",
            },
            flag(
                "stdin",
                "Messages of channel 0 are its stdin; otherwise that is empty.",
            ),
            flag("tty", "With a terminal. stderr is part of stdout then."),
            Parameter {
                name: "cols",
                takes: Takes::UpTo(65_535),
                about: "Width of the terminal in characters, else 80.",
            },
            Parameter {
                name: "rows",
                takes: Takes::UpTo(65_535),
                about: "Height of the terminal in characters, else 24.",
            },
        ],
        headers: &[],
        body: None,
        answers: &[Answered {
            status: 101,
            about: "It is being run.",
            content: Content::WebSocket(of::<views::ExecEnd>),
        }],
        problems: &[
            UNKNOWN_SESSION,
            problems(409, "no_worker_yet"),
            problems(426, "upgrade_required"),
            problems(429, "too_many_commands"),
            problems(503, "exec_failed, too_many_streams, draining"),
        ],
    },
    Operation {
        verb: Verb::MintToken,
        method: Method::POST,
        path: "/v1/sessions/{id}/token",
        summary: "Sign a token for a session",
        about: "For a web page that shall connect without holding the key: good for this one session of this principal, which \
                its first request creates, on this herd's data port, until it expires. What is open then stays open. A token \
                cannot be taken back; take the principal out of herd.yaml, or change the secret.",
        query: &[PRINCIPAL],
        headers: &[],
        body: Some(of::<views::NewToken>),
        answers: &[json::<views::Token>(
            201,
            "The token. Nothing keeps it but its receiver.",
        )],
        problems: &[
            problems(403, "forbidden, worker_not_allowed"),
            problems(404, "unknown_principal, unknown_worker"),
            problems(409, "no_auth, principal_required"),
            BAD_BODY[0],
            BAD_BODY[1],
            DRAINING,
        ],
    },
    Operation {
        verb: Verb::ListWorkers,
        method: Method::GET,
        path: "/v1/workers",
        summary: "List kinds of workers and their pools",
        about: "In the order of herd.yaml.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json::<views::WorkerList>(200, "The pools.")],
        problems: &[DRAINING],
    },
    Operation {
        verb: Verb::ShowWorker,
        method: Method::GET,
        path: "/v1/workers/{kind}",
        summary: "Show a kind of workers and its pool",
        about: "",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json::<views::Pool>(200, "The pool.")],
        problems: &[problems(404, "unknown_worker"), DRAINING],
    },
    Operation {
        verb: Verb::Events,
        method: Method::GET,
        path: "/v1/events",
        summary: "What happens, as it happens",
        about: "Server-sent events. The latest 4096 are kept, so that a reader who comes back with the id of the last event \
                it saw misses none of those; an `events.lost` tells if it missed some. A comment every 15 s keeps the \
                connection.",
        query: &[
            Parameter {
                name: "after",
                takes: Takes::EventId,
                about: "Go on after this event; a `Last-Event-ID` header is stronger.",
            },
            Parameter {
                name: "replay",
                takes: Takes::UpTo(4096),
                about: "Begin with the last so many events that are kept.",
            },
            Parameter {
                name: "follow",
                takes: Takes::Flag,
                about: "`false`: end after what is kept.",
            },
            Parameter {
                name: "session",
                takes: Takes::SessionId,
                about: "Only of this session.",
            },
            WORKER,
        ],
        headers: &[Header {
            name: "Last-Event-ID",
            about: "The id of the last event that the reader has seen.",
            pattern: Some("^[0-9]{1,19}-[0-9]{1,19}$"),
        }],
        body: None,
        answers: &[Answered {
            status: 200,
            about: "Events.",
            content: Content::Events(of::<views::Event>),
        }],
        problems: &[problems(503, "too_many_streams")],
    },
    Operation {
        verb: Verb::Pressure,
        method: Method::GET,
        path: "/v1/pressure",
        summary: "How much more this herd can take",
        about: "For autoscalers and load balancers.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json::<views::Pressure>(200, "Pools, herd's process, host.")],
        problems: &[DRAINING],
    },
    Operation {
        verb: Verb::Drain,
        method: Method::POST,
        path: "/v1/drain",
        summary: "Drain and end this herd",
        about: "As the first SIGTERM does: new sessions are refused, bound ones go on until `drain_timeout`, then herd ends. \
                Once more does nothing.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json::<views::Draining>(202, "It drains.")],
        problems: &[DRAINING],
    },
    Operation {
        verb: Verb::Reload,
        method: Method::POST,
        path: "/v1/reload",
        summary: "Read herd.yaml again",
        about: "As SIGHUP does, and it answers when the file is in force, or why it is not: then the old one stays in force. \
                Bound sessions keep their workers.",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json::<views::Reloaded>(200, "The file is in force.")],
        problems: &[
            problems(409, "restart_required"),
            problems(422, "config_invalid"),
            DRAINING,
        ],
    },
];
