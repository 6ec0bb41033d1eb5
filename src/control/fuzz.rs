//! What a program on the control socket asks for, and sends to a command: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use bytes::Bytes;
use http::{Method, Uri};

use super::answer::{Answer, Problem};
use super::channels::{self, FromClient, FromHerd};
use super::events::Position;
pub use super::former::fuzz::history;
use super::operations;
use super::query::Query;
use super::router::{find, plain, session_id};

pub fn control(input: &[u8]) {
    let Ok(uri) = Uri::try_from(input) else {
        return;
    };
    let path = plain(uri.path());
    assert!(path.len() <= uri.path().len());
    for segment in path.split('/') {
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
        match find(&method, &path) {
            Ok(operation) => assert!(operation.matches(&path).is_some()),
            Err(problem) => answered(problem),
        }
    }
    let text = uri.query().unwrap_or("");
    for operation in operations::all() {
        match Query::parse(text, operation.query) {
            Ok(query) => {
                for parameter in operation.query {
                    let _ = (query.flag(parameter.name), query.number(parameter.name));
                    let _ = (query.moment(parameter.name), query.list(parameter.name));
                    let _ = query.values(parameter.name).count();
                }
            }
            Err(problem) => answered(problem),
        }
    }
}

/// What one side of a command's WebSocket understands is what the other would have sent.
pub fn exec(input: &[u8]) {
    let message = Bytes::copy_from_slice(input);
    if let Ok(said) = FromClient::parse(message.clone()) {
        assert_eq!(FromClient::parse(said.message()), Ok(said));
    }
    match FromHerd::parse(message) {
        Ok(FromHerd::Stdout(bytes) | FromHerd::Stderr(bytes)) => assert_eq!(bytes.len() + 1, input.len()),
        Ok(FromHerd::Status(end)) => {
            let sent = channels::status(&end).unwrap();
            assert_eq!(FromHerd::parse(sent), Ok(FromHerd::Status(end)));
        }
        Err(unknown) => assert!(!unknown.to_string().is_empty()),
    }
}

/// A refusal is an answer with a code, whatever stood in the request.
fn answered(problem: Problem) {
    let answer = Answer::from(problem);
    assert!(answer.status().is_client_error());
    assert!(answer.headers().contains_key("x-herd-error"));
}
