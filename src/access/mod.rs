//! Who may use the data plane: principals by their keys, web pages by signed tokens.
//!
//! ```text
//! Authorization: Bearer <key>     ─ SHA-256, compared in constant time ─▶ principal
//! token (header, query, cookie)   ─ HMAC-SHA-256, expiry, port ─────────▶ principal, one session, perhaps one kind
//! ```
//!
//! A reload makes another [`Access`] and leaves the one before as it is, except the buckets of rates, each one atomic
//! number, which go over from the one to the other; so the threads of the data plane share it without a lock. What can be
//! wrong with a key is found before, by [`Secrets::read`]. Where a request carries its credential, and what is taken out of it, is `proxy::entry`'s;
//! how many sessions a principal has is counted where sessions are made, in the core.

mod current;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub(crate) mod keys;
mod rate;
mod secrets;
pub(crate) mod token;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Config, Tokens};
use crate::core::{KindId, SessionId};
pub use current::{Current, InForce};
pub use keys::{BadSecret, SecretError};
use keys::{Digest256, digest_of, same};
use rate::Bucket;
pub use secrets::Secrets;
pub use token::{Claims, Rejection};
use token::{PREFIX, Signer};

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
    /// Of each of its keys.
    digests: Vec<Digest256>,
    /// In the order of herd.yaml; `None`: all.
    workers: Option<Vec<KindId>>,
    bucket: Option<Arc<Bucket>>,
}

/// What a text that came as a credential is.
#[derive(Debug)]
pub enum Credential {
    Key(Arc<Principal>),
    Token(Arc<Principal>, Claims),
    BadToken(Rejection),
}

/// See the module's documentation.
#[derive(Clone)]
pub struct Access {
    principals: Vec<Arc<Principal>>,
    signer: Arc<Signer>,
    lasting: Lasting,
    /// Of the data plane; tokens are for it only.
    port: u16,
    pub cookie: String,
    pub query: String,
}

impl Access {
    /// Lets those in who have the `secrets` that were read for this configuration. `None`: herd.yaml has no `auth`, and
    /// everyone may.
    pub fn new(config: &Config, secrets: Option<Secrets>, port: u16) -> Option<Arc<Self>> {
        let tokens = &config.auth.as_ref()?.tokens;
        Some(Self::assemble(config, tokens, secrets?, port, None))
    }

    /// The next one, for a configuration whose kinds have their numbers. Who is still there keeps what its rate has left;
    /// a secret that herd has made goes on to sign.
    pub fn renewed(&self, config: &Config, secrets: Secrets) -> Option<Arc<Self>> {
        let tokens = &config.auth.as_ref()?.tokens;
        Some(Self::assemble(config, tokens, secrets, self.port, Some(self)))
    }

    fn assemble(
        config: &Config,
        tokens: &Tokens,
        secrets: Secrets,
        port: u16,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let keys = config.auth.iter().flat_map(|auth| &auth.keys);
        let principals = keys.zip(secrets.digests).map(|(key, digests)| {
            let known = before.and_then(|before| before.principal(&key.name));
            let bucket = known.and_then(|known| known.bucket.as_ref());
            Arc::new(Principal {
                name: key.name.as_str().into(),
                digests,
                workers: key.workers.as_ref().map(|workers| config.in_order(workers)),
                bucket: key.rate.map(|rate| match bucket {
                    Some(bucket) => bucket.with(rate),
                    None => Arc::new(Bucket::new(rate)),
                }),
            })
        });
        let (signer, lasting) = match (secrets.lasting, before) {
            (Lasting::UntilHerdEnds, Some(before)) if before.lasting == Lasting::UntilHerdEnds => {
                (Arc::clone(&before.signer), before.lasting)
            }
            (lasting, _) => (Arc::new(secrets.signer), lasting),
        };
        Arc::new(Self {
            principals: principals.collect(),
            signer,
            lasting,
            port,
            cookie: tokens.cookie.clone(),
            query: tokens.query.clone(),
        })
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
        let keys = self
            .principals
            .iter()
            .flat_map(|principal| principal.digests.iter().map(move |key| (key, principal)));
        let found = keys.fold(None, |found, (key, principal)| match same(key, &digest) {
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
    /// The kinds it may use; `None`: all.
    pub fn workers(&self) -> Option<&[KindId]> {
        self.workers.as_deref()
    }

    pub fn may_use(&self, kind: KindId) -> bool {
        self.workers().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// The kind of a new session that nothing else decides: the first of herd.yaml that it may use. `None`: everybody's.
    pub fn first_kind(&self) -> Option<KindId> {
        self.workers()?.first().copied()
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
