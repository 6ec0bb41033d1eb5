//! The part of a request's target after `?`, read by the operation's own list of parameters.

use std::borrow::Cow;
use std::time::SystemTime;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::answer::Problem;
use super::time;
use crate::worker::escape;

/// A parameter that an operation takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// One sentence for people.
    pub(super) about: &'static str,
}

/// What a parameter's value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Takes {
    /// `true` (also without a value) or `false`.
    Flag,
    /// A whole number from 0 up to this.
    UpTo(u64),
    /// The same from 1 on.
    FromOneTo(u64),
    /// A moment as RFC 3339 or a time ago.
    Moment,
    /// One or more of these words, separated by commas.
    Words(&'static [&'static str]),
    /// The name of a kind, or several separated by commas. Whether they exist is the operation's to say.
    Kinds,
    /// A session's id, with `auth` after its principal's name and a slash.
    SessionId,
    /// Sessions' ids, separated by commas.
    SessionIds,
    /// A principal's name.
    Principal,
    /// The number of an event, with its epoch.
    EventId,
    /// Any text.
    Text,
    /// Any texts: the parameter may be there several times.
    Texts,
}

/// Ids that one query can name.
const IDS: usize = 256;

/// `name=value&…` (application/x-www-form-urlencoded), checked.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(super) fn parse(text: &'a str, known: &[Parameter]) -> Result<Self, Problem> {
        // The parser would put U+FFFD in its place. What is between the pairs is ASCII, so that they are judged together.
        if percent_decode_str(text).decode_utf8().is_err() {
            return Err(Problem::bad_request("the query is not UTF-8"));
        }
        let mut pairs: Vec<(&'static str, Cow<'a, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                return Err(unknown(&name, known));
            };
            let again = pairs.iter().any(|(known, _)| *known == parameter.name);
            if again && !matches!(parameter.takes, Takes::Texts) {
                return Err(Problem::bad_request(format!(
                    "the query names {:?} twice",
                    parameter.name
                )));
            }
            // A bare name, as in `?follow`.
            let bare = value.is_empty() && matches!(parameter.takes, Takes::Flag);
            let value = if bare { Cow::Borrowed("true") } else { value };
            if let Some(wanted) = parameter.takes.refuses(&value) {
                return Err(Problem::bad_request(format!(
                    "{} is {wanted}, not {:?}",
                    parameter.name,
                    escape(value.as_bytes())
                )));
            }
            pairs.push((parameter.name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| &**value)
    }

    /// Of a parameter that may be there several times, in order.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = move |pair: &&(&'static str, Cow<'a, str>)| pair.0 == name;
        self.0.iter().filter(named).map(|(_, value)| &**value)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.value(name).and_then(|value| value.parse().ok())
    }

    pub(super) fn moment(&self, name: &str) -> Option<SystemTime> {
        self.value(name)
            .and_then(|value| time::moment(value, SystemTime::now()))
    }

    /// The words of a list; `None`: not given.
    pub(super) fn list(&self, name: &str) -> Option<Vec<&str>> {
        self.value(name).map(|value| value.split(',').collect())
    }
}

impl Takes {
    /// `Some`: what the value had to be.
    fn refuses(self, value: &str) -> Option<String> {
        let fits = match self {
            Self::Flag => matches!(value, "true" | "false"),
            Self::UpTo(most) => {
                value.bytes().all(|byte| byte.is_ascii_digit())
                    && value.parse::<u64>().is_ok_and(|number| number <= most)
            }
            Self::FromOneTo(most) => Self::UpTo(most).refuses(value).is_none() && value.parse() != Ok(0),
            Self::Moment => time::moment(value, SystemTime::now()).is_some(),
            Self::Words(words) => value.split(',').all(|word| words.contains(&word)),
            Self::Kinds => value.split(',').all(|name| !name.is_empty()),
            Self::SessionIds => {
                value.split(',').count() <= IDS
                    && value
                        .split(',')
                        .all(|id| crate::core::SessionId::parse(id.as_bytes()).is_ok())
            }
            Self::SessionId => crate::core::SessionId::parse(value.as_bytes()).is_ok(),
            Self::Principal => crate::core::is_name(value),
            Self::EventId => super::events::Position::parse(value).is_some(),
            Self::Text | Self::Texts => true,
        };
        if fits {
            return None;
        }
        Some(match self {
            Self::Flag => "true or false".to_owned(),
            Self::UpTo(most) => format!("a number from 0 to {most}"),
            Self::FromOneTo(most) => format!("a number from 1 to {most}"),
            Self::Moment => {
                "a moment (RFC 3339, e.g. 2026-01-31T12:00:00Z) or a time ago (e.g. 10m)".to_owned()
            }
            Self::Words(words) => format!("one or more of {}, separated by commas", words.join(", ")),
            Self::Kinds => "the name of a worker kind".to_owned(),
            Self::SessionIds => format!("one to {IDS} session ids, separated by commas"),
            Self::SessionId => "a session id, or principal/id".to_owned(),
            Self::Principal => "the name of a principal".to_owned(),
            Self::EventId => "the id of an event, as events carry it".to_owned(),
            Self::Text | Self::Texts => "a text".to_owned(),
        })
    }
}

fn unknown(name: &str, known: &[Parameter]) -> Problem {
    let name = escape(name.as_bytes());
    let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
    let detail = match names[..] {
        [] => format!("this path takes no query; remove {name:?}"),
        _ => format!(
            "the query's {name:?} is not known here; known: {}",
            names.join(", ")
        ),
    };
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Parameter] = &[
        Parameter {
            name: "follow",
            takes: Takes::Flag,
            about: "",
        },
        Parameter {
            name: "tail",
            takes: Takes::UpTo(100),
            about: "",
        },
        Parameter {
            name: "cols",
            takes: Takes::FromOneTo(u16::MAX as u64),
            about: "",
        },
        Parameter {
            name: "state",
            takes: Takes::Words(&["bound", "ended"]),
            about: "",
        },
    ];

    fn refused(text: &str) -> String {
        Query::parse(text, KNOWN)
            .map(drop)
            .unwrap_err()
            .detail()
            .to_owned()
    }

    #[test]
    fn values_are_decoded_and_checked_by_what_the_parameter_takes() {
        let query = Query::parse("follow&tail=%31%30&state=bound,ended", KNOWN).unwrap();
        assert!(query.flag("follow"));
        assert_eq!(query.number("tail"), Some(10));
        assert_eq!(query.list("state"), Some(vec!["bound", "ended"]));
        assert_eq!(query.list("other"), None);
    }

    #[test]
    fn a_wrong_query_is_told_what_would_be_right() {
        for (text, told) in [
            (
                "fallow",
                "the query's \"fallow\" is not known here; known: follow, tail, cols, state",
            ),
            ("follow=%ff", "the query is not UTF-8"),
            ("tail=1&tail=2", "the query names \"tail\" twice"),
            ("follow=yes", "follow is true or false, not \"yes\""),
            ("tail=101", "tail is a number from 0 to 100, not \"101\""),
            ("cols=0", "cols is a number from 1 to 65535, not \"0\""),
            ("cols=00", "cols is a number from 1 to 65535, not \"00\""),
            ("cols=65536", "cols is a number from 1 to 65535, not \"65536\""),
            ("tail=+1", "tail is a number from 0 to 100, not \" 1\""),
            (
                "state=bound,gone",
                "state is one or more of bound, ended, separated by commas, not \"bound,gone\"",
            ),
        ] {
            assert_eq!(refused(text), told);
        }
    }
}
