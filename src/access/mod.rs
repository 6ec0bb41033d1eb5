//! Who may use the data plane: principals by their keys, web pages by signed tokens.
//!
//! ```text
//! Authorization: Bearer <key>     ─ SHA-256, compared in constant time ─▶ principal
//! token (header, query, cookie)   ─ HMAC-SHA-256, expiry, port ─────────▶ principal, one session, perhaps one kind
//! ```
//!
//! Nothing here changes while herd runs except the buckets of rates, each one atomic number; so the threads of the data
//! plane share it without a lock. Where a request carries its credential, and what is taken out of it, is `proxy::entry`'s;
//! how many sessions a principal has is counted where sessions are made, in the core.

#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub(crate) mod keys;
mod rate;
pub(crate) mod token;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Config, DataKey};
use crate::core::{KindId, SessionId};
pub use keys::SecretError;
use keys::{digest_of, same};
use rate::Bucket;
pub use token::{Claims, Rejection};
use token::{PREFIX, Signer};

/// Where keys stand in herd.yaml.
const KEYS: &str = "auth.keys";

/// Why the data plane cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("auth.keys.{name}: this is {other}'s key, too; each principal has a key of its own")]
    Shared { name: String, other: Arc<str> },
    #[error("no randomness for the secret of tokens: {0}")]
    NoRandomness(getrandom::Error),
}

/// How long tokens can be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// The secret is herd.yaml's, and may outlive herd.
    Configured,
    /// The secret dies with herd, and every token with it.
    UntilHerdEnds,
}

/// Somebody with a key.
#[derive(Debug)]
pub struct Principal {
    pub name: Arc<str>,
    digest: keys::Digest256,
    /// `None`: all.
    workers: Option<Vec<KindId>>,
    bucket: Option<Bucket>,
}

/// What a text that came as a credential is.
#[derive(Debug)]
pub enum Credential {
    Key(Arc<Principal>),
    Token(Arc<Principal>, Claims),
    BadToken(Rejection),
}

/// See the module's documentation.
pub struct Access {
    principals: Vec<Arc<Principal>>,
    signer: Signer,
    lasting: Lasting,
    /// Of the data plane; tokens are for it only.
    port: u16,
    pub cookie: String,
    pub query: String,
}

impl Access {
    /// Reads keys and secrets from where they are. `None`: herd.yaml has no `auth`, and everyone may.
    pub fn open(config: &Config, port: u16) -> Result<Option<Arc<Self>>, AccessError> {
        let Some(auth) = &config.auth else {
            return Ok(None);
        };
        let mut principals: Vec<Arc<Principal>> = Vec::new();
        for key in &auth.keys {
            let principal = Principal::read(key)?;
            if let Some(other) = principals.iter().find(|other| other.digest == principal.digest) {
                let (name, other) = (key.name.clone(), Arc::clone(&other.name));
                return Err(AccessError::Shared { name, other });
            }
            principals.push(Arc::new(principal));
        }
        let (signer, lasting) = match auth.tokens.secrets.as_slice() {
            [] => (
                Signer::random().map_err(AccessError::NoRandomness)?,
                Lasting::UntilHerdEnds,
            ),
            secrets => (Signer::read(secrets)?, Lasting::Configured),
        };
        Ok(Some(Arc::new(Self {
            principals,
            signer,
            lasting,
            port,
            cookie: auth.tokens.cookie.clone(),
            query: auth.tokens.query.clone(),
        })))
    }

    pub fn principal(&self, name: &str) -> Option<&Arc<Principal>> {
        self.principals.iter().find(|principal| *principal.name == *name)
    }

    /// Of all principals.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.principals.iter().map(|principal| &*principal.name)
    }

    pub fn lasting(&self) -> Lasting {
        self.lasting
    }

    /// A token for this session of a principal's, and when it expires.
    pub fn mint(&self, session: SessionId, worker: Option<String>, ttl: Duration) -> (String, SystemTime) {
        let expires = SystemTime::now() + ttl;
        let claims = Claims {
            session,
            worker,
            expires: millis(expires),
            port: self.port,
        };
        (self.signer.sign(&claims), expires)
    }

    /// `None`: neither a token nor a known key.
    pub fn recognise(&self, text: &str) -> Option<Credential> {
        if text.starts_with(PREFIX) {
            return Some(self.token(text));
        }
        let digest = digest_of(text);
        // All of it, always: how long it takes tells nothing.
        let found =
            self.principals
                .iter()
                .fold(None, |found, principal| match same(&principal.digest, &digest) {
                    true => Some(principal),
                    false => found,
                });
        found.map(|principal| Credential::Key(Arc::clone(principal)))
    }

    /// Reads what can be nothing but a token.
    pub fn token(&self, text: &str) -> Credential {
        let now = millis(SystemTime::now());
        match self.signer.verify(text, self.port, now) {
            Err(rejection) => Credential::BadToken(rejection),
            Ok(claims) => {
                // Who was taken out of herd.yaml has no tokens any more.
                let principal = claims.session.principal().and_then(|name| self.principal(name));
                match principal.cloned() {
                    Some(principal) => Credential::Token(principal, claims),
                    None => Credential::BadToken(Rejection::Revoked),
                }
            }
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.principals.iter().map(|principal| &principal.name);
        f.debug_list().entries(names).finish()
    }
}

impl Principal {
    fn read(key: &DataKey) -> Result<Self, SecretError> {
        Ok(Self {
            name: key.name.as_str().into(),
            digest: keys::read(KEYS, &key.name, &key.source)?,
            workers: key.workers.clone(),
            bucket: key.rate.map(Bucket::new),
        })
    }

    /// The kinds it may use; `None`: all.
    pub fn workers(&self) -> Option<&[KindId]> {
        self.workers.as_deref()
    }

    pub fn may_use(&self, kind: KindId) -> bool {
        self.workers().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// The kind of a new session that nothing else decides: the first that it may use. `None`: everybody's.
    pub fn first_kind(&self) -> Option<KindId> {
        self.workers()?.iter().min().copied()
    }

    /// Counts a request. `Err`: it is one too many, and after this time it would not be.
    pub fn count_request(&self, now: Instant) -> Result<(), Duration> {
        self.bucket.as_ref().map_or(Ok(()), |bucket| bucket.take(now))
    }
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
