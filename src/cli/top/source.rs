//! Asks herd, for as long as the command runs: a look at everything from time to time, the output that is followed, stops.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::app::{Deed, Look, News};
use crate::cli::client::{Client, ClientError, session_path, with_query};
use crate::control::views::{Pressure, SessionList, StopReport, Version, WorkerList};
use crate::core::{InvalidSessionId, SessionId};
use crate::worker::escape;

/// herd is asked so often whether it is back.
const AWAY: Duration = Duration::from_secs(1);
/// A herd that takes longer for one look is told to be away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines of output from before it was asked for.
const TAIL: &str = "500";

pub(super) struct Source {
    client: Arc<Client>,
    tell: mpsc::Sender<News>,
    tasks: JoinSet<()>,
    /// At most one.
    following: JoinSet<()>,
}

impl Source {
    pub(super) fn start(
        client: Client,
        tell: mpsc::Sender<News>,
        kinds: Vec<String>,
        interval: Duration,
    ) -> Self {
        let client = Arc::new(client);
        let list = list(&kinds, &[("usage", Some("true".to_owned()))]);
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(Arc::clone(&client), tell.clone(), list, kinds, interval));
        Self {
            client,
            tell,
            tasks,
            following: JoinSet::new(),
        }
    }

    pub(super) fn carry_out(&mut self, deed: Deed) {
        let (client, tell) = (Arc::clone(&self.client), self.tell.clone());
        match deed {
            Deed::Stop { id, generation } => {
                self.tasks.spawn(async move {
                    let result = stop(&client, &id, generation)
                        .await
                        .map_err(|error| error.to_string());
                    // Nobody listens: the command has ended.
                    let stopped = News::Stopped {
                        id,
                        generation,
                        result,
                    };
                    let _ = tell.send(stopped).await;
                });
            }
            Deed::Follow { id, number } => {
                self.following.abort_all();
                self.following.spawn(async move {
                    let why = match follow(&client, &tell, &id, number).await {
                        Ok(()) => "its worker has ended".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    let _ = tell.send(News::OutputEnded { of: number, why }).await;
                });
            }
            Deed::Unfollow => self.following.abort_all(),
            Deed::Quit => {}
        }
        // What has ended needs no place.
        while self.tasks.try_join_next().is_some() {}
        while self.following.try_join_next().is_some() {}
    }
}

fn list(kinds: &[String], more: &[(&str, Option<String>)]) -> String {
    let kinds = ("worker", (!kinds.is_empty()).then(|| kinds.join(",")));
    with_query("/v1/sessions", &[more, &[kinds]].concat())
}

/// Whether there are these kinds.
pub(super) async fn check(client: &mut Client, kinds: &[String]) -> Result<(), ClientError> {
    let few = [("limit", Some("1".to_owned()))];
    client
        .ask(Method::GET, &list(kinds, &few))
        .await
        .map(|_: SessionList| ())
}

async fn watch(
    client: Arc<Client>,
    tell: mpsc::Sender<News>,
    list: String,
    kinds: Vec<String>,
    interval: Duration,
) {
    let mut connected = None;
    loop {
        let looked = timeout(PATIENCE, look(&client, &mut connected, &list, &kinds)).await;
        let (news, pause) = match looked.unwrap_or(Err(ClientError::Silent(PATIENCE))) {
            Ok(look) => (News::Looked(Box::new(look)), interval),
            Err(error) => {
                connected = None;
                let why = error.to_string();
                (News::Away { why }, AWAY.min(interval))
            }
        };
        if tell.send(news).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn look(
    client: &Client,
    connected: &mut Option<Client>,
    list: &str,
    kinds: &[String],
) -> Result<Look, ClientError> {
    let asked = match connected {
        Some(asked) => asked,
        None => connected.insert(client.another().await?),
    };
    let version: Version = asked.ask(Method::GET, "/v1/version").await?;
    let SessionList { sessions, .. } = asked.ask(Method::GET, list).await?;
    let WorkerList { mut workers, .. } = asked.ask(Method::GET, "/v1/workers").await?;
    workers.retain(|pool| kinds.is_empty() || kinds.contains(&pool.kind));
    let Pressure { draining, host, .. } = asked.ask(Method::GET, "/v1/pressure").await?;
    Ok(Look {
        sessions,
        pools: workers,
        host,
        draining,
        version,
    })
}

/// A session of herd's own list was not named as sessions are.
fn no_name(error: InvalidSessionId) -> ClientError {
    ClientError::Answer {
        status: StatusCode::OK,
        reason: error.to_string(),
    }
}

async fn stop(client: &Client, id: &str, generation: u64) -> Result<StopReport, ClientError> {
    let path = session_path(
        &SessionId::parse(id.as_bytes()).map_err(no_name)?,
        "",
        &[("generation", Some(generation.to_string()))],
    );
    client.another().await?.ask(Method::DELETE, &path).await
}

/// Tells lines as they come, all of a frame at once.
async fn follow(client: &Client, tell: &mpsc::Sender<News>, id: &str, of: u64) -> Result<(), ClientError> {
    let parameters = [
        ("follow", Some("true".to_owned())),
        ("tail", Some(TAIL.to_string())),
    ];
    let path = session_path(
        &SessionId::parse(id.as_bytes()).map_err(no_name)?,
        "/logs",
        &parameters,
    );
    let mut connected = client.another().await?;
    let mut body = connected.stream(Method::GET, &path).await?;
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ClientError::Lost)?.into_data() else {
            continue;
        };
        text.extend_from_slice(&data);
        let Some(end) = memchr::memrchr(b'\n', &text) else {
            continue;
        };
        let rest = text.split_off(end + 1);
        text.truncate(end);
        let lines = text.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| escape(line).into_owned()).collect();
        text = rest;
        if tell.send(News::Output { of, lines }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_herd_that_hangs_is_told_and_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let hanging = tokio::net::UnixListener::bind(&path).unwrap();
        let client = Client::connect(path).await.unwrap();
        let (tell, mut news) = mpsc::channel(1);
        let _source = Source::start(client, tell, Vec::new(), Duration::from_secs(2));
        for _ in 0..2 {
            let Some(News::Away { why }) = news.recv().await else {
                panic!("something else was told");
            };
            assert_eq!(
                why,
                "herd has not answered for 5 s: it may hang, or be overloaded"
            );
        }
        drop(hanging);
    }
}
