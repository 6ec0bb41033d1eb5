//! The OpenAPI 3.1 document, written from the table of operations and the types of the answers.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::build::VERSION;
use super::channels::PROTOCOL;
use super::operations::{self, Answered, Content, Operation, Problems};
use super::query::{Parameter, Takes};
use super::views;
use crate::config::May;
use crate::core::NAME_PATTERN;

/// Which every operation may answer with.
const ALWAYS: &[Problems] = &[
    Problems {
        status: 400,
        codes: "bad_request, session_id_invalid",
    },
    Problems {
        status: 401,
        codes: "unauthorized",
    },
    Problems {
        status: 403,
        codes: "forbidden, host_refused, origin_refused",
    },
];

/// RFC 3339 in UTC, but for days that not every month has.
const MOMENT: &str =
    r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]{1,9})?Z$";

/// The document; the same for the life of a build.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(write);
    &DOCUMENT
}

fn write() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<views::Problem>();
    let mut paths = Map::new();
    for operation in operations::all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        let method = operation.method.as_str().to_ascii_lowercase();
        path[method] = describe(operation, problem.as_value(), &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "herd control API",
            "version": VERSION,
            "description": "Served on a UNIX socket to herd's own user and to root, and with `control.tcp` on loopback to \
                            who sends a key; never on the data port. Every error is a problem document (RFC 9457) with \
                            a stable code, which is in X-Herd-Error, too.",
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": "http://herd", "description": "On the socket the host's name does not matter." }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "Over TCP; the socket needs none." },
            },
        },
        "security": [{ "key": [] }, {}],
    })
}

fn describe(operation: &Operation, problem: &Value, generator: &mut SchemaGenerator) -> Value {
    let mut parameters = Vec::new();
    if let Some(name) = placeholder(operation.path) {
        parameters.push(json!({
            "name": name,
            "in": "path",
            "required": true,
            "schema": placed(name),
        }));
    }
    parameters.extend(operation.query.iter().map(query));
    parameters.extend(operation.headers.iter().map(|header| {
        let mut schema = json!({ "type": "string" });
        if let Some(pattern) = header.pattern {
            schema["pattern"] = pattern.into();
        }
        json!({ "name": header.name, "in": "header", "description": header.about, "schema": schema })
    }));
    let mut responses = Map::new();
    for answered in operation.answers {
        responses.insert(answered.status.to_string(), answer(answered, generator));
    }
    for Problems { status, codes } in operation.problems.iter().chain(ALWAYS) {
        // Where success and failure have the same shape, the table has said so.
        responses.entry(status.to_string()).or_insert_with(|| {
            json!({
                "description": codes,
                "content": { "application/problem+json": { "schema": problem } },
            })
        });
    }
    let needs = match operation.needs() {
        _ if operation.is_open() => "nothing",
        May::Metrics => "metrics",
        May::Read => "read",
        May::Control => "control",
    };
    let mut described = json!({
        "x-needs": needs,
        "operationId": format!("{:?}", operation.verb),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if operation.is_open() {
        described["security"] = json!([]);
    }
    if !operation.about.is_empty() {
        described["description"] = operation.about.into();
    }
    if let Some(of) = operation.body {
        described["requestBody"] = json!({
            "required": false,
            "content": { "application/json": { "schema": of(generator).to_value() } },
        });
    }
    described
}

fn answer(answered: &Answered, generator: &mut SchemaGenerator) -> Value {
    let text = || json!({ "type": "string" });
    let (content_type, schema) = match answered.content {
        Content::WebSocket(of) => {
            let status = of(generator).to_value();
            return json!({
                "description": answered.about,
                "x-websocket": { "subprotocol": PROTOCOL, "status": status },
            });
        }
        Content::Json(of) => ("application/json", of(generator).to_value()),
        Content::Lines(of) => ("application/x-ndjson", of(generator).to_value()),
        Content::Events(of) => ("text/event-stream", of(generator).to_value()),
        Content::Text => ("text/plain", text()),
        Content::OpenMetrics => ("application/openmetrics-text", text()),
        Content::Page => ("text/html", text()),
        Content::PageFile => {
            let of = |content_type| (content_type, json!({ "schema": text() }));
            let content = Map::from_iter(
                ["text/css", "text/javascript"]
                    .map(of)
                    .map(|(name, schema)| (name.to_owned(), schema)),
            );
            return json!({ "description": answered.about, "content": content });
        }
    };
    // A stream is not one JSON value: its schema is that of one of its parts (`itemSchema`, OpenAPI 3.2).
    let schema = match answered.content {
        Content::Lines(_) | Content::Events(_) => json!({ "x-itemSchema": schema }),
        _ => json!({ "schema": schema }),
    };
    json!({ "description": answered.about, "content": { content_type: schema } })
}

/// A session's id, which is neither `.` nor `..`. Said without look-ahead, which not every reader of patterns knows, at the
/// price of up to two of the 128 characters.
const ID: &str = "([A-Za-z0-9_~-]|[.]{1,2}[A-Za-z0-9_~-]|[.]{3})[A-Za-z0-9._~-]{0,125}";

fn query(parameter: &Parameter) -> Value {
    let session = || {
        json!({
            "type": "string",
            "pattern": format!("^([a-z0-9][a-z0-9_-]{{0,62}}/)?{ID}$"),
        })
    };
    let schema = match parameter.takes {
        Takes::Flag => json!({ "type": "boolean" }),
        Takes::UpTo(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
        Takes::FromOneTo(most) => json!({ "type": "integer", "minimum": 1, "maximum": most }),
        Takes::Moment => json!({
            "anyOf": [
                { "type": "string", "pattern": MOMENT, "examples": ["2026-01-31T12:00:00Z"] },
                { "type": "string", "pattern": "^[1-9][0-9]{0,3}(s|m|h|d)$", "examples": ["10m"] },
            ]
        }),
        Takes::Words(words) => json!({ "type": "array", "minItems": 1, "items": { "enum": words } }),
        Takes::Kinds => {
            json!({ "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[^,]+$" } })
        }
        Takes::SessionId => session(),
        Takes::Principal => json!({ "type": "string", "pattern": NAME_PATTERN }),
        Takes::SessionIds => {
            json!({ "type": "array", "minItems": 1, "maxItems": 256, "items": session() })
        }
        Takes::EventId => json!({ "type": "string", "pattern": "^[0-9]{1,19}-[0-9]{1,19}$" }),
        Takes::Text => json!({ "type": "string" }),
        // Each on its own, as a query's lists are by default.
        Takes::Texts => json!({ "type": "array", "items": { "type": "string" } }),
    };
    let mut described = json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.about,
        "schema": schema,
    });
    if matches!(
        parameter.takes,
        Takes::Words(_) | Takes::Kinds | Takes::SessionIds
    ) {
        // `a,b`, not `name=a&name=b`.
        described["style"] = "form".into();
        described["explode"] = false.into();
    }
    described
}

fn placeholder(path: &str) -> Option<&str> {
    path.split('/')
        .find_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn placed(name: &str) -> Value {
    match name {
        "id" => json!({ "type": "string", "pattern": format!("^{ID}$") }),
        _ => json!({ "type": "string", "minLength": 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_that_is_checked_in_is_the_one_that_is_served() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let served = serde_json::to_string_pretty(document()).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &served).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == served,
            "docs/openapi.json is not up to date: UPDATE=1 cargo test openapi"
        );
    }

    #[test]
    fn people_are_told_of_every_operation_and_event() {
        let page = include_str!("../../docs/api.md");
        for operation in operations::all() {
            assert!(
                page.contains(operation.path),
                "{} is not in docs/api.md",
                operation.path
            );
            for Parameter { name, .. } in operation.query {
                assert!(
                    page.contains(&format!("`{name}")) || page.contains(&format!("?{name}=")),
                    "{name}"
                );
            }
        }
        let types = document().pointer("/components/schemas/Event/oneOf").unwrap();
        let types = types.as_array().unwrap();
        assert!(types.len() > 5, "{types:?}");
        for event in types {
            let name = event.pointer("/properties/type/const").unwrap().as_str().unwrap();
            assert!(page.contains(name), "{name} is not in docs/api.md");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let text = document().to_string();
        let mut seen = 0;
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document().pointer(pointer).is_some(), "{pointer}");
            seen += 1;
        }
        assert!(seen > 20, "only {seen} references seen");
    }
}
