//! Keys and secrets of herd.yaml, from where they are kept. Of a key herd keeps the SHA-256 only: what is in memory, and
//! may get into a core dump, opens nothing.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::KeySource;

/// Shorter keys could be guessed.
const SHORTEST: usize = 16;

/// SHA-256.
pub(crate) type Digest256 = [u8; 32];

/// Why a key or a secret cannot be used. `key` is where it stands in herd.yaml.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{key}: the variable {variable} is not set, or not text")]
    Unset { key: String, variable: String },
    #[error("{key}: cannot read {}: {source}", .path.display())]
    Unreadable {
        key: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{key}: others can read {path}, so it is no secret; run `chmod 600 {path}`", path = .path.display())]
    Open { key: String, path: PathBuf },
    #[error("{key}: a key has at least {SHORTEST} characters; `herd key` makes one")]
    Short { key: String },
    #[error("{key}: a secret has at least {least} bytes; `head -c 32 /dev/urandom | base64` makes one", least = super::token::SHORTEST)]
    ShortSecret { key: String },
}

/// The digest of the key `name` in the section `keys`.
pub(crate) fn read(keys: &str, name: &str, source: &KeySource) -> Result<Digest256, SecretError> {
    let key = || format!("{keys}.{name}");
    let text = match source {
        KeySource::Sha256(digest) => return Ok(*digest),
        KeySource::Env(variable) => from_env(variable, key)?,
        KeySource::File(path) => from_file(path, key)?,
    };
    let text = text.trim();
    if text.len() < SHORTEST {
        return Err(SecretError::Short { key: key() });
    }
    Ok(digest_of(text))
}

pub(crate) fn digest_of(key: &str) -> Digest256 {
    Sha256::digest(key).into()
}

/// In the same time whatever they are.
pub(crate) fn same(a: &Digest256, b: &Digest256) -> bool {
    a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// The text that this variable holds. `key`: where in herd.yaml it is named.
pub(crate) fn from_env(variable: &str, key: impl Fn() -> String) -> Result<String, SecretError> {
    std::env::var(variable).map_err(|_| SecretError::Unset {
        key: key(),
        variable: variable.to_owned(),
    })
}

/// The text of this file, which others cannot read.
pub(crate) fn from_file(path: &Path, key: impl Fn() -> String) -> Result<String, SecretError> {
    let unreadable = |source| SecretError::Unreadable {
        key: key(),
        path: path.to_owned(),
        source,
    };
    let others = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o007;
    if others != 0 {
        return Err(SecretError::Open {
            key: key(),
            path: path.to_owned(),
        });
    }
    fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &KeySource) -> String {
        read("control.keys", "k", source).unwrap_err().to_string()
    }

    #[test]
    fn a_key_is_read_from_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let read = |source| read("control.keys", "k", &source).unwrap();
        let expected = digest_of("0123456789abcdef");
        assert_eq!(read(KeySource::File(path)), expected, "without its line end");
        assert_eq!(read(KeySource::Sha256(expected)), expected);
    }

    #[test]
    fn a_key_that_is_none_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(
            refused(&KeySource::File(path.clone())).contains("cannot read"),
            "missing"
        );
        fs::write(&path, "0123456789abcdef").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let told = refused(&KeySource::File(path.clone()));
        assert!(
            told.contains("others can read") && told.contains("chmod 600"),
            "{told}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(refused(&KeySource::File(path)).contains("at least 16 characters"));
        let told = refused(&KeySource::Env("HERD_NO_SUCH_VARIABLE".to_owned()));
        assert_eq!(
            told,
            "control.keys.k: the variable HERD_NO_SUCH_VARIABLE is not set, or not text"
        );
    }

    #[test]
    fn digests_that_differ_in_any_one_bit_differ() {
        let digest = digest_of("0123456789abcdef");
        assert!(same(&digest, &digest.clone()));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!same(&digest, &other), "bit {bit}");
        }
    }
}
