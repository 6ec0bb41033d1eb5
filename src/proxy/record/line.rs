//! A record as a line of the access log.

use std::net::SocketAddr;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use http::Version;
use sha2::{Digest, Sha256};

use super::{End, Known, Record};
use crate::config::{AccessLog as Settings, Query, SessionShown};
use crate::core::SessionId;
use crate::proxy::code::{Code, Problem};
use crate::proxy::identity;
use crate::proxy::thread::Thread;
use crate::telemetry::access_log::{Line, text};

impl Record {
    /// `None`: it is not of the sample.
    pub(super) fn line(&self, settings: &Settings, known: &Known) -> Option<Vec<u8>> {
        let answer = known.answer();
        let error = known.failed() || answer.code.is_some();
        if !(error || settings.sample.takes(fastrand::f64())) {
            return None;
        }
        let asked = &self.asked;
        let (principal, id) = SessionId::parts(&known.session);
        let shown = match settings.session {
            _ if id.is_empty() => None,
            SessionShown::Omit => None,
            SessionShown::Plain => Some(id.into()),
            SessionShown::Hash => Some(hashed(&known.session).into()),
        };
        let target = self.target(settings.query);
        let (up, down) = match &known.tunnel {
            Some((_, carried)) => (carried.up, carried.down),
            None => (self.upload.bytes.get(), known.response_bytes),
        };
        let waited = known.wait.map(|wait| wait.waited);
        let own = self.trace.as_ref().map(|trace| trace.own);
        let trace_id = own.or(asked.trace).map(|trace| trace.trace.to_string());
        let line = Line {
            time: self.at,
            client: asked.client,
            proxy: asked.proxy,
            method: Some(asked.method.as_str()),
            host: asked.host.as_ref().map(|host| text(host.as_bytes())),
            path: Some(text(target.as_bytes())),
            protocol: Some(protocol(asked.version)),
            status: answer.status,
            error: answer.code.map(Code::as_str),
            session: shown,
            principal,
            worker: known.kind.as_ref().map(|kind| kind.name.as_str()),
            state: known.state(),
            tunnel: known.tunnel(),
            end: known.end(),
            request_bytes: up,
            response_bytes: down,
            duration_ms: Some(self.began.elapsed()),
            queue_ms: waited.map(|waited| waited.queued),
            start_ms: waited.map(|waited| waited.starting),
            worker_ms: known.worker,
            user_agent: asked.user_agent.as_ref().map(|agent| text(agent.as_bytes())),
            trace_id: trace_id.as_deref(),
        };
        Some(line.to_json())
    }

    /// The path, and the query as far as it is wanted and not herd's own.
    fn target(&self, query: Query) -> String {
        let target = &self.asked.target;
        match query {
            Query::LeftOut => target.path().to_owned(),
            Query::Kept => {
                let token = self.config.auth.as_ref().map(|auth| auth.tokens.query.as_str());
                let own = [self.config.session.query.as_deref(), token];
                identity::origin_form(own, target).to_string()
            }
        }
    }
}

/// What was refused before it was a request.
pub(crate) fn refused(thread: &Thread, peer: SocketAddr, problem: &Problem) {
    if thread.config().access_log.is_none() {
        return;
    }
    let Some(log) = &thread.log else {
        return;
    };
    let line = Line {
        time: SystemTime::now(),
        client: peer.ip().to_canonical(),
        proxy: None,
        method: None,
        host: None,
        path: None,
        protocol: None,
        status: problem.status().as_u16(),
        error: Some(problem.code.as_str()),
        session: None,
        principal: None,
        worker: None,
        state: None,
        tunnel: None,
        end: End::Complete.word(),
        request_bytes: 0,
        response_bytes: problem.body_len(),
        duration_ms: None,
        queue_ms: None,
        start_ms: None,
        worker_ms: None,
        user_agent: None,
        trace_id: None,
    };
    log.put(&line.to_json());
}

fn hashed(session: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(session.as_bytes())[..8])
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
