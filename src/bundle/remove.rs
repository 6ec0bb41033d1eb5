//! Removing bundles, those with directories that their owner may not write to included.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::sys::rename;

#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a bundle (a directory with config.json and rootfs), so it is left alone", .0.display())]
    NotABundle(PathBuf),
    #[error("cannot remove {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Removes the bundle `path`; nothing that is not one.
pub fn remove(path: &Path) -> Result<(), RemoveError> {
    if path
        .symlink_metadata()
        .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    {
        return Err(RemoveError::Missing(path.to_owned()));
    }
    if !is_bundle(path) {
        return Err(RemoveError::NotABundle(path.to_owned()));
    }
    // Out of the way in one step, so that an interrupted removal leaves no half bundle; what it leaves has the
    // name of a half-made one, which the next run for this output removes.
    let aside = path
        .file_name()
        .map(|name| path.with_file_name(staging_name(name)))
        .filter(|aside| rename::without_replacing(path, aside).is_ok());
    remove_tree(aside.as_deref().unwrap_or(path)).map_err(|source| RemoveError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Where a bundle is on its way in or out.
pub(super) fn staging_name(name: &OsStr) -> OsString {
    let mut staging = OsString::from(".");
    staging.push(name);
    staging.push(".herd-staging");
    staging
}

/// A real directory with a config.json and a rootfs in it.
pub fn is_bundle(path: &Path) -> bool {
    let is = |path: &Path, test: fn(&fs::Metadata) -> bool| path.symlink_metadata().is_ok_and(|m| test(&m));
    is(path, fs::Metadata::is_dir)
        && is(&path.join("config.json"), fs::Metadata::is_file)
        && is(&path.join("rootfs"), fs::Metadata::is_dir)
}

/// Like `rm -rf`: a missing tree is no error, links are removed and not followed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let remove = || match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    match remove() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            remove()
        }
        result => result,
    }
}

/// Lets the owner write to every directory. What fails here fails again, with a better message, in the removal.
fn open_up(path: &Path) {
    // By descriptor and without following links: the mode must change of what is here, not of what a link says.
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path);
    let Ok(directory) = directory else {
        return;
    };
    let _ = allow(&directory);
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn allow(directory: &File) -> io::Result<()> {
    let mode = directory.metadata()?.permissions().mode();
    directory.set_permissions(fs::Permissions::from_mode(mode & 0o777 | 0o700))
}
