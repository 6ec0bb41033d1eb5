//! Who may use what of the API. On the socket the kernel has said who is there; over TCP a key says it, with each request.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use super::answer::Problem;
use crate::access::SecretError;
use crate::access::keys::{self, Digest256, digest_of, same};
use crate::config::{ControlKey, May};
use crate::driver::By;

/// Where keys stand in herd.yaml.
const KEYS: &str = "control.keys";

/// Why `control.tcp` cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("control.tcp: cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// The keys that are known, each by its SHA-256: what is in memory, and may get into a core dump, opens nothing.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

struct Key {
    name: Arc<str>,
    digest: Digest256,
    may: May,
}

/// Who sends the requests of a connection.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    Known(By),
    /// A user who has no business here, but could connect.
    Foreign {
        uid: u32,
    },
    /// Over TCP.
    Unknown(Arc<Keys>),
}

/// Somebody known, and how much they may.
#[derive(Debug)]
pub(super) struct Allowed {
    by: By,
    may: May,
}

impl Keys {
    pub(super) fn read(keys: &[ControlKey]) -> Result<Self, KeyError> {
        let keys: Result<_, SecretError> = keys.iter().map(Key::read).collect();
        Ok(Self(keys?))
    }

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

impl Key {
    fn read(key: &ControlKey) -> Result<Self, SecretError> {
        Ok(Self {
            name: key.name.as_str().into(),
            digest: keys::read(KEYS, &key.name, &key.source)?,
            may: key.may,
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
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Allowed, Problem> {
        match self {
            Self::Known(by) => Ok(Allowed {
                by: by.clone(),
                may: May::Control,
            }),
            Self::Foreign { uid } => Err(Problem::forbidden(*uid)),
            Self::Unknown(keys) => {
                let mut values = headers.get_all(AUTHORIZATION).into_iter();
                let (Some(value), None) = (values.next(), values.next()) else {
                    return Err(Problem::unauthorized(
                        "send one header Authorization: Bearer <key>",
                    ));
                };
                let presented = value.to_str().ok().and_then(|value| value.split_once(' '));
                let presented = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let key = presented.and_then(|(_, key)| keys.find(key.trim()));
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
    pub(super) fn to(self, needed: May) -> Result<By, Problem> {
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
    use crate::config::KeySource;

    #[test]
    fn a_key_is_found_by_itself_alone() {
        let key = |name: &str, key: &str| ControlKey {
            name: name.to_owned(),
            source: KeySource::Sha256(digest_of(key)),
            may: May::Read,
        };
        let keys = Keys::read(&[key("a", "0123456789abcdef"), key("b", "fedcba9876543210")]).unwrap();
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
