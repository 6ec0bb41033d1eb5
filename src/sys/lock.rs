//! Files whose lock says that somebody lives: the kernel takes it back however its owner dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Claim {
    Ours(Flock<File>),
    /// Somebody else has it.
    Theirs(File),
    /// Between the opening and the locking its last owner has removed or renamed the file. A lock on what nobody else can
    /// find proves nothing; there may be another file of this name.
    Gone,
}

/// Asks for the lock of the file at this path, and waits for nobody. The file is made if there is none, for this user only;
/// a symbolic link is an error.
///
/// # Errors
/// The file cannot be opened, locked or looked at.
pub fn claim(path: &Path) -> io::Result<Claim> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((file, Errno::EWOULDBLOCK)) => return Ok(Claim::Theirs(file)),
        Err((_, errno)) => return Err(errno.into()),
    };
    let ours = lock.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(Claim::Ours(lock)),
        Ok(_) => Ok(Claim::Gone),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Claim::Gone),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_lock_until_it_lets_go_and_what_is_in_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        fs::write(&path, "17").unwrap();
        let Claim::Ours(first) = claim(&path).unwrap() else {
            panic!("nobody else has it");
        };
        let Claim::Theirs(mut seen) = claim(&path).unwrap() else {
            panic!("it was given twice");
        };
        assert_eq!(io::read_to_string(&mut seen).unwrap(), "17");
        drop(first);
        assert!(matches!(claim(&path).unwrap(), Claim::Ours(_)));
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("lock"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let error = claim(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(!elsewhere.exists());
    }
}
