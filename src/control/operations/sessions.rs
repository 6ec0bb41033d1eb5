//! Sessions: made, seen, held and ended, and what is done in one.

use http::Method;

use super::{
    Answered, Content, DRAINING, Header, Operation, Parameter, Problems, Takes, Verb, WORKER, flag, json, of,
    problems,
};
use crate::control::views;

/// The largest whole number that every reader of JSON keeps exactly (RFC 8259, 6).
const LARGEST: u64 = (1 << 53) - 1;

const STATES: &[&str] = &["queued", "starting", "bound", "ending", "ended"];

const PRINCIPAL: Parameter = Parameter {
    name: "principal",
    takes: Takes::Principal,
    about: "Whose session: the name of a key under `auth` in herd.yaml. Without `auth` there is none; with it, every session \
            has one, but for those of the time before.",
};

const PREFER: Header = Header {
    name: "Prefer",
    about: "`respond-async` answers at once (202) and goes on creating; `respond-async, wait=5` after five seconds \
            (RFC 7240).",
    pattern: None,
};

/// What streams add to that.
const NO_STREAM: Problems = problems(503, "too_many_streams, draining");

const UNKNOWN_SESSION: Problems = problems(404, "unknown_session");
const NOT_NAMED: Problems = problems(409, "principal_required");

const BODY_LATE: Problems = problems(408, "request_timeout");
const BODY_LARGE: Problems = problems(413, "payload_too_large");
const BODY_NOT_JSON: Problems = problems(415, "unsupported_media_type");

/// Why a session could not be created.
const NO_SUCH: Problems = problems(404, "unknown_worker, unknown_principal");
const MISMATCH: Problems = problems(409, "worker_mismatch, principal_required");
const LOST: Problems = problems(410, "session_lost");
const START_FAILED: Problems = problems(502, "worker_start_failed");
const START_TIMEOUT: Problems = problems(504, "worker_start_timeout");
const QUOTA: Problems = problems(429, "quota_exceeded");
const NOT_ALLOWED: Problems = problems(403, "forbidden, worker_not_allowed");

const FULL: Problems = problems(
    503,
    "at_capacity, queue_timeout, worker_backoff, session_ended, draining",
);

pub(super) const OPERATIONS: &[Operation] = &[
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
                takes: Takes::FromOneTo(10_000),
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
            START_FAILED,
            START_TIMEOUT,
            QUOTA,
            NOT_ALLOWED,
            BODY_LATE,
            BODY_LARGE,
            BODY_NOT_JSON,
            problems(404, "unknown_worker, unknown_session, unknown_principal"),
            NOT_NAMED,
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
        problems: &[UNKNOWN_SESSION, NOT_NAMED, DRAINING],
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
            NO_SUCH,
            MISMATCH,
            LOST,
            START_FAILED,
            START_TIMEOUT,
            QUOTA,
            NOT_ALLOWED,
            BODY_LATE,
            BODY_LARGE,
            BODY_NOT_JSON,
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
        problems: &[
            UNKNOWN_SESSION,
            problems(409, "principal_required, stale_generation"),
            DRAINING,
        ],
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
            problems(409, "principal_required, no_worker_yet"),
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
            NO_SUCH,
            MISMATCH,
            LOST,
            START_FAILED,
            START_TIMEOUT,
            QUOTA,
            NOT_ALLOWED,
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
                takes: Takes::FromOneTo(u16::MAX as u64),
                about: "Width of the terminal in characters, else 80.",
            },
            Parameter {
                name: "rows",
                takes: Takes::FromOneTo(u16::MAX as u64),
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
            problems(409, "principal_required, no_worker_yet"),
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
            BODY_LATE,
            BODY_LARGE,
            BODY_NOT_JSON,
            DRAINING,
        ],
    },
];
