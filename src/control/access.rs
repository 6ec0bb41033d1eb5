//! Who may use what of the API. On the socket the kernel has said who is there; over TCP a key says it, with each request.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use tokio::sync::watch;

use super::answer::Problem;
use super::site::Names;
use crate::access::BadSecret;
use crate::access::keys::{self, Digest256, digest_of, same};
use crate::config::{Config, May, Step, listening};
use crate::driver::By;

/// `control.tcp` cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("control.tcp: cannot listen on {address}: {source}{}", listening::advice(.source, "control.tcp"))]
pub struct ListenError {
    pub(super) address: SocketAddr,
    pub(super) source: io::Error,
}

/// Who is let in over `control.tcp`, and by which names of this host.
#[derive(Debug, Default)]
pub struct Admission {
    keys: Keys,
    pub(super) names: Names,
}

impl Admission {
    /// Reads the keys from where they are.
    pub fn read(config: &Config) -> Result<Self, Vec<BadSecret>> {
        let mut wrong = Vec::new();
        let keys = config.control_keys.iter().flat_map(|key| {
            let at = ["control", "keys", &key.name].map(Step::from);
            let name: Arc<str> = key.name.as_str().into();
            let digests = keys::read_all(&at, &key.sources, &mut wrong);
            digests.into_iter().map(move |(_, digest)| Key {
                name: Arc::clone(&name),
                digest,
                may: key.may,
            })
        });
        let keys = Keys(keys.collect());
        let names = Names::new(&config.control_hosts);
        match wrong.is_empty() {
            true => Ok(Self { keys, names }),
            false => Err(wrong),
        }
    }

    /// Whether whoever has this name may still do what needs so much.
    pub(super) fn still(&self, name: &str, needed: May) -> bool {
        let mut named = self.keys.0.iter().filter(|key| *key.name == *name);
        named.any(|key| key.may >= needed)
    }
}

/// The keys that are known, each by its SHA-256: what is in memory, and may get into a core dump, opens nothing.
#[derive(Default)]
struct Keys(Vec<Key>);

struct Key {
    name: Arc<str>,
    digest: Digest256,
    may: May,
}

/// Who sends the requests of a connection.
#[derive(Debug)]
pub(super) enum Caller {
    Known(By),
    /// A user who has no business here, but could connect.
    Foreign {
        uid: u32,
    },
    /// Over TCP.
    Unknown(Used),
}

/// By which key, for how much, the latest request of a connection was let in.
#[derive(Debug, Default)]
pub(super) struct Used(Mutex<Option<(Arc<str>, May)>>);

impl Used {
    /// Resolves, with the key's name, when a reload has taken away what that request was let in by.
    async fn revoked(&self, admission: &mut watch::Receiver<Admission>) -> Arc<str> {
        while admission.changed().await.is_ok() {
            let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((name, needed)) = used
                && !admission.borrow_and_update().still(&name, needed)
            {
                return name;
            }
        }
        std::future::pending().await
    }
}

/// Somebody known, and how much they may.
#[derive(Debug)]
pub(super) struct Allowed {
    by: By,
    may: May,
}

impl Keys {
    fn find(&self, presented: &str) -> Option<&Key> {
        let digest = digest_of(presented);
        // All of it, always: how long it takes tells nothing.
        self.0
            .iter()
            .fold(None, |found, key| match same(&key.digest, &digest) {
                true => Some(key),
                false => found,
            })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|key| &key.name))
            .finish()
    }
}

impl Caller {
    /// Resolves, with the key's name, when whoever is there has been let in by a key that a reload has taken away. Until
    /// then the latest request goes on, whatever it is.
    pub(super) async fn revoked(&self, admission: &mut watch::Receiver<Admission>) -> Arc<str> {
        match self {
            Self::Unknown(used) => used.revoked(admission).await,
            Self::Known(_) | Self::Foreign { .. } => std::future::pending().await,
        }
    }

    /// Who it is, if they may do what needs so much.
    pub(super) fn admit(&self, allowed: Allowed, needed: May) -> Result<By, Problem> {
        let by = allowed.to(needed)?;
        if let (Self::Unknown(Used(used)), By::Key(name)) = (self, &by) {
            let name = Arc::clone(name);
            *used.lock().unwrap_or_else(PoisonError::into_inner) = Some((name, needed));
        }
        Ok(by)
    }

    pub(super) fn identify(&self, headers: &HeaderMap, admission: &Admission) -> Result<Allowed, Problem> {
        match self {
            Self::Known(by) => Ok(Allowed {
                by: by.clone(),
                may: May::Control,
            }),
            Self::Foreign { uid } => Err(Problem::forbidden(*uid)),
            Self::Unknown(_) => {
                let mut values = headers.get_all(AUTHORIZATION).into_iter();
                let (Some(value), None) = (values.next(), values.next()) else {
                    return Err(Problem::unauthorized(
                        "send one header Authorization: Bearer <key>",
                    ));
                };
                let presented = value.to_str().ok().and_then(|value| value.split_once(' '));
                let presented = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let key = presented.and_then(|(_, key)| admission.keys.find(key.trim()));
                let key = key.ok_or_else(|| Problem::unauthorized("this key is not known"))?;
                Ok(Allowed {
                    by: By::Key(Arc::clone(&key.name)),
                    may: key.may,
                })
            }
        }
    }
}

impl Allowed {
    fn to(self, needed: May) -> Result<By, Problem> {
        if self.may >= needed {
            return Ok(self.by);
        }
        let word = match needed {
            May::Metrics => "metrics",
            May::Read => "read",
            May::Control => "control",
        };
        let who = match &self.by {
            By::Key(name) => format!("the key {name}"),
            By::Peer { uid, .. } => format!("uid {uid}"),
        };
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("{who} may not do this; it needs `may: {word}`"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_with_what_to_do() {
        let error = ListenError {
            address: "127.0.0.1:9190".parse().unwrap(),
            source: io::Error::from_raw_os_error(libc::EADDRINUSE),
        };
        let text = error.to_string();
        assert!(text.ends_with("stop it or choose another control.tcp"), "{text}");
    }

    #[test]
    fn a_key_is_found_by_itself_alone() {
        let key = |name: &str, key: &str| Key {
            name: name.into(),
            digest: digest_of(key),
            may: May::Read,
        };
        let keys = Keys(vec![key("a", "0123456789abcdef"), key("b", "fedcba9876543210")]);
        let found = |text| keys.find(text).map(|key| &*key.name);
        assert_eq!(found("0123456789abcdef"), Some("a"));
        assert_eq!(found("fedcba9876543210"), Some("b"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef\n", "k"] {
            assert_eq!(found(wrong), None, "{wrong:?}");
        }
        assert_eq!(format!("{keys:?}"), r#"["a", "b"]"#, "no digest in logs");
    }

    #[test]
    fn who_may_more_may_less_too() {
        let allowed = |may| Allowed {
            by: By::Key("k".into()),
            may,
        };
        let by = allowed(May::Control).to(May::Metrics).unwrap();
        assert_eq!(by, By::Key("k".into()));
        let problem = allowed(May::Metrics).to(May::Read).unwrap_err();
        assert_eq!(
            problem.detail(),
            "the key k may not do this; it needs `may: read`"
        );
    }
}
