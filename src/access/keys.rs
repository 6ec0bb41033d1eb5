//! Keys and secrets of herd.yaml, from where they are kept. Of a key herd keeps the SHA-256 only: what is in memory, and
//! may get into a core dump, opens nothing.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::{KeySource, Step};

/// Shorter keys could be guessed.
const SHORTEST: usize = 16;

/// SHA-256.
pub(crate) type Digest256 = [u8; 32];

/// A key or a secret that cannot be used, and where herd.yaml names it.
#[derive(Debug)]
pub struct BadSecret {
    pub at: Vec<Step>,
    pub why: SecretError,
}

impl BadSecret {
    pub(super) fn of_tokens(why: SecretError) -> Self {
        let at = ["auth", "tokens"].map(Step::from).to_vec();
        Self { at, why }
    }
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the variable {variable} is not set, or not text")]
    Unset { variable: String },
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("others can read {path}, so it is no secret; run `chmod 600 {path}`", path = .path.display())]
    Open { path: PathBuf },
    #[error("a key has at least {SHORTEST} characters; `herd key` makes one")]
    Short,
    #[error("a secret has at least {least} bytes; `head -c 32 /dev/urandom | base64` makes one", least = super::token::SHORTEST)]
    ShortSecret,
    #[error("this is {other}'s key, too; each principal has keys of its own")]
    Shared { other: String },
    #[error("no randomness for the secret of tokens: {0}")]
    NoRandomness(#[source] getrandom::Error),
}

/// The digests of the keys that stand `at` a place of herd.yaml, the first there and the others in its `also`, each with
/// its own place; `wrong` gets those that cannot be used.
pub(crate) fn read_all(
    at: &[Step],
    sources: &[KeySource],
    wrong: &mut Vec<BadSecret>,
) -> Vec<(Vec<Step>, Digest256)> {
    let mut read_ones = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let also = index
            .checked_sub(1)
            .map(|index| [Step::from("also"), Step::Index(index)]);
        let word = match source {
            KeySource::Sha256(_) => "sha256",
            KeySource::Env(_) => "env",
            KeySource::File(_) => "file",
        };
        let at: Vec<Step> = at
            .iter()
            .cloned()
            .chain(also.into_iter().flatten())
            .chain([word.into()])
            .collect();
        match read(source) {
            Ok(digest) => read_ones.push((at, digest)),
            Err(why) => wrong.push(BadSecret { at, why }),
        }
    }
    read_ones
}

fn read(source: &KeySource) -> Result<Digest256, SecretError> {
    let text = match source {
        KeySource::Sha256(digest) => return Ok(*digest),
        KeySource::Env(variable) => from_env(variable)?,
        KeySource::File(path) => from_file(path)?,
    };
    let text = text.trim();
    if text.len() < SHORTEST {
        return Err(SecretError::Short);
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

/// The text that this variable holds.
pub(crate) fn from_env(variable: &str) -> Result<String, SecretError> {
    std::env::var(variable).map_err(|_| SecretError::Unset {
        variable: variable.to_owned(),
    })
}

/// The text of this file, which others cannot read.
pub(crate) fn from_file(path: &Path) -> Result<String, SecretError> {
    let text = private_file(path).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|error| {
            NotPrivate::Unreadable(io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
        })
    });
    let path = path.to_owned();
    text.map_err(|why| match why {
        NotPrivate::Unreadable(source) => SecretError::Unreadable { path, source },
        NotPrivate::Open => SecretError::Open { path },
    })
}

/// Why there is nothing private in a file.
#[derive(Debug)]
pub(crate) enum NotPrivate {
    Unreadable(io::Error),
    /// Others may read or change it.
    Open,
}

/// What is in this file, which others cannot read.
pub(crate) fn private_file(path: &Path) -> Result<Vec<u8>, NotPrivate> {
    // One file, whatever is put in its place meanwhile: what is looked at is what is read.
    let mut file = fs::File::open(path).map_err(NotPrivate::Unreadable)?;
    let metadata = file.metadata().map_err(NotPrivate::Unreadable)?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(NotPrivate::Open);
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(NotPrivate::Unreadable)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &KeySource) -> String {
        read(source).unwrap_err().to_string()
    }

    #[test]
    fn a_key_is_read_from_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let read = |source| read(&source).unwrap();
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
        assert_eq!(told, "the variable HERD_NO_SUCH_VARIABLE is not set, or not text");
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
