//! Who may use what of the API. On the socket the kernel has said who is there; over TCP a key says it, with each request.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use super::answer::Problem;
use crate::config::{ControlKey, KeySource, May};
use crate::driver::By;

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;

/// Why `control.tcp` cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("control.keys.{name}: the variable {variable} is not set, or not text")]
    Unset { name: String, variable: String },
    #[error("control.keys.{name}: cannot read {}: {source}", .path.display())]
    Unreadable {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("control.keys.{name}: others can read {path}, so it is no secret; run `chmod 600 {path}`", path = .path.display())]
    Open { name: String, path: PathBuf },
    #[error("control.keys.{name}: a key has at least {SHORTEST} characters; `herd key` makes one")]
    Short { name: String },
    #[error("control.tcp: cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// The keys that are known, each by its SHA-256: what is in memory, and may get into a core dump, opens nothing.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

struct Key {
    name: Arc<str>,
    digest: [u8; 32],
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
        keys.iter().map(Key::read).collect::<Result<_, _>>().map(Self)
    }

    fn find(&self, presented: &str) -> Option<&Key> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        // All of it, always: how long it takes tells nothing.
        let same = |key: &Key| key.digest.iter().zip(digest).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
        self.0
            .iter()
            .fold(None, |found, key| if same(key) { Some(key) } else { found })
    }
}

impl Key {
    fn read(key: &ControlKey) -> Result<Self, KeyError> {
        let name = || key.name.clone();
        let digest = match &key.source {
            KeySource::Sha256(digest) => *digest,
            KeySource::Env(variable) => {
                let value = std::env::var(variable).map_err(|_| KeyError::Unset {
                    name: name(),
                    variable: variable.clone(),
                })?;
                digest(&value, &key.name)?
            }
            KeySource::File(path) => digest(&secret(path, &key.name)?, &key.name)?,
        };
        Ok(Self {
            name: key.name.as_str().into(),
            digest,
            may: key.may,
        })
    }
}

fn digest(key: &str, name: &str) -> Result<[u8; 32], KeyError> {
    let key = key.trim();
    if key.len() < SHORTEST {
        return Err(KeyError::Short {
            name: name.to_owned(),
        });
    }
    Ok(Sha256::digest(key).into())
}

fn secret(path: &Path, name: &str) -> Result<String, KeyError> {
    let unreadable = |source| KeyError::Unreadable {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    };
    let others = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o007;
    if others != 0 {
        return Err(KeyError::Open {
            name: name.to_owned(),
            path: path.to_owned(),
        });
    }
    fs::read_to_string(path).map_err(unreadable)
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

    fn key(source: KeySource) -> ControlKey {
        ControlKey {
            name: "k".to_owned(),
            source,
            may: May::Read,
        }
    }

    fn refused(source: KeySource) -> String {
        Keys::read(&[key(source)]).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_key_is_read_from_where_it_is_and_found_by_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let digest = Sha256::digest("fedcba9876543210").into();
        let keys = Keys::read(&[key(KeySource::File(path)), key(KeySource::Sha256(digest))]).unwrap();
        assert!(keys.find("0123456789abcdef").is_some());
        assert!(keys.find("fedcba9876543210").is_some());
        for wrong in ["", "0123456789abcde", "0123456789abcdef\n", "k"] {
            assert!(keys.find(wrong).is_none(), "{wrong:?}");
        }
        assert_eq!(format!("{keys:?}"), r#"["k", "k"]"#, "no digest in logs");
    }

    #[test]
    fn a_key_that_is_none_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(
            refused(KeySource::File(path.clone())).contains("cannot read"),
            "missing"
        );
        fs::write(&path, "0123456789abcdef").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let told = refused(KeySource::File(path.clone()));
        assert!(
            told.contains("others can read") && told.contains("chmod 600"),
            "{told}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(refused(KeySource::File(path)).contains("at least 16 characters"));
        let told = refused(KeySource::Env("HERD_NO_SUCH_VARIABLE".to_owned()));
        assert_eq!(
            told,
            "control.keys.k: the variable HERD_NO_SUCH_VARIABLE is not set, or not text"
        );
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
