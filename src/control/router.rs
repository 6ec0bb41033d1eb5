//! From a request to the operation that answers it.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::CONNECTION;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, watch};

use super::access::{Admission, Caller};
use super::answer::{self, Answer, Problem};
use super::build::{Build, VERSION};
use super::connection::Connection;
use super::creating::Creating;
use super::former::{Former, HERD_DIED};
use super::logs::{self, Reading, Whose};
use super::looking::Looking;
use super::operations::{self, Operation, Verb};
use super::query::Query;
use super::site::Way;
use super::views::{self, Draining, Pool, Readiness, WorkerList};
use super::{DataPort, Stopping};
use super::{dashboard, events, hold, openapi, pressure, sessions};
use crate::access::InForce;
use crate::core::{Generation, SessionId};
use crate::driver::{Among, By, Cause, Deed, Handle, JournalEvent, NoOutput, SessionOutput};

/// Answers requests by asking the driver. Nothing here but a hold and a creation ever needs a worker slot.
#[derive(Debug, Clone)]
pub(super) struct Router {
    pub(super) driver: Handle,
    pub(super) data: Arc<DataPort>,
    /// Tells when herd, or what a connection was let in by, ends; streams end then.
    pub(super) stopping: Stopping,
    pub(super) creating: Arc<Creating>,
    pub(super) looking: Arc<Looking>,
    pub(super) admission: watch::Receiver<Admission>,
    pub(super) former: Arc<Former>,
    /// As many as there may be.
    pub(super) streams: Arc<Semaphore>,
}

/// What an operation sees of a request.
#[derive(Debug)]
pub(super) struct Asked<'r> {
    pub(super) request: &'r Request<Incoming>,
    pub(super) query: Query<'r>,
    /// What stands for the placeholder of its path.
    pub(super) placed: Option<&'r str>,
    pub(super) by: By,
}

impl Router {
    pub(super) async fn answer(
        &self,
        mut request: Request<Incoming>,
        caller: &Caller,
        connection: &Connection,
    ) -> Answer {
        let head = request.method() == Method::HEAD;
        let answer = self
            .route(&mut request, caller, connection)
            .await
            .unwrap_or_else(Answer::from);
        let closes = answer
            .headers()
            .get(CONNECTION)
            .is_some_and(|value| value == "close");
        if !closes {
            sessions::drain(&mut request).await;
        }
        match head {
            true => answer.map(|_| answer::empty()),
            false => answer,
        }
    }

    async fn route(
        &self,
        request: &mut Request<Incoming>,
        caller: &Caller,
        connection: &Connection,
    ) -> Result<Answer, Problem> {
        let way = match caller {
            Caller::Unknown(_) => Way::Port,
            Caller::Known(_) | Caller::Foreign { .. } => Way::Socket,
        };
        self.admission.borrow().names.check(request, way)?;
        let path = plain(request.uri().path()).into_owned();
        let found = find(request.method(), &path);
        // The dashboard's files tell nothing of this herd; whoever opens them has to get to the field for the key.
        match found.as_ref().map(|operation| operation.verb) {
            Ok(Verb::Dashboard) => return Ok(dashboard::page()),
            Ok(Verb::DashboardFile) => return dashboard::file(path.rsplit('/').next().unwrap_or_default()),
            _ => {}
        }
        // Before anything is told, be it what there is not.
        let allowed = caller.identify(request.headers(), &self.admission.borrow())?;
        let operation = found?;
        let by = caller.admit(allowed, operation.needs())?;
        let upgrade = hyper::upgrade::on(&mut *request);
        let (mut new, mut token) = (views::NewSession::default(), views::NewToken::default());
        match operation.verb {
            Verb::MintSession | Verb::CreateSession => new = sessions::body(request).await?,
            Verb::MintToken => token = sessions::body(request).await?,
            _ => {}
        }
        let request = &*request;
        let asked = Asked {
            query: Query::parse(request.uri().query().unwrap_or(""), operation.query)?,
            placed: operation.matches(&path).flatten(),
            request,
            by,
        };
        if operation.is_stream(&asked.query) {
            connection.occupy(&self.streams)?;
        }
        match operation.verb {
            Verb::Dashboard => Ok(dashboard::page()),
            Verb::DashboardFile => dashboard::file(asked.placed.unwrap_or_default()),
            Verb::Health => Ok(answer::text("ok\n")),
            Verb::Ready => self.ready().await,
            Verb::Metrics => self.metrics().await,
            Verb::Document => Ok(answer::json(StatusCode::OK, openapi::document())),
            Verb::Version => Ok(answer::json(StatusCode::OK, &self.version())),
            Verb::ListSessions => self.list(&asked).await,
            Verb::MintSession => self.mint(&asked, new).await,
            Verb::ShowSession => self.show(asked.id()?).await,
            Verb::CreateSession => self.create(&asked, new).await,
            Verb::StopSession => self.stop(&asked).await,
            Verb::MintToken => self.token(&asked, token).await,
            Verb::Logs => self.logs(&asked).await,
            Verb::Hold => self.hold(&asked).await,
            Verb::Exec => self.exec(&asked, upgrade, connection).await,
            Verb::ListWorkers => {
                let pools = self.driver.pools().await?;
                let list = WorkerList {
                    config_generation: pools.generation.0,
                    workers: pools.kinds.into_iter().map(Pool::from).collect(),
                };
                Ok(answer::json(StatusCode::OK, &list))
            }
            Verb::ShowWorker => self.worker(asked.placed.unwrap_or_default()).await,
            Verb::Events => {
                let journal = Arc::clone(self.driver.journal());
                let kinds = self.kinds(&asked.query).await?;
                let stream = events::read(journal, &asked, kinds)?;
                Ok(answer::stream("text/event-stream", stream, self.stopping.clone()))
            }
            Verb::Pressure => Ok(answer::json(
                StatusCode::OK,
                &pressure::pressure(self.driver.pools().await?),
            )),
            Verb::Drain => {
                let bound = self
                    .driver
                    .pools()
                    .await?
                    .kinds
                    .iter()
                    .map(|kind| kind.bound)
                    .sum();
                self.audit(Deed::Drain, &asked.by);
                self.driver.drain().await?;
                let draining = true;
                Ok(answer::json(StatusCode::ACCEPTED, &Draining { draining, bound }))
            }
            Verb::Reload => {
                self.audit(Deed::Reload, &asked.by);
                let cause = Cause::Control(asked.by.clone());
                let reloaded = self.driver.reloads().ask(cause).await?;
                Ok(answer::json(StatusCode::OK, &views::Reloaded::from(reloaded)))
            }
        }
    }

    /// For the journal: who asked for a change.
    pub(super) fn audit(&self, deed: Deed, by: &By) {
        tracing::info!(
            %by,
            deed = deed.name(),
            session = deed.session().map(tracing::field::display),
            "control call"
        );
        let by = by.clone();
        self.driver.journal().push(JournalEvent::Controlled { deed, by });
    }

    async fn ready(&self) -> Result<Answer, Problem> {
        // A driver that is gone is as good as draining.
        let pools = self.driver.pools().await.ok();
        let draining = pools.as_ref().is_none_or(|pools| pools.draining);
        let failing = pools.into_iter().flat_map(|pools| pools.kinds);
        let failing = failing
            .filter(|kind| kind.backoff.is_some())
            .map(|kind| kind.kind);
        let readiness = Readiness {
            ready: !draining,
            draining,
            failing: failing.collect(),
        };
        let status = match draining {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        };
        Ok(answer::json(status, &readiness))
    }

    async fn metrics(&self) -> Result<Answer, Problem> {
        let pools = self.driver.pools().await?;
        let sessions = self.driver.list(Among::Live).await?;
        let forest = self.looking.forest().await;
        let (_, InForce { access, .. }) = self.driver.config().get();
        let text = super::metrics::expose(
            self.driver.metrics(),
            &pools,
            &sessions,
            &forest,
            access.as_deref(),
            self.driver.journal().started(),
            self.former.lost(),
        );
        Ok(answer::text_of(super::metrics::CONTENT_TYPE, text))
    }

    fn version(&self) -> views::Version {
        let started = self.driver.journal().started();
        let (config_generation, InForce { config, .. }) = self.driver.config().get();
        let header = config.session.headers.first();
        views::Version {
            version: VERSION.to_owned(),
            build: Build::this(),
            pid: std::process::id(),
            data_url: self.data.url.clone(),
            session_header: header.map(ToString::to_string).unwrap_or_default(),
            config_generation,
            started: super::time::rfc3339(started),
            uptime_ms: super::time::millis(started.elapsed().unwrap_or_default()),
        }
    }

    async fn worker(&self, name: &str) -> Result<Answer, Problem> {
        let pools = self.driver.pools().await?.kinds;
        match pools.iter().find(|pool| pool.kind == name) {
            Some(pool) => Ok(answer::json(StatusCode::OK, &Pool::from(pool.clone()))),
            None => Err(Problem::unknown_worker(name, &pools)),
        }
    }

    async fn logs(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        let id = asked.id()?;
        let query = &asked.query;
        let only = query.number("generation");
        let tail = query.number("tail");
        let tail = tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
        let output = match self.driver.logs(id.clone(), only.map(Generation)).await? {
            Ok(SessionOutput::Ring(output)) => output,
            Ok(SessionOutput::LastLines(lines)) => return Ok(logs::kept(Whose::This, &lines, tail)),
            Err(NoOutput::Unknown) => {
                let Some((session, lines)) = self.former.log(id.as_str(), only) else {
                    return Err(self.no_log(&id, only).await?);
                };
                if session.reason.as_deref() == Some(HERD_DIED) {
                    return Err(Problem::output_gone(&id, "it died with herd"));
                }
                return Ok(logs::kept(Whose::Former, lines, tail));
            }
            Err(NoOutput::Waits) => {
                return Err(Problem::new(
                    StatusCode::CONFLICT,
                    "no_worker_yet",
                    format!("session {id} has no worker yet, so there is no output; try again"),
                ));
            }
            Ok(SessionOutput::Gone) => {
                return Err(Problem::output_gone(&id, "the worker lives on (`reuse: true`)"));
            }
        };
        let reading = Reading {
            tail,
            since: query.moment("since"),
            follow: query.flag("follow"),
            timestamps: query.flag("timestamps"),
        };
        let lines = logs::read(output, reading);
        Ok(answer::stream(
            "text/plain; charset=utf-8",
            lines,
            self.stopping.clone(),
        ))
    }

    /// Why there is no output, where neither this herd nor a former one knows of any.
    async fn no_log(&self, id: &SessionId, only: Option<u64>) -> Result<Problem, Problem> {
        let known = self.driver.show(id.clone()).await?.len() + self.former.of(id.as_str()).count();
        Ok(match only {
            Some(generation) if known > 0 => Problem::unknown_generation(id, generation),
            _ => self.absent(id),
        })
    }

    async fn hold(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        let id = asked.id()?;
        let owner = self.owner(&id)?;
        let attached = self
            .creating
            .hold(&self.driver, &id, asked.query.value("worker"), owner.as_deref())
            .await?;
        let origin = attached.origin;
        // Also of one that was there: it ends with its last hold.
        self.audit(Deed::Hold { id, origin }, &asked.by);
        let stream = hold::hold(attached);
        Ok(answer::stream(
            "application/x-ndjson",
            stream,
            self.stopping.clone(),
        ))
    }
}

impl Asked<'_> {
    /// The name of the session that the path and `principal` name.
    pub(super) fn id(&self) -> Result<SessionId, Problem> {
        let id = session_id(self.placed.unwrap_or_default())?;
        Ok(match self.query.value("principal") {
            Some(principal) => id.of(principal),
            None => id,
        })
    }
}

/// The path with every character that may stand for itself standing for itself (RFC 3986, 6.2.2.2): `a%7Eb` is `a~b`. What
/// else is encoded stays so, above all a slash, which would be a part of a segment.
pub(super) fn plain(path: &str) -> Cow<'_, str> {
    let mut plain = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escaped) = rest.split_at(at);
        plain.push_str(before);
        match unreserved(escaped) {
            Some(character) => {
                plain.push(character);
                rest = &escaped[3..];
            }
            None => {
                plain.push('%');
                rest = &escaped[1..];
            }
        }
    }
    if rest.len() == path.len() {
        return Cow::Borrowed(path);
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// What the three characters at the beginning, `%7E`, stand for, if that needs no encoding (RFC 3986, 2.3).
fn unreserved(escaped: &str) -> Option<char> {
    let digits = escaped.get(1..3)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()?;
    (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)).then(|| char::from(byte))
}

/// The operation for a method and a path.
pub(super) fn find(method: &Method, path: &str) -> Result<&'static Operation, Problem> {
    let mut here = operations::all()
        .filter(|operation| operation.matches(path).is_some())
        .peekable();
    if here.peek().is_none() {
        return Err(Problem::not_found(path));
    }
    let mut allowed = Vec::new();
    for operation in here {
        if operation.method == *method || operation.has_head() && *method == Method::HEAD {
            return Ok(operation);
        }
        allowed.push(operation.method.as_str());
        if operation.has_head() {
            allowed.push("HEAD");
        }
    }
    Err(Problem::method_not_allowed(allowed.join(", ")))
}

pub(super) fn session_id(id: &str) -> Result<SessionId, Problem> {
    SessionId::parse(id.as_bytes())
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "session_id_invalid", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_character_that_needs_no_encoding_is_that_character() {
        for (path, expected) in [
            ("/v1/sessions/a", "/v1/sessions/a"),
            ("/v1/sessions/a%7Eb%7e", "/v1/sessions/a~b~"),
            ("/v1/%73essions/%2D%2E%5f%41%7a%30", "/v1/sessions/-._Az0"),
            // Reserved ones, others, and what is no encoding at all.
            ("/a%2Fb%20c%C3%A4", "/a%2Fb%20c%C3%A4"),
            ("/%%37E%7", "/%7E%7"),
            ("/%", "/%"),
            ("/%+7/%7\u{e4}/%\u{e4}", "/%+7/%7\u{e4}/%\u{e4}"),
        ] {
            assert_eq!(plain(path), expected, "{path}");
        }
    }
}
