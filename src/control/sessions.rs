//! Sessions: list, show, create, stop.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::de::DeserializeOwned;

use super::answer::{self, Answer, Problem};
use super::creating::{Outcome, Patience};
use super::query::Query;
use super::router::{Asked, Router};
use super::views::{
    Accepted, NewSession, Session, SessionHistory, SessionList, State, StopOutcome, StopReport,
};
use crate::core::{Generation, Origin, SessionId};
use crate::driver::{Among, Deed, SessionView, Stopped};

/// Largest body of a request, bytes.
const BODY: usize = 64 << 10;
/// A body that is not there as a whole after this is not waited for any longer. As for a head.
const BODY_TIMEOUT: Duration = super::HEADER_TIMEOUT;

static PREFER: HeaderName = HeaderName::from_static("prefer");
static PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Takes in what nobody has read. The connection would be closed with it unread, which can take the answer back before its
/// client has it (RFC 9112, 9.6).
pub(super) async fn drain(request: &mut Request<Incoming>) {
    if request.body().is_end_stream() {
        return;
    }
    let rest = Limited::new(request.body_mut(), BODY).collect();
    // A client that sends more, or slowly, has to do without.
    let _ = tokio::time::timeout(BODY_TIMEOUT, rest).await;
}

/// What a new session or token shall be.
pub(super) async fn body<T: DeserializeOwned + Default>(
    request: &mut Request<Incoming>,
) -> Result<T, Problem> {
    let unsupported = |detail: &str| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            detail,
        )
    };
    let body = Limited::new(request.body_mut(), BODY).collect();
    let text = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Err(_) => return Err(Problem::body_too_slow(BODY_TIMEOUT)),
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                format!("the body is larger than {BODY} bytes"),
            ));
        }
        Ok(Err(error)) => {
            return Err(Problem::bad_request(format!(
                "the body did not come whole: {error}"
            )));
        }
    };
    if text.is_empty() {
        return Ok(T::default());
    }
    if request.headers().contains_key(CONTENT_ENCODING) {
        return Err(unsupported(
            "a body is not taken compressed; leave Content-Encoding out",
        ));
    }
    let essence = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = essence.map(|value| value.split(';').next().unwrap_or("").trim());
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Err(unsupported(
            "the body has to be JSON, with Content-Type: application/json",
        ));
    }
    // serde would take a list of the fields' values, too.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::bad_request("the body has to be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(&text);
    let new = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
    json.end()
        .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
    Ok(new)
}

impl Router {
    /// The kinds that the query chooses, all of which have to be there; removed ones are until their last worker is gone.
    pub(super) async fn kinds<'q>(&self, query: &'q Query<'_>) -> Result<Option<HashSet<&'q str>>, Problem> {
        let Some(kinds) = query.list("worker") else {
            return Ok(None);
        };
        let pools = self.driver.pools().await?.kinds;
        match kinds
            .iter()
            .find(|name| pools.iter().all(|pool| pool.kind != **name))
        {
            Some(name) => Err(Problem::unknown_worker(name, &pools)),
            None => Ok(Some(HashSet::from_iter(kinds))),
        }
    }

    pub(super) async fn list(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        let query = &asked.query;
        let kinds = self.kinds(query).await?;
        let states = query.list("state");
        let ids = query.list("id").map(HashSet::<&str>::from_iter);
        let principal = query.value("principal");
        let after = query.number("after");
        let among = match query.flag("all") {
            true => Among::All,
            false => Among::Live,
        };
        let mut views = self.driver.list(among).await?;
        views.sort_by_key(|view| view.session.generation);
        let now = SystemTime::now();
        let former = self.former.sessions().filter(|_| query.flag("all")).cloned();
        // Those of former herds have lower generations.
        let mut sessions = former
            .chain(views.into_iter().map(|view| Session::new(view, now)))
            .filter(|session| after.is_none_or(|after| session.generation > after))
            .filter(|session| {
                ids.as_ref()
                    .is_none_or(|ids| ids.contains(session.name().as_str()))
            })
            .filter(|session| kinds.as_ref().is_none_or(|kinds| kinds.contains(&*session.kind)))
            .filter(|session| principal.is_none_or(|name| session.principal.as_deref() == Some(name)))
            .filter(|session| {
                states
                    .as_ref()
                    .is_none_or(|states| states.contains(&session.state.word()))
            });
        let limit = query
            .number("limit")
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let mut list = SessionList {
            sessions: sessions.by_ref().take(limit).collect(),
            next: None,
        };
        if sessions.next().is_some() {
            let last = list
                .sessions
                .last()
                .map_or(after.unwrap_or(0), |session| session.generation);
            list.next = Some(last.to_string());
        }
        if query.flag("usage") {
            self.looking.tell_usage(&mut list.sessions).await;
        }
        Ok(answer::json(StatusCode::OK, &list))
    }

    pub(super) async fn show(&self, id: SessionId) -> Result<Answer, Problem> {
        let now = SystemTime::now();
        let views = self.driver.show(id.clone()).await?;
        let mut sessions: Vec<Session> = views.into_iter().map(|view| Session::new(view, now)).collect();
        if let Some(newest) = sessions.first_mut() {
            self.looking.tell_usage(std::slice::from_mut(newest)).await;
        }
        let former = self.former.of(id.as_str()).cloned();
        let mut sessions = sessions.into_iter().chain(former);
        let session = sessions.next().ok_or_else(|| self.absent(&id))?;
        let history = SessionHistory {
            session,
            earlier: sessions.collect(),
        };
        Ok(answer::json(StatusCode::OK, &history))
    }

    pub(super) async fn create(&self, asked: &Asked<'_>, new: NewSession) -> Result<Answer, Problem> {
        let id = asked.id()?;
        let owner = self.owner(&id)?;
        let patience = patience(asked.request.headers())?;
        let outcome = self
            .creating
            .create(&self.driver, &id, &new, owner.as_deref(), patience)
            .await?;
        if outcome != Outcome::There(Origin::Reused) {
            self.audit(Deed::Create { id: id.clone() }, &asked.by);
        }
        self.created(&id, outcome).await
    }

    pub(super) async fn mint(&self, asked: &Asked<'_>, new: NewSession) -> Result<Answer, Problem> {
        let headers = asked.request.headers();
        let patience = patience(headers)?;
        let minted = self.creating.mint(asked.query.value("principal"))?;
        let owner = self.owner(&minted)?;
        let (id, outcome) = match idempotency_key(headers)? {
            None => {
                let id = minted;
                let outcome = self
                    .creating
                    .create(&self.driver, &id, &new, owner.as_deref(), patience)
                    .await?;
                (id, outcome)
            }
            Some(key) => {
                self.creating
                    .create_once(&self.driver, key, minted, &new, owner.as_deref(), patience)
                    .await?
            }
        };
        if outcome == Outcome::There(Origin::Created) || outcome == Outcome::OnTheWay {
            self.audit(Deed::Create { id: id.clone() }, &asked.by);
        }
        let outcome = match outcome {
            // A key that was used before: the answer is the same.
            Outcome::There(_) => Outcome::There(Origin::Created),
            Outcome::OnTheWay => outcome,
        };
        self.created(&id, outcome).await
    }

    async fn created(&self, id: &SessionId, outcome: Outcome) -> Result<Answer, Problem> {
        let Outcome::There(origin) = outcome else {
            let accepted = Accepted {
                id: id.id().to_owned(),
                principal: id.principal().map(str::to_owned),
            };
            let mut answer = located(answer::json(StatusCode::ACCEPTED, &accepted), id);
            let applied = HeaderValue::from_static("respond-async");
            answer.headers_mut().insert(&PREFERENCE_APPLIED, applied);
            return Ok(answer);
        };
        let views = self.driver.show(id.clone()).await?;
        // It may have ended meanwhile, and is remembered then.
        let view = views
            .into_iter()
            .next()
            .ok_or_else(|| Problem::unknown_session(id))?;
        let session = Session::new(view, SystemTime::now());
        Ok(match origin {
            Origin::Created => located(answer::json(StatusCode::CREATED, &session), id),
            Origin::Reused => answer::json(StatusCode::OK, &session),
        })
    }

    pub(super) async fn stop(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        let id = asked.id()?;
        let only = asked.query.number("generation").map(Generation);
        // Before it is done: whoever asked may leave meanwhile.
        let there = self.driver.show(id.clone()).await?;
        let meant = |view: &SessionView| {
            view.ended.is_none() && only.is_none_or(|generation| view.session.generation == generation)
        };
        if there.iter().any(meant) {
            self.audit(Deed::Stop { id: id.clone() }, &asked.by);
        }
        let stopped = self.driver.stop(id.clone(), only).await?;
        let (outcome, death) = match stopped {
            Stopped::Ended { death } => (StopOutcome::Ended, death),
            Stopped::NeverStarted => (StopOutcome::NeverStarted, None),
            Stopped::Forgotten => {
                self.audit(Deed::Stop { id: id.clone() }, &asked.by);
                (StopOutcome::Forgotten, None)
            }
            Stopped::Unknown => return Err(self.absent(&id)),
            Stopped::OtherGeneration { current } => {
                return Err(Problem::new(
                    StatusCode::CONFLICT,
                    "stale_generation",
                    format!("session {id} is of generation {} now", current.0),
                ));
            }
        };
        let report = StopReport {
            id: id.id().to_owned(),
            principal: id.principal().map(str::to_owned),
            outcome,
            death: death.map(Into::into),
        };
        Ok(answer::json(StatusCode::OK, &report))
    }
}

impl State {
    /// As in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Bound => "bound",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }
}

fn located(mut answer: Answer, id: &SessionId) -> Answer {
    let mut location = format!("/v1/sessions/{}", id.id());
    if let Some(principal) = id.principal() {
        location.push_str("?principal=");
        location.push_str(principal);
    }
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// How long the client of a creation waits for it (RFC 7240, `respond-async` and `wait`). Other preferences are
/// ignored, as that document asks.
fn patience(headers: &HeaderMap) -> Result<Patience, Problem> {
    let mut respond_async = false;
    let mut wait = Duration::ZERO;
    for value in headers.get_all(&PREFER) {
        let value = value.to_str().unwrap_or_default();
        for preference in value.split([',', ';']) {
            match preference.trim().split_once('=') {
                None if preference.trim().eq_ignore_ascii_case("respond-async") => respond_async = true,
                Some((name, seconds)) if name.trim().eq_ignore_ascii_case("wait") => {
                    let seconds: u64 = seconds.trim().trim_matches('"').parse().map_err(|_| {
                        Problem::bad_request("Prefer: wait is a whole number of seconds".to_owned())
                    })?;
                    wait = Duration::from_secs(seconds);
                }
                _ => {}
            }
        }
    }
    Ok(match respond_async {
        true => Patience::For(wait),
        false => Patience::Endless,
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let wrong = |detail: &str| Problem::bad_request(format!("Idempotency-Key {detail}"));
    let mut keys = headers.get_all(&IDEMPOTENCY_KEY).into_iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(wrong("stands there twice"));
    }
    // A quoted string (RFC 9651), or as most clients send it.
    let key = key.to_str().unwrap_or_default().trim_matches('"');
    if key.is_empty() || key.len() > 128 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("is 1 to 128 visible ASCII characters"));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let pair = |value: &&str| (name.clone(), HeaderValue::from_str(value).unwrap());
        HeaderMap::from_iter(values.iter().map(pair))
    }

    #[test]
    fn a_client_that_prefers_an_early_answer_says_how_long_it_waits() {
        let seconds = |seconds| Patience::For(Duration::from_secs(seconds));
        for (values, expected) in [
            (&[][..], Patience::Endless),
            (&["respond-async"], seconds(0)),
            (&["Respond-Async, wait=5"], seconds(5)),
            (&["return=minimal", "wait=2; respond-async"], seconds(2)),
            (&["wait=9"], Patience::Endless),
        ] {
            assert_eq!(
                patience(&headers(&PREFER, values)).unwrap(),
                expected,
                "{values:?}"
            );
        }
        let problem = patience(&headers(&PREFER, &["respond-async, wait=soon"])).unwrap_err();
        assert_eq!(problem.detail(), "Prefer: wait is a whole number of seconds");
    }

    #[test]
    fn an_idempotency_key_is_one_short_visible_text() {
        let key = |values: &[&str]| {
            let headers = headers(&IDEMPOTENCY_KEY, values);
            idempotency_key(&headers)
                .map(|key| key.map(str::to_owned))
                .map_err(|problem| problem.detail().to_owned())
        };
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&["abc"]), Ok(Some("abc".to_owned())));
        assert_eq!(key(&["\"abc\""]), Ok(Some("abc".to_owned())));
        let wrong = Err("Idempotency-Key is 1 to 128 visible ASCII characters".to_owned());
        for value in ["", "a b", &"a".repeat(129)] {
            assert_eq!(key(&[value]), wrong);
        }
        assert_eq!(
            key(&["a", "b"]),
            Err("Idempotency-Key stands there twice".to_owned())
        );
    }
}
