//! What a program on the control socket asks for: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use http::{Method, Uri};

use super::answer::{Answer, Problem};
use super::events::Position;
use super::operations::OPERATIONS;
use super::query::Query;
use super::router::{find, session_id};

pub fn control(input: &[u8]) {
    let Ok(uri) = Uri::try_from(input) else {
        return;
    };
    for segment in uri.path().split('/') {
        match session_id(segment) {
            Ok(id) => assert_eq!(id.as_str(), segment),
            Err(problem) => answered(problem),
        }
        let _ = Position::parse(segment);
    }
    for method in [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::DELETE,
    ] {
        match find(&method, uri.path()) {
            Ok(operation) => assert!(operation.matches(uri.path()).is_some()),
            Err(problem) => answered(problem),
        }
    }
    let text = uri.query().unwrap_or("");
    for operation in OPERATIONS {
        match Query::parse(text, operation.query) {
            Ok(query) => {
                for parameter in operation.query {
                    let _ = (query.flag(parameter.name), query.number(parameter.name));
                    let _ = (query.moment(parameter.name), query.list(parameter.name));
                }
            }
            Err(problem) => answered(problem),
        }
    }
}

/// A refusal is an answer with a code, whatever stood in the request.
fn answered(problem: Problem) {
    let answer = Answer::from(problem);
    assert!(answer.status().is_client_error());
    assert!(answer.headers().contains_key("x-herd-error"));
}
