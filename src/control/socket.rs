//! The control socket's place in the file system, and the proof that only one herd serves it.
//!
//! ```text
//! directory 0700, ours  ──▶  flock <socket>.lock  ──▶  remove a dead herd's socket  ──▶  bind, 0600
//! ```
//!
//! The lock, not the socket, tells whether a herd lives: the kernel drops it with the process, however
//! that ends. Only its holder touches the socket, so no one removes a living herd's.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, OFlag};
use nix::unistd::{Uid, geteuid};

use crate::sys::lock::{self, Claim};
use crate::sys::place;

/// Why the control socket cannot be had. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "the control socket {} has to be a file in a directory, e.g. /run/herd/control.sock",
        .0.display()
    )]
    NoDirectory(PathBuf),
    #[error("cannot use the control socket's directory {}: {source}", .dir.display())]
    Directory { dir: PathBuf, source: io::Error },
    #[error(
        "the control socket's directory {} is a symbolic link; name the real directory with --control-socket",
        .0.display()
    )]
    Symlink(PathBuf),
    #[error(
        "the control socket's directory {} belongs to uid {owner}, not to uid {ours} as which herd runs; \
         name another one with --control-socket", .dir.display()
    )]
    ForeignDirectory { dir: PathBuf, owner: u32, ours: Uid },
    #[error(
        "the control socket's directory {dir} has mode {mode:04o}, so that others can reach into it; \
         run `chmod 700 {dir}` or name another one with --control-socket", dir = .dir.display()
    )]
    OpenDirectory { dir: PathBuf, mode: u32 },
    #[error(
        "another herd ({pid}) uses {}; stop it, or give this one its own --control-socket",
        .socket.display()
    )]
    InUse { socket: PathBuf, pid: String },
    #[error(
        "the control socket {} exists and is not a socket; move it away or name another --control-socket",
        .0.display()
    )]
    NotASocket(PathBuf),
    #[error("cannot {step} the control socket {}: {source}", .path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A bound control socket; dropping it removes the socket and the lock.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    lock_path: PathBuf,
    /// Held for life. A forked child that kept this descriptor would hold it too.
    _lock: Flock<File>,
}

impl Socket {
    /// Whether it could be bound, as far as a look can tell; makes nothing, and does not ask who holds it.
    pub(super) fn look(path: &Path) -> Result<(), BindError> {
        let dir = directory_of(path)?;
        if dir.exists() || dir.is_symlink() {
            ours(dir)?;
        }
        place::directory(dir).map_err(|source| BindError::Directory {
            dir: dir.to_owned(),
            source,
        })?;
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
            _ => Ok(()),
        }
    }

    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        own_directory(directory_of(path)?)?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(&lock_path, path)?;
        let io = |step| {
            move |source| BindError::Io {
                step,
                path: path.to_owned(),
                source,
            }
        };
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(io("remove the stale socket"))?;
            }
            Ok(_) => return Err(BindError::NotASocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("examine")(error)),
        }
        let listener = UnixListener::bind(path).map_err(io("listen on"))?;
        let socket = Self {
            listener,
            path: path.to_owned(),
            lock_path,
            _lock: lock,
        };
        // Until here the directory alone keeps others out.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io("set the mode of"))?;
        socket.listener.set_nonblocking(true).map_err(io("listen on"))?;
        Ok(socket)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // While the lock is still held: neither can be a successor's.
        for path in [&self.path, &self.lock_path] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove");
            }
        }
    }
}

fn directory_of(path: &Path) -> Result<&Path, BindError> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(_)) if dir.as_os_str().is_empty() => Ok(Path::new(".")),
        (Some(dir), Some(_)) => Ok(dir),
        _ => Err(BindError::NoDirectory(path.to_owned())),
    }
}

/// Makes the directory if need be, and makes sure that nobody else can put anything into it.
fn own_directory(dir: &Path) -> Result<(), BindError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| BindError::Directory {
            dir: dir.to_owned(),
            source,
        })?;
    ours(dir)
}

/// Nobody else can put anything into it.
fn ours(dir: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Directory {
        dir: dir.to_owned(),
        source,
    };
    // Looked at through one descriptor, so that what is verified is one and the same directory.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_PATH).bits())
        .open(dir);
    let meta = match opened {
        Ok(opened) => opened.metadata().map_err(failed)?,
        Err(_) if dir.is_symlink() => return Err(BindError::Symlink(dir.to_owned())),
        Err(error) => return Err(failed(error)),
    };
    let ours = geteuid();
    if meta.uid() != ours.as_raw() {
        return Err(BindError::ForeignDirectory {
            dir: dir.to_owned(),
            owner: meta.uid(),
            ours,
        });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(BindError::OpenDirectory {
            dir: dir.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn lock(lock_path: &Path, socket: &Path) -> Result<Flock<File>, BindError> {
    let failed = |source| BindError::Io {
        step: "lock",
        path: socket.to_owned(),
        source,
    };
    loop {
        let mut lock = match lock::claim(lock_path).map_err(failed)? {
            Claim::Ours(lock) => lock,
            // A herd that was just leaving has removed it.
            Claim::Gone => continue,
            Claim::Theirs(mut file) => {
                let mut pid = String::new();
                // Only for the message: a herd that was just started may not have written it yet.
                let _ = file.read_to_string(&mut pid);
                let pid = match pid.trim().parse::<u32>() {
                    Ok(pid) => format!("pid {pid}"),
                    Err(_) => "pid not known yet".to_owned(),
                };
                return Err(BindError::InUse {
                    socket: socket.to_owned(),
                    pid,
                });
            }
        };
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed)?;
        return Ok(lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("herd").join("control.sock");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn refused(path: &Path) -> String {
        Socket::bind(path).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn only_we_can_reach_the_socket_and_nothing_of_it_stays_behind() {
        let (_dir, path) = scratch();
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&socket.lock_path), 0o600);
        drop(socket);
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_second_herd_is_told_who_has_the_socket() {
        let (_dir, path) = scratch();
        let first = Socket::bind(&path).unwrap();
        let error = refused(&path);
        assert!(
            error.contains(&format!("another herd (pid {})", std::process::id())),
            "{error}"
        );
        assert!(error.contains("--control-socket"), "{error}");
        drop(first);
        Socket::bind(&path).unwrap();
    }

    #[test]
    fn a_dead_herds_socket_is_replaced() {
        let (_dir, path) = scratch();
        own_directory(path.parent().unwrap()).unwrap();
        // What a SIGKILL leaves: the socket and an unlocked lock file.
        drop(UnixListener::bind(&path).unwrap());
        std::fs::write(path.with_extension("sock.lock"), "1\n").unwrap();
        let socket = Socket::bind(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(socket);
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_not_touched() {
        let (_dir, path) = scratch();
        own_directory(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(refused(&path).contains("is not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_that_others_can_reach_is_refused() {
        let (dir, path) = scratch();
        let parent = path.parent().unwrap();
        own_directory(parent).unwrap();
        std::fs::set_permissions(parent, Permissions::from_mode(0o750)).unwrap();
        let error = refused(&path);
        assert!(
            error.contains("mode 0750") && error.contains("chmod 700"),
            "{error}"
        );

        std::fs::set_permissions(parent, Permissions::from_mode(0o700)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(parent, &link).unwrap();
        let error = refused(&link.join("control.sock"));
        assert!(error.contains("is a symbolic link"), "{error}");
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        if !geteuid().is_root() {
            crate::skip::skipped("needs root to own a directory as somebody else");
            return;
        }
        let (_dir, path) = scratch();
        own_directory(path.parent().unwrap()).unwrap();
        std::os::unix::fs::chown(path.parent().unwrap(), Some(12345), None).unwrap();
        let error = refused(&path);
        assert!(error.contains("belongs to uid 12345, not to uid 0"), "{error}");
    }
}
