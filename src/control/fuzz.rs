//! What a program on the control socket asks for: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use http::Uri;

use super::answer::{Answer, Problem};
use super::router::{Query, session_id};

pub fn control(input: &[u8]) {
    let Ok(uri) = Uri::try_from(input) else {
        return;
    };
    for segment in uri.path().split('/') {
        match session_id(segment) {
            Ok(id) => assert_eq!(id.as_str(), segment),
            Err(problem) => answered(problem),
        }
    }
    let text = uri.query().unwrap_or("");
    let query = match Query::parse(text) {
        Ok(query) => query,
        Err(problem) => return answered(problem),
    };
    for names in [&[][..], &["all"], &["follow", "tail"], &["worker"]] {
        let known = text.split('&').filter(|pair| !pair.is_empty()).all(|pair| {
            let name = pair.split('=').next().unwrap();
            names.contains(&name)
        });
        match query.knows(names) {
            Ok(()) => assert!(known, "{text:?} has more than {names:?}"),
            Err(problem) => {
                assert!(!known, "{text:?} has nothing but {names:?}");
                answered(problem);
            }
        }
    }
    for result in [
        query.flag("all").map(drop),
        query.flag("follow").map(drop),
        query.number("tail").map(drop),
    ] {
        if let Err(problem) = result {
            answered(problem);
        }
    }
    if let Some(value) = query.value("worker") {
        assert!(
            text.split('&')
                .any(|pair| pair == format!("worker={value}") || pair == "worker")
        );
    }
}

/// A refusal is an answer with a code, whatever stood in the request.
fn answered(problem: Problem) {
    let answer = Answer::from(problem);
    assert!(answer.status().is_client_error());
    assert!(answer.headers().contains_key("x-herd-error"));
}
