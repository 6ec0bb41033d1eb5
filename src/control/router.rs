//! Which path does what. Nothing here but `hold` ever needs a worker slot.

use std::time::SystemTime;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::core::{HolderKind, KindId, SessionId};
use crate::driver::{Attach, Handle, KindChoice, Remains, Stopped, Wait};
use crate::worker::escape;

use super::answer::{self, Answer, Problem};
use super::logs::Follow;
use super::views::{Pool, Session, SessionHistory, SessionList, StopOutcome, StopReport, WorkerList};
use super::{hold, logs};

/// Answers requests by asking the driver.
#[derive(Debug, Clone)]
pub(super) struct Router {
    pub(super) driver: Handle,
    /// Turns true when herd ends; streams end then.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Router {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.route(&request).await.unwrap_or_else(Answer::from)
    }

    async fn route(&self, request: &Request<Incoming>) -> Result<Answer, Problem> {
        let path = request.uri().path();
        let query = Query::parse(request.uri().query().unwrap_or(""))?;
        let only_get = || match *request.method() {
            Method::GET => Ok(()),
            _ => Err(Problem::method_not_allowed("GET")),
        };
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments[..] {
            ["healthz"] => {
                only_get()?;
                query.knows(&[])?;
                Ok(answer::text("ok\n"))
            }
            ["v1", "sessions"] => {
                only_get()?;
                self.list(&query).await
            }
            ["v1", "workers"] => {
                only_get()?;
                query.knows(&[])?;
                let workers = self.driver.pools().await?.into_iter().map(Pool::from).collect();
                Ok(answer::json(StatusCode::OK, &WorkerList { workers }))
            }
            ["v1", "sessions", id] => {
                let id = session_id(id)?;
                query.knows(&[])?;
                match *request.method() {
                    Method::GET => self.show(id).await,
                    Method::DELETE => self.stop(id).await,
                    _ => Err(Problem::method_not_allowed("GET, DELETE")),
                }
            }
            ["v1", "sessions", id, "logs"] => {
                let id = session_id(id)?;
                only_get()?;
                self.logs(id, &query).await
            }
            ["v1", "sessions", id, "hold"] => {
                let id = session_id(id)?;
                only_get()?;
                self.hold(id, &query).await
            }
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                format!(
                    "there is nothing at {}; the control API has /v1/sessions, /v1/workers and /healthz",
                    escape(path.as_bytes())
                ),
            )),
        }
    }

    async fn list(&self, query: &Query<'_>) -> Result<Answer, Problem> {
        query.knows(&["all"])?;
        let views = self.driver.list(query.flag("all")?).await?;
        let now = SystemTime::now();
        let sessions = views.into_iter().map(|view| Session::new(view, now)).collect();
        Ok(answer::json(StatusCode::OK, &SessionList { sessions }))
    }

    async fn show(&self, id: SessionId) -> Result<Answer, Problem> {
        let now = SystemTime::now();
        let mut sessions = self
            .driver
            .show(id.clone())
            .await?
            .into_iter()
            .map(|view| Session::new(view, now));
        let session = sessions.next().ok_or_else(|| unknown(&id))?;
        Ok(answer::json(
            StatusCode::OK,
            &SessionHistory {
                session,
                earlier: sessions.collect(),
            },
        ))
    }

    async fn stop(&self, id: SessionId) -> Result<Answer, Problem> {
        let stopped = self.driver.stop(id.clone()).await?;
        let outcome = StopOutcome::new(&stopped).ok_or_else(|| unknown(&id))?;
        let death = match stopped {
            Stopped::Ended { death } => death,
            Stopped::NeverStarted | Stopped::Forgotten | Stopped::Unknown => None,
        };
        let report = StopReport {
            id: id.as_str().to_owned(),
            outcome,
            death: death.map(Into::into),
        };
        Ok(answer::json(StatusCode::OK, &report))
    }

    async fn logs(&self, id: SessionId, query: &Query<'_>) -> Result<Answer, Problem> {
        query.knows(&["follow", "tail"])?;
        let follow = if query.flag("follow")? {
            Follow::Follow
        } else {
            Follow::Stop
        };
        let tail = query.number("tail")?;
        let Some(output) = self.driver.logs(id.clone()).await? else {
            if self.driver.show(id.clone()).await?.is_empty() {
                return Err(unknown(&id));
            }
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "no_worker_yet",
                format!("session {id} has no worker yet, so there is no output; try again"),
            ));
        };
        let lines = logs::read(output, tail, follow, self.stopping.clone());
        Ok(answer::stream("text/plain; charset=utf-8", lines))
    }

    async fn hold(&self, id: SessionId, query: &Query<'_>) -> Result<Answer, Problem> {
        query.knows(&["worker"])?;
        // In the order of the configuration, as kinds are numbered.
        let pools = self.driver.pools().await?;
        let kind = match query.value("worker") {
            None => KindChoice::Fallback(KindId(0)),
            Some(name) => pools
                .iter()
                .position(|pool| pool.kind == name)
                .map(|at| KindChoice::Named(KindId(at)))
                .ok_or_else(|| {
                    let names: Vec<&str> = pools.iter().map(|pool| pool.kind.as_str()).collect();
                    Problem::new(
                        StatusCode::NOT_FOUND,
                        "unknown_worker",
                        format!(
                            "there is no worker kind {:?}; there is {}",
                            escape(name.as_bytes()),
                            names.join(", ")
                        ),
                    )
                })?,
        };
        let attach = Attach {
            id: id.clone(),
            kind,
            holder: HolderKind::Hold,
            wait: Wait::Queue,
            remains: Remains::Respect,
        };
        let attached = self.driver.attach(attach).await.map_err(|refusal| {
            let name = |kind: KindId| {
                pools
                    .get(kind.0)
                    .map_or_else(|| kind.to_string(), |p| p.kind.clone())
            };
            Problem::refused(refusal, id.as_str(), name)
        })?;
        Ok(answer::stream(
            "application/x-ndjson",
            hold::hold(attached, self.stopping.clone()),
        ))
    }
}

pub(super) fn session_id(id: &str) -> Result<SessionId, Problem> {
    SessionId::parse(id.as_bytes())
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "session_id_invalid", error.to_string()))
}

fn unknown(id: &SessionId) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_session",
        format!("there is no session {id}; `herd ps --all` lists those there are and were"),
    )
}

/// `name=value&…`; no value that is taken here ever needs percent-encoding.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Problem> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            if pairs.iter().any(|(known, _)| *known == name) {
                let name = escape(name.as_bytes());
                return Err(Problem::bad_request(format!("the query names {name:?} twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn knows(&self, names: &[&str]) -> Result<(), Problem> {
        match self.0.iter().find(|(name, _)| !names.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let name = escape(name.as_bytes());
                Err(Problem::bad_request(match names {
                    [] => format!("this path takes no query; remove {name:?}"),
                    names => format!(
                        "the query's {name:?} is not known here; known: {}",
                        names.join(", ")
                    ),
                }))
            }
        }
    }

    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.value(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let other = escape(other.as_bytes());
                Err(Problem::bad_request(format!(
                    "{name} is true or false, not {other:?}"
                )))
            }
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, Problem> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| {
            let value = escape(value.as_bytes());
            Problem::bad_request(format!("{name} is a number of lines, not {value:?}"))
        })
    }
}
