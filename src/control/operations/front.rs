//! The front: pages for people, what monitors ask, and what herd this is.

use http::Method;
use schemars::Schema;

use super::{Answered, Content, DRAINING, Operation, Verb, json, problems};
use crate::control::views;

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
];
