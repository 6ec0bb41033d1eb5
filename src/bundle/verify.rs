//! Comparing a bundle with what herd wrote.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::sys::interrupt::{self, Interrupted};

use super::content::{Entries, Entry, Sha256Digest, escape, shown, unescape};
use super::staging::Manifest;
use super::{MANIFEST, OpenError, open};

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{} was not made by herd: it has no {MANIFEST} to compare it with", .0.display())]
    NoManifest(PathBuf),
    #[error("{} contradicts itself, so there is nothing to compare the bundle with; make the bundle anew", .0.display())]
    Manifest(PathBuf),
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// One difference between a bundle and what was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// Relative to the bundle.
    pub path: PathBuf,
    pub kind: DriftKind,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftKind {
    Added,
    Removed,
    /// Says what differs.
    Changed(String),
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = shown(&self.path);
        match &self.kind {
            DriftKind::Added => write!(f, "added    {path}"),
            DriftKind::Removed => write!(f, "removed  {path}"),
            DriftKind::Changed(what) => write!(f, "changed  {path}: {what}"),
        }
    }
}

/// The manifest of a bundle that herd made.
pub fn manifest(directory: &Path) -> Result<Manifest, VerifyError> {
    let path = directory.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(VerifyError::NoManifest(directory.to_owned()));
        }
        Err(source) => return Err(VerifyError::Io { path, source }),
    };
    Manifest::from_json(&text).ok_or(VerifyError::Manifest(path))
}

/// Every difference, by path. Reads all of the bundle; owners and times do not count.
pub fn verify(directory: &Path) -> Result<Vec<Drift>, VerifyError> {
    let bundle = open(directory)?;
    let manifest = manifest(directory)?;
    let mut drifts = Vec::new();
    let config = directory.join("config.json");
    let text = fs::read(&config).map_err(|source| VerifyError::Io { path: config, source })?;
    let recorded = bundle.digest() == Some(manifest.digest.to_string().as_str());
    if Sha256Digest::of(&text) != manifest.config || !recorded {
        drifts.push(Drift {
            path: PathBuf::from("config.json"),
            kind: DriftKind::Changed("content".to_owned()),
        });
    }
    for entry in list(directory)? {
        if !["config.json", MANIFEST, "rootfs"]
            .iter()
            .any(|known| entry == Path::new(known))
        {
            drifts.push(Drift {
                path: entry,
                kind: DriftKind::Added,
            });
        }
    }
    let mut walk = Walk {
        root: directory.join("rootfs"),
        entries: &manifest.entries,
        seen: BTreeSet::new(),
        drifts,
    };
    walk.at(Path::new(""))?;
    let Walk { seen, mut drifts, .. } = walk;
    for path in manifest.entries.keys().filter(|path| !seen.contains(*path)) {
        drifts.push(Drift {
            path: Path::new("rootfs").join(path),
            kind: DriftKind::Removed,
        });
    }
    drifts.sort();
    Ok(drifts)
}

struct Walk<'a> {
    root: PathBuf,
    entries: &'a Entries,
    seen: BTreeSet<PathBuf>,
    drifts: Vec<Drift>,
}

impl Walk<'_> {
    /// Deep trees are bounded by the length a path can have.
    fn at(&mut self, path: &Path) -> Result<(), VerifyError> {
        interrupt::check()?;
        let there = self.root.join(path);
        let metadata = there.symlink_metadata().map_err(|source| VerifyError::Io {
            path: there.clone(),
            source,
        })?;
        let Some(entry) = self.entries.get(path) else {
            self.drift(path, DriftKind::Added);
            return Ok(());
        };
        self.seen.insert(path.to_owned());
        let mode = metadata.permissions().mode() & 0o7777;
        let mode_is = |wanted: u32| match mode == wanted {
            true => None,
            false => Some(format!("mode {mode:04o} instead of {wanted:04o}")),
        };
        let difference = match entry {
            Entry::Directory { mode } if metadata.is_dir() => mode_is(*mode),
            Entry::File { mode, size, sha256 } if metadata.is_file() => match mode_is(*mode) {
                Some(difference) => Some(difference),
                None if metadata.len() != *size => {
                    Some(format!("{} bytes instead of {size}", metadata.len()))
                }
                None => content(&there, *sha256)?,
            },
            Entry::Link { target } if metadata.is_symlink() => {
                let is = fs::read_link(&there).map_err(|source| VerifyError::Io {
                    path: there.clone(),
                    source,
                })?;
                match unescape(target).as_ref() == Some(&is) {
                    true => None,
                    false => Some(format!("leads to {} instead of {target}", escape(is.as_os_str()))),
                }
            }
            Entry::Directory { .. } => Some("is no directory any more".to_owned()),
            Entry::File { .. } => Some("is no file any more".to_owned()),
            Entry::Link { .. } => Some("is no link any more".to_owned()),
        };
        if let Some(difference) = difference {
            self.drift(path, DriftKind::Changed(difference));
        }
        if metadata.is_dir() {
            match list(&there) {
                Ok(children) => {
                    for child in children {
                        self.at(&path.join(child))?;
                    }
                }
                // Its mode was named above, and what is in it will be called removed.
                Err(VerifyError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn drift(&mut self, path: &Path, kind: DriftKind) {
        let path = Path::new("rootfs").join(path);
        self.drifts.push(Drift { path, kind });
    }
}

fn content(path: &Path, wanted: Sha256Digest) -> Result<Option<String>, VerifyError> {
    let failed = |source| VerifyError::Io {
        path: path.to_owned(),
        source,
    };
    // O_NONBLOCK: it may have become a pipe since it was looked at.
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        interrupt::check()?;
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    match Sha256Digest(hash.finalize().into()) == wanted {
        true => Ok(None),
        false => Ok(Some("content".to_owned())),
    }
}

/// Names in a directory, sorted.
fn list(directory: &Path) -> Result<Vec<PathBuf>, VerifyError> {
    let names = fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|source| VerifyError::Io {
            path: directory.to_owned(),
            source,
        })?;
    let mut names = names;
    names.sort();
    Ok(names)
}
