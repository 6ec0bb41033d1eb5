//! A gathered tree becomes a root filesystem.

use std::collections::HashMap;
use std::fs::{File, Metadata};
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
    // Files with several names on this machine (git has a hundred) are one file in the bundle, too.
    let mut names: HashMap<(u64, u64, u32), PathBuf> = HashMap::new();
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
            Entry::Copy { from, mode } => {
                let file = Source::open(from)?;
                let identity = (file.metadata.dev(), file.metadata.ino(), *mode);
                match names.get(&identity) {
                    Some(first) => {
                        root.hardlink(path, first).map_err(failed)?;
                        progress(file.metadata.size());
                    }
                    None => {
                        file.copy(path, *mode, root, progress)?;
                        names.insert(identity, path.to_owned());
                    }
                }
            }
        }
    }
    Ok(())
}

/// A file of this machine, open, and what was known of it then.
struct Source<'a> {
    from: &'a Path,
    file: File,
    metadata: Metadata,
}

impl<'a> Source<'a> {
    fn open(from: &'a Path) -> Result<Self, WriteError> {
        let file = File::open(from).map_err(unreadable(from))?;
        let metadata = file.metadata().map_err(unreadable(from))?;
        Ok(Self { from, file, metadata })
    }

    fn copy(self, path: &Path, mode: u32, root: &mut Root, progress: &dyn Fn(u64)) -> Result<(), WriteError> {
        let before = self.metadata;
        // The time is kept because Python compares it with what a compiled file says of its source.
        let attributes = Attributes {
            mtime: before.mtime(),
            ..Attributes::new(mode)
        };
        // One byte more than there should be: a file that grows is noticed and does not fill the disk.
        let mut content = (&self.file).take(before.size() + 1);
        let size = root
            .file(path, &attributes, &mut content)
            .map_err(|source| match source {
                RootError::Content(source) => unreadable(self.from)(source),
                source => WriteError::Root {
                    path: path.to_owned(),
                    source,
                },
            })?;
        let after = self.file.metadata().map_err(unreadable(self.from))?;
        let times = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        if size != before.size() || times(&after) != times(&before) {
            return Err(WriteError::Changed(self.from.to_owned()));
        }
        progress(size);
        Ok(())
    }
}

fn unreadable(from: &Path) -> impl Fn(io::Error) -> WriteError {
    move |source| WriteError::Unreadable {
        from: from.to_owned(),
        source,
    }
}
