//! What a root filesystem consists of, and the digest over it.
//!
//! Owners and times are no part of it: a bundle made rootless belongs to its maker, one made by root to the image's
//! users, and the same input has to have the same digest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 of some bytes; shown as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Digest(pub [u8; 32]);

/// A text is no digest that herd can check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sha256 digest (`sha256:` and 64 lower-case hexadecimal digits)")]
pub struct NotADigest(String);

impl Sha256Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl std::fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl std::fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Sha256Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let wrong = || NotADigest(text.chars().take(100).collect());
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        let bytes = data_encoding::HEXLOWER
            .decode(hex.as_bytes())
            .map_err(|_| wrong())?;
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Entry {
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        size: u64,
        sha256: Sha256Digest,
    },
    Link {
        /// Escaped like paths.
        target: String,
    },
}

/// Entries by their path below the root; the root itself is the empty path.
pub type Entries = BTreeMap<PathBuf, Entry>;

/// The digest of a root filesystem together with what is to run in it.
pub fn digest(process: &str, entries: &Entries) -> Sha256Digest {
    let mut hash = Sha256::new();
    let mut line = format!("herd bundle 1\nconfig {}\n", Sha256Digest::of(process.as_bytes()));
    for (path, entry) in entries {
        let path = escape(path.as_os_str());
        // Writing to a String cannot fail.
        let _ = match entry {
            Entry::Directory { mode } => writeln!(line, "directory {mode:04o} {path}"),
            Entry::File { mode, size, sha256 } => {
                writeln!(line, "file {mode:04o} {size} {sha256} {path}")
            }
            Entry::Link { target } => writeln!(line, "link {path}\n  to {target}"),
        };
        hash.update(&line);
        line.clear();
    }
    Sha256Digest(hash.finalize().into())
}

/// Total size of the files, in bytes; a file with several names counts for each of them.
pub fn size(entries: &Entries) -> u64 {
    entries
        .values()
        .map(|entry| match entry {
            Entry::File { size, .. } => *size,
            Entry::Directory { .. } | Entry::Link { .. } => 0,
        })
        .sum()
}

/// File names are bytes: what is no printable UTF-8, and the backslash, becomes `\xNN`. [`unescape`] is exact.
pub fn escape(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The path that [`escape`] wrote; `None` if it cannot have.
pub fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'\\' {
            let hex = rest.strip_prefix(b"x").and_then(|hex| hex.get(..2))?;
            bytes.extend(data_encoding::HEXLOWER.decode(hex).ok()?);
            rest = &rest[3..];
        } else {
            bytes.push(first);
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// For messages: an entry of a root filesystem as a person would name it.
pub fn shown(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => "/".to_owned(),
        false => escape(path.as_os_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_its_escaping() {
        for name in [&b"plain"[..], b"a\\b", b"\xff\xfe/x", "ü\n\u{85}".as_bytes(), b""] {
            let escaped = escape(OsStr::from_bytes(name));
            assert!(!escaped.contains(char::is_control), "{escaped}");
            assert_eq!(unescape(&escaped).unwrap().as_os_str().as_bytes(), name);
        }
        for wrong in ["\\", "\\x1", "\\xzz", "\\n"] {
            assert_eq!(unescape(wrong), None);
        }
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = Sha256Digest::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in [
            "",
            "sha256:",
            "sha512:00",
            &digest.to_string().to_uppercase(),
            "sha256:0",
        ] {
            assert!(wrong.parse::<Sha256Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn everything_but_owner_and_time_is_part_of_the_digest() {
        let file = |mode, size, content: &[u8]| Entry::File {
            mode,
            size,
            sha256: Sha256Digest::of(content),
        };
        let link = |target: &str| Entry::Link {
            target: target.to_owned(),
        };
        let variants = [
            ("p", "a", file(0o644, 1, b"x")),
            ("p", "a", file(0o755, 1, b"x")),
            ("p", "a", file(0o644, 2, b"x")),
            ("p", "a", file(0o644, 1, b"y")),
            ("p", "b", file(0o644, 1, b"x")),
            ("q", "a", file(0o644, 1, b"x")),
            ("p", "a", Entry::Directory { mode: 0o644 }),
            ("p", "a", link("x")),
            ("p", "a", link("y")),
        ];
        let digests: std::collections::BTreeSet<_> = variants
            .iter()
            .map(|(process, path, entry)| {
                digest(process, &Entries::from([(PathBuf::from(path), entry.clone())]))
            })
            .collect();
        assert_eq!(digests.len(), variants.len());
    }
}
