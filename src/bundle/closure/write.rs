//! A gathered tree becomes a root filesystem.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::tree::{Entry, Tree};
use crate::bundle::{Attributes, Root, RootError};

/// Why an entry was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{} cannot be read: {source}", from.display())]
    Unreadable { from: PathBuf, source: io::Error },
    #[error("{} changed while it was copied; try again when it is at rest", .0.display())]
    Changed(PathBuf),
    #[error("{}", path.display())]
    Root { path: PathBuf, source: RootError },
}

/// Writes all of `tree`; `progress` is told of the bytes as they are written.
pub fn write(tree: &Tree, root: &mut Root, progress: &dyn Fn(u64)) -> Result<(), WriteError> {
    for (path, entry) in tree.iter() {
        let failed = |source| WriteError::Root {
            path: path.to_owned(),
            source,
        };
        match entry {
            Entry::Directory { mode } => root.directory(path, &Attributes::new(*mode)).map_err(failed)?,
            Entry::Link { to } => root.symlink(path, to, &Attributes::new(0o777)).map_err(failed)?,
            Entry::Made { bytes, mode } => {
                root.file(path, &Attributes::new(*mode), &mut bytes.as_slice())
                    .map_err(failed)?;
            }
            Entry::Copy { from, mode } => copy(path, from, *mode, root, progress)?,
        }
    }
    Ok(())
}

fn copy(
    path: &Path,
    from: &Path,
    mode: u32,
    root: &mut Root,
    progress: &dyn Fn(u64),
) -> Result<(), WriteError> {
    let unreadable = |source| WriteError::Unreadable {
        from: from.to_owned(),
        source,
    };
    let mut file = File::open(from).map_err(unreadable)?;
    let before = file.metadata().map_err(unreadable)?;
    // The time is kept because Python compares it with what a compiled file says of its source.
    let attributes = Attributes {
        mtime: before.mtime(),
        ..Attributes::new(mode)
    };
    // One byte more than there should be: a file that grows is noticed and does not fill the disk.
    let mut content = (&mut file).take(before.size() + 1);
    let size = root
        .file(path, &attributes, &mut content)
        .map_err(|source| match source {
            RootError::Content(source) => unreadable(source),
            source => WriteError::Root {
                path: path.to_owned(),
                source,
            },
        })?;
    let after = file.metadata().map_err(unreadable)?;
    if size != before.size() || (after.mtime(), after.mtime_nsec()) != (before.mtime(), before.mtime_nsec()) {
        return Err(WriteError::Changed(from.to_owned()));
    }
    progress(size);
    Ok(())
}
