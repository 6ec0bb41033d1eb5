//! Bringing sessions about: with or without waiting for them, under an id of the client's or a new one, once per
//! idempotency key.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::answer::Problem;
use super::views::{NewSession, Waiting};
use crate::access::Principal;
use crate::core::{HolderKind, KindId, Origin, SessionId};
use crate::driver::{
    Attached, Handle, JournalEvent, KindChoice, NotAttached, PoolView, Remains, Request, Wait,
};

/// Creations that go on after their answer.
const MOST_ON_THE_WAY: usize = 4096;
/// Idempotency keys that are remembered, and for how long.
const MOST_KEYS: usize = 10_000;
const KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a client waits for a session that it creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Endless,
    /// Then the creation goes on without it.
    For(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    There(Origin),
    OnTheWay,
}

/// What the creations of all connections share.
#[derive(Debug, Default)]
pub(super) struct Creating {
    on_the_way: Mutex<JoinSet<()>>,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    known: HashMap<String, Used>,
    /// Oldest first.
    order: VecDeque<(Instant, String)>,
}

/// What a key was used for.
#[derive(Debug, Clone)]
struct Used {
    id: SessionId,
    new: NewSession,
    created: bool,
    /// Uses of the key that have not come to an end. As long as there are some, its session may yet be made, so that it
    /// cannot be given another.
    under_way: usize,
}

impl Creating {
    /// Holds the session, creating it if need be.
    pub(super) async fn hold(
        &self,
        driver: &Handle,
        id: &SessionId,
        worker: Option<&str>,
        owner: Option<&Principal>,
    ) -> Result<Attached, Problem> {
        let pools = driver.pools().await?.kinds;
        let request = Request {
            id: id.clone(),
            kind: kind(worker, &pools, owner)?,
            holder: HolderKind::Hold,
            wait: Wait::Queue,
            remains: Remains::Respect,
        };
        let attached = driver.attach(request).await;
        attached.map_err(|refused| problem(refused, id, &pools))
    }

    /// Creates the session unless it is there. It is let go at once; its ttl runs from then.
    pub(super) async fn create(
        &self,
        driver: &Handle,
        id: &SessionId,
        new: &NewSession,
        owner: Option<&Principal>,
        patience: Patience,
    ) -> Result<Outcome, Problem> {
        let pools = driver.pools().await?.kinds;
        let request = Request {
            id: id.clone(),
            kind: kind(new.worker.as_deref(), &pools, owner)?,
            holder: HolderKind::Request,
            wait: match new.wait {
                Waiting::Queue => Wait::Queue,
                Waiting::Refuse => Wait::Refuse,
            },
            remains: Remains::Respect,
        };
        let Patience::For(limit) = patience else {
            let attached = driver.attach(request).await;
            return attached
                .map(|attached| Outcome::There(attached.origin))
                .map_err(|refused| problem(refused, id, &pools));
        };
        let mut result = self.in_background(driver.clone(), request, pools)?;
        match tokio::time::timeout(limit, &mut result).await {
            Ok(Ok(result)) => result.map(Outcome::There),
            // Nobody is there to tell it: herd ends.
            Ok(Err(_)) => Err(Problem::from(crate::driver::DriverGone)),
            Err(_) => Ok(Outcome::OnTheWay),
        }
    }

    /// As [`create`](Self::create), under the new id `minted`; the same key again means the same session.
    pub(super) async fn create_once(
        &self,
        driver: &Handle,
        key: &str,
        minted: SessionId,
        new: &NewSession,
        owner: Option<&Principal>,
        patience: Patience,
    ) -> Result<(SessionId, Outcome), Problem> {
        let used = self.keys().used(key, new, Instant::now(), minted)?;
        if used.created {
            // Whatever has become of it: a repeated request creates nothing.
            return Ok((used.id, Outcome::There(Origin::Reused)));
        }
        let using = Using {
            creating: self,
            key,
            id: &used.id,
        };
        let outcome = self.create(driver, &used.id, new, owner, patience).await;
        using.ended(outcome.as_ref().ok().copied());
        outcome.map(|outcome| (used.id, outcome))
    }

    /// An id that nobody can guess, 128 random bits, as this principal's.
    pub(super) fn mint(&self, principal: Option<&str>) -> Result<SessionId, Problem> {
        let failed = |detail: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|e| failed(format!("no randomness for a new id: {e}")))?;
        let id = data_encoding::HEXLOWER.encode(&bits);
        let id = SessionId::parse(id.as_bytes()).map_err(|e| failed(e.to_string()))?;
        Ok(principal.map_or_else(|| id.clone(), |principal| id.of(principal)))
    }

    fn in_background(
        &self,
        driver: Handle,
        request: Request,
        pools: Vec<PoolView>,
    ) -> Result<oneshot::Receiver<Result<Origin, Problem>>, Problem> {
        let (tell, told) = oneshot::channel();
        let mut on_the_way = self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner);
        while on_the_way.try_join_next().is_some() {}
        if on_the_way.len() >= MOST_ON_THE_WAY {
            return Err(Problem::unavailable(
                "at_capacity",
                format!("{MOST_ON_THE_WAY} sessions are being created already"),
            ));
        }
        on_the_way.spawn(async move {
            let id = request.id.clone();
            let result = driver.attach(request).await;
            let result = result
                .map(|attached| attached.origin)
                .map_err(|refused| problem(refused, &id, &pools));
            if let Err(Err(problem)) = tell.send(result) {
                // The client has its answer already; who watches the events hears of it.
                driver.journal().push(JournalEvent::SessionRefused {
                    id,
                    code: problem.code(),
                    detail: problem.detail().to_owned(),
                });
            }
        });
        Ok(told)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One use of a key, until its outcome is known.
struct Using<'c> {
    creating: &'c Creating,
    key: &'c str,
    id: &'c SessionId,
}

impl Using<'_> {
    fn ended(self, outcome: Option<Outcome>) {
        let mut keys = self.creating.keys();
        match outcome {
            Some(Outcome::There(_)) => keys.created(self.key, self.id),
            // It is decided without this one.
            Some(Outcome::OnTheWay) => keys.keep(self.key, self.id),
            None => {}
        }
    }
}

/// Also of a client that has left: it is not known whether its session is made.
impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.creating.keys().let_go(self.key, self.id);
    }
}

impl Keys {
    fn used(
        &mut self,
        key: &str,
        new: &NewSession,
        now: Instant,
        minted: SessionId,
    ) -> Result<Used, Problem> {
        let old = |(at, _): &(Instant, String)| now.saturating_duration_since(*at) > KEY_LIFE;
        while self.order.front().is_some_and(old) {
            self.forget_oldest();
        }
        if let Some(used) = self.known.get_mut(key) {
            if used.new != *new || used.id.principal() != minted.principal() {
                return Err(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "idempotency_key_reused",
                    "this Idempotency-Key was used with another body or principal; use a new one",
                ));
            }
            if !used.created {
                used.under_way += 1;
            }
            return Ok(used.clone());
        }
        // Only a new key takes a place: a repeated one must not have another forgotten.
        while self.order.len() >= MOST_KEYS {
            self.forget_oldest();
        }
        let used = Used {
            id: minted,
            new: new.clone(),
            created: false,
            under_way: 1,
        };
        self.known.insert(key.to_owned(), used.clone());
        self.order.push_back((now, key.to_owned()));
        Ok(used)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.known.remove(&key);
        }
    }

    /// A key that was dropped meanwhile, for its age or for room, may be another's by now.
    fn of(&mut self, key: &str, id: &SessionId) -> Option<&mut Used> {
        self.known.get_mut(key).filter(|used| used.id == *id)
    }

    fn created(&mut self, key: &str, id: &SessionId) {
        if let Some(used) = self.of(key, id) {
            used.created = true;
        }
    }

    /// One use will never be let go.
    fn keep(&mut self, key: &str, id: &SessionId) {
        if let Some(used) = self.of(key, id) {
            used.under_way += 1;
        }
    }

    /// Of the last use, if none has made the session: tried again, it may go better.
    fn let_go(&mut self, key: &str, id: &SessionId) {
        let Some(used) = self.of(key, id) else {
            return;
        };
        used.under_way = used.under_way.saturating_sub(1);
        if used.under_way == 0 && !used.created {
            self.known.remove(key);
            self.order.retain(|(_, known)| known != key);
        }
    }
}

/// The kind of this name, or the first, as far as the session's owner may use it.
pub(super) fn kind(
    name: Option<&str>,
    pools: &[PoolView],
    owner: Option<&Principal>,
) -> Result<KindChoice, Problem> {
    let Some(name) = name else {
        return Ok(KindChoice::Fallback(
            owner
                .and_then(Principal::first_kind)
                .or_else(|| pools.first().map(|pool| pool.id))
                .unwrap_or_default(),
        ));
    };
    let kind = pools
        .iter()
        .find(|pool| pool.kind == name)
        .map(|pool| pool.id)
        .ok_or_else(|| Problem::unknown_worker(name, pools))?;
    match owner {
        Some(owner) if !owner.may_use(kind) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "worker_not_allowed",
            format!("the key {} may not use {name:?} workers", owner.name),
        )),
        _ => Ok(KindChoice::Named(kind)),
    }
}

fn problem(refused: NotAttached, id: &SessionId, pools: &[PoolView]) -> Problem {
    let name = |kind: KindId| {
        pools
            .iter()
            .find(|pool| pool.id == kind)
            .map_or_else(|| kind.to_string(), |pool| pool.kind.clone())
    };
    Problem::refused(refused.refusal, id, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SessionId {
        SessionId::parse(format!("s{number}").as_bytes()).unwrap()
    }

    #[test]
    fn a_key_means_one_session_for_a_day_and_one_body() {
        let mut keys = Keys::default();
        let new = NewSession::default();
        let now = Instant::now();
        let first = keys.used("k", &new, now, id(1)).unwrap();
        assert_eq!((first.id, first.created), (id(1), false));
        keys.created("k", &id(1));
        let again = keys.used("k", &new, now, id(2)).unwrap();
        assert_eq!((again.id, again.created), (id(1), true));
        let other = NewSession {
            wait: Waiting::Refuse,
            ..NewSession::default()
        };
        let problem = keys.used("k", &other, now, id(3)).unwrap_err();
        assert_eq!(problem.code(), "idempotency_key_reused");
        let tomorrow = now + KEY_LIFE + Duration::from_secs(1);
        assert_eq!(keys.used("k", &other, tomorrow, id(4)).unwrap().id, id(4));
    }

    #[test]
    fn a_failed_use_leaves_the_key_to_another_that_is_under_way() {
        let mut keys = Keys::default();
        let (new, now) = (NewSession::default(), Instant::now());
        keys.used("k", &new, now, id(1)).unwrap();
        assert_eq!(keys.used("k", &new, now, id(2)).unwrap().id, id(1));
        keys.let_go("k", &id(1));
        assert_eq!(
            keys.used("k", &new, now, id(3)).unwrap().id,
            id(1),
            "one is under way"
        );
        keys.created("k", &id(1));
        keys.let_go("k", &id(1));
        keys.let_go("k", &id(1));
        let again = keys.used("k", &new, now, id(4)).unwrap();
        assert_eq!((again.id, again.created), (id(1), true));
    }

    #[test]
    fn a_repeated_key_has_no_other_forgotten_though_all_places_are_taken() {
        let mut keys = Keys::default();
        let (new, now) = (NewSession::default(), Instant::now());
        for number in 0..MOST_KEYS {
            keys.used(&number.to_string(), &new, now, id(number)).unwrap();
        }
        for repeated in [1, 0] {
            let used = keys
                .used(&repeated.to_string(), &new, now, id(MOST_KEYS))
                .unwrap();
            assert_eq!(used.id, id(repeated));
        }
    }

    #[test]
    fn only_so_many_keys_are_remembered_and_a_failed_one_is_free() {
        let mut keys = Keys::default();
        let (new, now) = (NewSession::default(), Instant::now());
        for number in 0..=MOST_KEYS {
            keys.used(&number.to_string(), &new, now, id(number)).unwrap();
        }
        assert_eq!((keys.known.len(), keys.order.len()), (MOST_KEYS, MOST_KEYS));
        keys.let_go("7", &id(7));
        assert_eq!(
            (keys.known.len(), keys.order.len()),
            (MOST_KEYS - 1, MOST_KEYS - 1)
        );
    }
}
