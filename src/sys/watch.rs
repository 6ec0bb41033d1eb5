//! Waiting for a file to change (inotify(7)).
//!
//! What is watched are directories: an editor that saves by renaming replaces the file, and with it whatever watched
//! the file itself. A symbolic link's target may lie in another directory, which is watched too.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// The directories around one file.
#[derive(Debug)]
pub struct FileWatch {
    inotify: Inotify,
    /// The same, to wait for it.
    news: AsyncFd<OwnedFd>,
    file: PathBuf,
}

impl FileWatch {
    /// Needs a tokio runtime with I/O.
    pub fn on(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let news = super::fd::watched(inotify.as_fd().try_clone_to_owned()?)?;
        let watch = Self {
            inotify,
            news,
            file: file.to_owned(),
        };
        watch.aim()?;
        Ok(watch)
    }

    /// Resolves when something has happened near the file. What, a look at it tells. Cancel-safe.
    pub async fn stirred(&self) -> io::Result<()> {
        loop {
            let mut ready = self.news.readable().await?;
            let read = ready.try_io(|_| self.inotify.read_events().map_err(io::Error::from));
            match read {
                Ok(Ok(_)) => {
                    // A link may point elsewhere now. It is no matter if there is nothing at the moment.
                    let _ = self.aim();
                    return Ok(());
                }
                Ok(Err(e)) if e.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }

    fn aim(&self) -> io::Result<()> {
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        let mut places = BTreeSet::from([around(&self.file)]);
        places.extend(self.file.canonicalize().ok().as_deref().map(around));
        for place in places {
            self.inotify.add_watch(&place, changes)?;
        }
        Ok(())
    }
}

fn around(file: &Path) -> PathBuf {
    match file.parent() {
        Some(place) if !place.as_os_str().is_empty() => place.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// Long enough for any machine; nothing is decided by it.
    const CAP: Duration = Duration::from_secs(30);

    async fn stirs(watch: &FileWatch) {
        tokio::time::timeout(CAP, watch.stirred()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_write_a_rename_over_it_and_a_link_that_is_turned_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "1").unwrap();
        let watch = FileWatch::on(&file).unwrap();
        fs::write(&file, "2").unwrap();
        stirs(&watch).await;
        fs::write(dir.path().join("new"), "3").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        stirs(&watch).await;

        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("target");
        fs::write(&target, "4").unwrap();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&target, &file).unwrap();
        stirs(&watch).await;
        // All there was is seen; from now on the target's directory is watched.
        while tokio::time::timeout(Duration::from_millis(20), watch.stirred())
            .await
            .is_ok()
        {}
        fs::write(&target, "5").unwrap();
        stirs(&watch).await;
    }
}
