//! The directory that holds one directory per worker.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use crate::core::WorkerId;
use crate::sys::lock::{self, Claim};
use crate::sys::place;

/// herd's state directory, held against every other herd for as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("another herd uses the state directory {}; give this one its own with --state-dir", path.display())]
    InUse { path: PathBuf },
    #[error("the state directory {} belongs to uid {owner}, not to this user; give another with --state-dir", path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error(
        "the state directory {path} has mode {mode:04o}, so that others can write to it; run `chmod go-w {path}` or give \
         another with --state-dir", path = path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("the state directory {} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("the state directory {} is not UTF-8, and commands could not name it", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl StateDir {
    /// Whether it could be opened, as far as a look can tell; makes nothing, and does not ask who holds it.
    pub fn look(path: &Path) -> Result<(), StateDirError> {
        if path.exists() {
            ours(path)?;
        }
        place::directory(path).map_err(failed("use the state directory", path))
    }

    /// Makes it where it does not exist, locks it, and removes what a herd that was killed left there.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        private_dirs()
            .recursive(true)
            .create(path)
            .map_err(failed("make the state directory", path))?;
        let path = &ours(path)?;
        let lock_path = path.join("lock");
        let lock = loop {
            match lock::claim(&lock_path).map_err(failed("lock", &lock_path))? {
                Claim::Ours(lock) => break lock,
                Claim::Theirs(_) => return Err(StateDirError::InUse { path: path.clone() }),
                Claim::Gone => {}
            }
        };
        let state = Self {
            path: path.clone(),
            _lock: lock,
        };
        state.sweep();
        Ok(state)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a worker's own directory, readable by nobody else.
    pub(super) fn make(&self, worker: WorkerId) -> io::Result<PathBuf> {
        let path = self.path.join(worker.to_string());
        private_dirs().create(&path)?;
        Ok(path)
    }

    /// Only under the lock: these can belong to no living herd.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('w'));
            if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                && let Err(e) = remove(&entry.path())
            {
                tracing::warn!(
                    "cannot remove what a former herd left at {}: {e}",
                    entry.path().display()
                );
            }
        }
    }
}

/// Where it really is.
fn ours(path: &Path) -> Result<PathBuf, StateDirError> {
    let path = fs::canonicalize(path).map_err(failed("resolve the state directory", path))?;
    if path.to_str().is_none() {
        return Err(StateDirError::NotUtf8 { path });
    }
    let meta = fs::symlink_metadata(&path).map_err(failed("look at the state directory", &path))?;
    if !meta.is_dir() {
        return Err(StateDirError::NotADirectory { path });
    }
    // Whoever owns it or can write to it can replace what is in it: a worker's socket, for one.
    let owner = meta.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(StateDirError::NotOurs { path, owner });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StateDirError::OpenToOthers { path, mode });
    }
    Ok(path)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    let path = path.to_owned();
    move |source| StateDirError::Io { what, path, source }
}

fn private_dirs() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Removes a worker's directory with what the worker put there. Symbolic links are removed, not followed
/// (`remove_dir_all` works by descriptors for that reason).
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_herd_is_refused_and_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let error = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.starts_with("another herd uses the state directory"),
            "{error}"
        );
        assert!(error.ends_with("--state-dir"), "{error}");
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn leftovers_are_swept_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let precious = tempfile::tempdir().unwrap();
        fs::write(precious.path().join("keep"), "x").unwrap();
        let state = dir.path().join("state");
        private_dirs().create(&state).unwrap();
        fs::create_dir_all(state.join("w7/sub")).unwrap();
        fs::create_dir(state.join("work")).unwrap();
        std::os::unix::fs::symlink(precious.path(), state.join("w7/link")).unwrap();
        std::os::unix::fs::symlink(precious.path(), state.join("w8")).unwrap();
        let opened = StateDir::open(&state).unwrap();
        assert!(precious.path().join("keep").exists(), "a link was followed");
        assert!(!state.join("w7").exists(), "the leftover stayed");
        assert!(state.join("work").exists(), "only workers' directories are swept");
        let made = opened.make(WorkerId(7)).unwrap();
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateDir::open(file.path()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }

    #[test]
    fn one_that_others_can_write_to_is_refused_before_anything_is_done_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        let with = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o770, 0o702, 0o1777] {
            with(mode);
            for outcome in [StateDir::look(&path), StateDir::open(&path).map(drop)] {
                assert_eq!(
                    outcome.unwrap_err().to_string(),
                    format!(
                        "the state directory {path} has mode {mode:04o}, so that others can write to it; run \
                         `chmod go-w {path}` or give another with --state-dir",
                        path = path.display()
                    )
                );
            }
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        }
        // What systemd makes for StateDirectory=.
        with(0o755);
        StateDir::look(&path).unwrap();
        StateDir::open(&path).unwrap();
    }
}
