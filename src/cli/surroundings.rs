//! What herd.yaml names outside itself: certificates, keys, files, directories. Everything that is wrong with them is told
//! in one list, by the same look for `herd check`, `herd start` and a reload.
//!
//! ```text
//! Config ─▶ judge ─┬─ what was read, to be used
//!                  └─ every mistake, where it stands in the file
//! ```
//!
//! The look changes nothing: what is missing is not made. Deliberately not here: whether an address or a lock is free, since
//! that is no matter of the file.

use std::fmt::Display;
use std::path::Path;

use http::{HeaderMap, HeaderValue};

use crate::access::keys::{from_env, from_file};
use crate::access::{BadSecret, Secrets};
use crate::causes;
use crate::config::paths::User;
use crate::config::{self, Config, Finding, HeaderSource, Problems, Step};
use crate::control::{self, Admission};
use crate::history::History;
use crate::launcher::sandbox::PlanError;
use crate::proxy::{Identity, TlsError};
use crate::telemetry::access_log::Target;
use crate::worker::StateDir;

/// What was read.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The data port's certificate, if it has one.
    pub(super) identity: Option<Identity>,
    pub(super) secrets: Option<Secrets>,
    /// To the control API.
    pub(super) admission: Admission,
    /// For the receiver of traces.
    pub(super) headers: HeaderMap,
}

/// Who is to take up the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) enum Taker<'a> {
    /// A herd that this user starts.
    Start(&'a User),
    /// A herd that runs, and has already what only a start takes up: that may be as it likes now.
    Reload,
}

/// Reads what the configuration names, or tells everything that is wrong, with what was wrong in the plans of sandboxes.
pub(super) fn judge<Plans>(
    config: &Config,
    file: &Path,
    taker: Taker<'_>,
    plans: Result<Plans, Vec<PlanError>>,
) -> Result<(Surroundings, Plans), Problems> {
    let mut wrong = Vec::new();
    if let Err(finding) = access_log(config) {
        wrong.push(finding);
    }
    let headers = match taker {
        Taker::Start(user) => {
            wrong.extend(places(config, user));
            headers(config)
        }
        Taker::Reload => Ok(HeaderMap::new()),
    };
    let identity = config.network.tls.as_ref().map(Identity::read).transpose();
    let identity = noted(identity, of_tls, &mut wrong);
    let secrets = noted(Secrets::read(config), of_secret, &mut wrong);
    let admission = noted(Admission::read(config), of_secret, &mut wrong);
    let headers = noted(headers, |finding| finding, &mut wrong);
    let plans = noted(plans, of_plan, &mut wrong);
    match (identity, secrets, admission, headers, plans) {
        (Some(identity), Some(secrets), Some(admission), Some(headers), Some(plans)) if wrong.is_empty() => {
            let surroundings = Surroundings {
                identity,
                secrets,
                admission,
                headers,
            };
            Ok((surroundings, plans))
        }
        _ => Err(config::point_out(file, wrong)),
    }
}

/// `None`: the mistakes are with the others.
fn noted<T, E>(
    outcome: Result<T, Vec<E>>,
    finding: impl Fn(E) -> Finding,
    wrong: &mut Vec<Finding>,
) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(mistakes) => {
            wrong.extend(mistakes.into_iter().map(finding));
            None
        }
    }
}

/// Of a setting that is no kind's.
pub(super) fn of<const N: usize>(setting: [&str; N], message: impl Display) -> Finding {
    Finding {
        kind: None,
        setting: setting.map(Step::from).to_vec(),
        message: message.to_string(),
    }
}

fn of_tls(error: TlsError) -> Finding {
    of(["network", "tls", error.setting], &error)
}

fn of_secret(bad: BadSecret) -> Finding {
    Finding {
        kind: None,
        setting: bad.at,
        message: bad.why.to_string(),
    }
}

fn of_plan(error: PlanError) -> Finding {
    Finding {
        setting: std::iter::once("sandbox")
            .chain(error.key)
            .map(Step::from)
            .collect(),
        message: causes::told(&error.why),
        kind: Some(error.kind),
    }
}

fn access_log(config: &Config) -> Result<(), Finding> {
    match &config.access_log {
        Some(log) => Target::look(&log.to).map_err(of_access_log),
        None => Ok(()),
    }
}

pub(super) fn of_access_log(error: std::io::Error) -> Finding {
    let message = format!("cannot be opened to add lines: {error}; the directory has to be there already");
    of(["access_log", "path"], message)
}

/// What is wrong with the places that a herd keeps as long as it runs.
fn places(config: &Config, user: &User) -> Vec<Finding> {
    let socket = control::Server::look(&config.control_socket_for(user));
    let state = StateDir::look(&config.state_dir_for(user));
    // Without one that is named, herd keeps no history where it cannot.
    let history = config
        .history
        .dir
        .as_ref()
        .filter(|_| config.history.size.is_some());
    let history = history.map_or(Ok(()), |dir| History::look(dir));
    let found = [
        socket.err().map(|error| of(["control", "socket"], error)),
        state.err().map(|error| of(["state_dir"], error)),
        history.err().map(|error| of(["history", "dir"], error)),
    ];
    found.into_iter().flatten().collect()
}

fn headers(config: &Config) -> Result<HeaderMap, Vec<Finding>> {
    let (mut read, mut wrong) = (HeaderMap::new(), Vec::new());
    for header in config.traces.iter().flat_map(|traces| &traces.headers) {
        let (word, text) = match &header.source {
            HeaderSource::Value(value) => {
                read.insert(&header.name, value.clone());
                continue;
            }
            HeaderSource::Env(variable) => ("env", from_env(variable)),
            HeaderSource::File(path) => ("file", from_file(path)),
        };
        let value = text.map_err(|why| why.to_string()).and_then(|text| {
            HeaderValue::try_from(text.trim())
                .map_err(|_| "what it holds can be no header's value; remove control characters".to_owned())
        });
        match value {
            Ok(mut value) => {
                value.set_sensitive(true);
                read.insert(&header.name, value);
            }
            Err(why) => wrong.push(of(["traces", "headers", &header.spelled, word], why)),
        }
    }
    match wrong.is_empty() {
        true => Ok(read),
        false => Err(wrong),
    }
}
