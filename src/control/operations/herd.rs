//! herd as a whole: its pools, what happens in it, and what it is to do.

use http::Method;

use super::{
    Answered, Content, DRAINING, Header, Operation, Parameter, Takes, Verb, WORKER, json, of, problems,
};
use crate::control::views;

pub(super) const OPERATIONS: &[Operation] = &[
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
        problems: &[
            problems(404, "unknown_worker"),
            problems(503, "too_many_streams, draining"),
        ],
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
