//! Signing tokens for sessions.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::answer::{self, Answer, Problem};
use super::creating;
use super::router::{Asked, Router};
use super::time::rfc3339;
use super::views::{NewToken, Token};
use crate::access::token::LONGEST_LIFE;
use crate::access::{Access, InForce, Principal};
use crate::core::SessionId;
use crate::driver::Deed;

const TTL: Duration = Duration::from_secs(600);
const SHORTEST: Duration = Duration::from_secs(1);

impl Router {
    pub(super) async fn token(&self, asked: &Asked<'_>, new: NewToken) -> Result<Answer, Problem> {
        let session = asked.id()?;
        let (_, InForce { access, .. }) = self.driver.config().get();
        let Some(access) = access else {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "no_auth",
                "herd.yaml has no auth, so no token is needed: whoever can connect to the data port may use it",
            ));
        };
        let owner = owner(Some(&access), &session)?;
        let ttl = new.ttl_ms.map_or(TTL, Duration::from_millis);
        if !(SHORTEST..=LONGEST_LIFE).contains(&ttl) {
            return Err(Problem::bad_request(
                "ttl_ms is out of range: 1000 (a second) to 86400000 (a day)",
            ));
        }
        if let Some(worker) = &new.worker {
            creating::kind(Some(worker), &self.driver.pools().await?.kinds, owner.as_deref())?;
        }
        let (token, expires) = access.mint(session.clone(), new.worker.clone(), ttl);
        let signed = Token {
            id: session.id().to_owned(),
            principal: session.principal().unwrap_or_default().to_owned(),
            worker: new.worker,
            expires: rfc3339(expires),
            url: format!("{}/?{}={token}", self.data.url, access.query),
            cookie: access.cookie.clone(),
            query: access.query.clone(),
            token,
        };
        self.audit(Deed::Token { id: session }, &asked.by);
        Ok(answer::json(StatusCode::CREATED, &signed))
    }

    /// Who a new session of this name would be of, if `auth` lets there be one.
    pub(super) fn owner(&self, session: &SessionId) -> Result<Option<Arc<Principal>>, Problem> {
        let (_, InForce { access, .. }) = self.driver.config().get();
        owner(access.as_deref(), session)
    }

    /// Why there is nothing under this name: with `auth`, a name without a principal is nobody's, unless it was a session's
    /// of the time before `auth`.
    pub(super) fn absent(&self, session: &SessionId) -> Problem {
        let (_, InForce { access, .. }) = self.driver.config().get();
        match (access, session.principal()) {
            (Some(_), None) if self.former.of(session.as_str()).next().is_none() => principal_required(),
            _ => Problem::unknown_session(session),
        }
    }
}

fn owner(access: Option<&Access>, session: &SessionId) -> Result<Option<Arc<Principal>>, Problem> {
    match (access, session.principal()) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(principal_required()),
        (_, Some(name)) => access
            .and_then(|access| access.principal(name))
            .map(|principal| Some(Arc::clone(principal)))
            .ok_or_else(|| Problem::unknown_principal(name)),
    }
}

fn principal_required() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "principal_required",
        "with auth in herd.yaml a session is a principal's: add ?principal=NAME; commands take NAME/ID",
    )
}
