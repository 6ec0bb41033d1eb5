//! Lines that outlive herd: an append-only file in a directory of one herd's own.
//!
//! Bounded: when the file has half of the size that is allowed, it takes the place of the older one, and a new one begins. What a
//! kill or a full disk leaves of a line spoils no other line. Deliberately not here: what the lines say, and `fsync`: they
//! survive herd, and what is lost with the host's power is the end of a story.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::sys::place;

const CURRENT: &str = "history.jsonl";
const OLDER: &str = "history.old.jsonl";
const LOCK: &str = "history.lock";
/// No more than this of a file is read, bytes, however large it may be.
const READ: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("another herd keeps its history in {}; give this one its own with history.dir", .0.display())]
    InUse(PathBuf),
    #[error("{} belongs to uid {owner}, not to this user; give another directory with history.dir", .path.display())]
    NotOurs { path: PathBuf, owner: u32 },
    #[error(
        "{path} has mode {mode:04o}, so that others can write to it; run `chmod go-w {path}` or give another directory \
         with history.dir", path = .path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// The file, held against every other herd for as long as this value lives.
#[derive(Debug)]
pub struct History {
    dir: PathBuf,
    file: File,
    len: u64,
    /// Of one file, bytes.
    most: u64,
    end: End,
    _lock: Flock<File>,
}

/// How the file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// In the middle of a line.
    Torn,
}

impl History {
    /// Whether it could be kept there, as far as a look can tell; makes nothing, and does not ask who holds it.
    pub fn look(dir: &Path) -> Result<(), HistoryError> {
        if dir.exists() {
            ours(dir)?;
        }
        place::directory(dir).map_err(failed("use the directory", dir))
    }

    /// Makes the directory where there is none. `size`: of both files together, bytes.
    pub fn open(dir: &Path, size: u64) -> Result<Self, HistoryError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("make the directory", dir))?;
        ours(dir)?;
        let path = dir.join(LOCK);
        let lock = open(&path, &mut for_adding()).map_err(failed("open", &path))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => return Err(HistoryError::InUse(dir.to_owned())),
            Err((_, error)) => return Err(failed("lock", &path)(error.into())),
        };
        let path = dir.join(CURRENT);
        let (file, len, end) = append_to(&path).map_err(failed("open", &path))?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            len,
            most: size / 2,
            end,
            _lock: lock,
        })
    }

    /// The latest lines that are kept, oldest first and without a gap; the very first may be the end of one.
    pub fn read(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        for name in [OLDER, CURRENT] {
            let mut text = Vec::new();
            match open(&self.dir.join(name), OpenOptions::new().read(true)) {
                Ok(mut file) => {
                    let len = file.metadata()?.len();
                    if len > READ {
                        lines.clear();
                    }
                    file.seek(SeekFrom::Start(len.saturating_sub(READ)))?;
                    file.take(READ).read_to_end(&mut text)?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let whole = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.extend(whole.map(<[u8]>::to_vec));
        }
        Ok(lines)
    }

    /// Adds a line, which has no line end of its own. After an error it may be there in part; the next is whole again.
    pub fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let mut text = Vec::with_capacity(line.len() + 2);
        if self.end == End::Torn {
            text.push(b'\n');
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        if self.is_full_for(line) {
            self.rotate()?;
        }
        let written = self.file.write_all(&text);
        self.end = match written {
            Ok(()) => End::Whole,
            Err(_) => End::Torn,
        };
        self.len = self
            .file
            .metadata()
            .map_or(self.len + text.len() as u64, |meta| meta.len());
        written
    }

    /// Whether another file begins before this line.
    pub fn is_full_for(&self, line: &[u8]) -> bool {
        // With a line end before and after it.
        self.len > 0 && self.len + line.len() as u64 + 2 > self.most
    }

    /// Of one file, bytes.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Begins another file: the older one goes, and this one becomes the older.
    pub fn rotate(&mut self) -> io::Result<()> {
        let current = self.dir.join(CURRENT);
        match fs::rename(&current, self.dir.join(OLDER)) {
            // Moved by an attempt that got no further, or by somebody else.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        (self.file, self.len, self.end) = append_to(&current)?;
        Ok(())
    }
}

/// Whoever owns the directory or can write to it decides what is read from it.
fn ours(dir: &Path) -> Result<(), HistoryError> {
    let meta = fs::metadata(dir).map_err(failed("look at", dir))?;
    let owner = meta.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        let path = dir.to_owned();
        return Err(HistoryError::NotOurs { path, owner });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 != 0 {
        let path = dir.to_owned();
        return Err(HistoryError::OpenToOthers { path, mode });
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HistoryError {
    let path = path.to_owned();
    move |source| HistoryError::Io { what, path, source }
}

/// Readable by nobody else.
fn for_adding() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options
}

/// A file in the directory itself: no link to somewhere else, and nothing that keeps waiting whoever opens or reads it.
fn open(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    let file = how.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64, End)> {
    let mut file = open(path, &mut for_adding())?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    let len = file.metadata()?.len();
    let mut last = [b'\n'];
    if len > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let end = match last {
        [b'\n'] => End::Whole,
        _ => End::Torn,
    };
    Ok((file, len, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(history: &History) -> Vec<String> {
        let lines = history.read().unwrap();
        lines
            .into_iter()
            .map(|line| String::from_utf8(line).unwrap())
            .collect()
    }

    #[test]
    fn what_was_appended_is_there_for_the_next_herd() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/for/it");
        let mut history = History::open(&dir, 1 << 20).unwrap();
        history.append(b"one").unwrap();
        history.append(b"two").unwrap();
        drop(history);
        let mut history = History::open(&dir, 1 << 20).unwrap();
        history.append(b"three").unwrap();
        assert_eq!(lines(&history), ["one", "two", "three"]);
        for (path, mode) in [(dir.clone(), 0o700), (dir.join(CURRENT), 0o600)] {
            let has = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(has, mode, "{}", path.display());
        }
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CURRENT), "whole\n{\"to").unwrap();
        let mut history = History::open(dir.path(), 1 << 20).unwrap();
        history.append(b"next").unwrap();
        assert_eq!(lines(&history), ["whole", "{\"to", "next"]);
    }

    #[test]
    fn a_file_that_somebody_has_moved_does_not_end_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path(), 200).unwrap();
        history.append(&[b'a'; 90]).unwrap();
        fs::remove_file(dir.path().join(CURRENT)).unwrap();
        for line in [b'b', b'c', b'd'] {
            history.append(&[line; 90]).unwrap();
        }
        assert!(lines(&history).last().is_some_and(|line| line.starts_with('d')));
    }

    #[test]
    fn it_never_takes_more_than_its_size_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path(), 200).unwrap();
        for number in 0..100 {
            history.append(format!("line {number:03}").as_bytes()).unwrap();
            let of = |name| fs::metadata(dir.path().join(name)).map_or(0, |meta| meta.len());
            assert!(of(CURRENT) + of(OLDER) <= 200);
        }
        let kept = lines(&history);
        assert_eq!(kept.last().unwrap(), "line 099");
        assert!(kept.len() > 10, "{kept:?}");
        assert!(kept.is_sorted(), "{kept:?}");
    }

    #[test]
    fn two_herds_never_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let _one = History::open(dir.path(), 1 << 20).unwrap();
        let told = History::open(dir.path(), 1 << 20).unwrap_err().to_string();
        assert!(told.starts_with("another herd keeps its history in "), "{told}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(CURRENT)).unwrap();
        let told = History::open(dir.path(), 1 << 20).unwrap_err().to_string();
        assert!(told.starts_with("cannot open "), "{told}");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "kept");
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let with = |mode| fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        for mode in [0o770, 0o702, 0o1777] {
            with(mode);
            for outcome in [
                History::look(dir.path()),
                History::open(dir.path(), 1 << 20).map(drop),
            ] {
                assert_eq!(
                    outcome.unwrap_err().to_string(),
                    format!(
                        "{path} has mode {mode:04o}, so that others can write to it; run `chmod go-w {path}` or give \
                         another directory with history.dir",
                        path = dir.path().display()
                    )
                );
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        with(0o755);
        History::open(dir.path(), 1 << 20).unwrap();
    }

    #[test]
    fn what_is_no_file_is_refused_and_keeps_nobody_waiting() {
        for name in [OLDER, CURRENT, LOCK] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let told = match History::open(dir.path(), 1 << 20) {
                Ok(history) => history.read().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(told.ends_with("it is not a regular file"), "{name}: {told}");
        }
    }
}
