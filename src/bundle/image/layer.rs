//! One layer onto a root filesystem.
//!
//! OCI image-spec, "Image Layer Filesystem Changeset": a layer is a tar archive; `.wh.NAME` removes NAME as the
//! layers below had it, `.wh..wh..opq` all that they had in its directory, wherever in the archive either stands.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::bundle::content::escape;
use crate::bundle::root::{Attributes, Root, RootError};

use super::stream::{Member, MemberKind, Stream, StreamError};

/// Names kept of each thing that was stripped.
const NAMED: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("{entry}")]
    Entry {
        entry: String,
        #[source]
        source: RootError,
    },
    #[error("{entry}: is a whiteout of nothing that could be there")]
    Whiteout { entry: String },
    #[error(
        "{entry}: declares {size} bytes, more than the {limit} allowed for the whole image; --max-size raises that"
    )]
    Size { entry: String, size: u64, limit: u64 },
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// What was left out of a root filesystem, for the user to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    stripped: BTreeMap<Stripped, (usize, Vec<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stripped {
    Setuid,
    Special,
    Xattrs,
}

impl Notes {
    fn note(&mut self, what: Stripped, name: &str) {
        let (count, names) = self.stripped.entry(what).or_default();
        *count += 1;
        if names.len() < NAMED {
            names.push(name.to_owned());
        }
    }

    /// One sentence for each kind of thing.
    pub fn lines(&self) -> Vec<String> {
        let line = |(what, (count, names)): (&Stripped, &(usize, Vec<String>))| {
            let what = match what {
                Stripped::Setuid => "setuid and setgid bits dropped",
                Stripped::Special => "device nodes and pipes left out",
                Stripped::Xattrs => "extended attributes left out",
            };
            let more = count - names.len();
            let more = if more == 0 {
                String::new()
            } else {
                format!(" and {more} more")
            };
            format!("{what}: {}{more}", names.join(", "))
        };
        self.stripped.iter().map(line).collect()
    }
}

/// Applies a layer's plain tar archive. The reader is left where the archive ended.
pub(super) fn apply<R: Read>(archive: R, root: &mut Root, notes: &mut Notes) -> Result<R, LayerError> {
    root.next_layer();
    let mut stream = Stream::new(archive);
    while let Some(member) = stream.next()? {
        one(&member, &mut stream, root, notes)?;
    }
    Ok(stream.into_inner())
}

fn one(
    member: &Member,
    content: &mut dyn Read,
    root: &mut Root,
    notes: &mut Notes,
) -> Result<(), LayerError> {
    let entry = || escape(OsStr::from_bytes(&member.name));
    let refused = |source| LayerError::Entry {
        entry: entry(),
        source,
    };
    let path = as_path(&member.name).map_err(refused)?;
    if let Some(name) = path.file_name()
        && let Some(hidden) = name.as_bytes().strip_prefix(b".wh.")
    {
        let parent = path.parent().unwrap_or(Path::new(""));
        return match hidden {
            b".wh..opq" => root.opaque(parent).map_err(refused),
            b"" | b"." | b".." => Err(LayerError::Whiteout { entry: entry() }),
            // aufs kept its own records under such names.
            _ if hidden.starts_with(b".wh.") => Ok(()),
            _ => root
                .whiteout(&parent.join(OsStr::from_bytes(hidden)))
                .map_err(refused),
        };
    }
    if member.mode & 0o6000 != 0 && matches!(member.kind, MemberKind::File | MemberKind::Directory) {
        notes.note(Stripped::Setuid, &entry());
    }
    if member.has_xattrs {
        notes.note(Stripped::Xattrs, &entry());
    }
    let attributes = Attributes {
        mode: member.mode,
        mtime: member.mtime,
        uid: member.uid,
        gid: member.gid,
    };
    match member.kind {
        MemberKind::Directory => root.directory(&path, &attributes).map_err(refused),
        MemberKind::File => {
            let limit = root.limits().bytes;
            if member.size > limit {
                // Before a disk is filled with what will be refused anyway.
                let size = member.size;
                return Err(LayerError::Size {
                    entry: entry(),
                    size,
                    limit,
                });
            }
            root.file(&path, &attributes, content).map(drop).map_err(refused)
        }
        MemberKind::Symlink => {
            let target = PathBuf::from(OsStr::from_bytes(&member.link));
            root.symlink(&path, &target, &attributes).map_err(refused)
        }
        MemberKind::Hardlink => {
            let target = as_path(&member.link).map_err(|_| {
                refused(RootError::HardLink {
                    target: escape(OsStr::from_bytes(&member.link)),
                })
            })?;
            root.hardlink(&path, &target).map_err(refused)
        }
        MemberKind::Special => {
            // What it would have replaced is gone all the same.
            root.remove(&path).map_err(refused)?;
            notes.note(Stripped::Special, &entry());
            Ok(())
        }
    }
}

/// A member's name as a path. What `Path` cannot tell is refused here: an empty name, and NUL bytes.
fn as_path(name: &[u8]) -> Result<PathBuf, RootError> {
    match name.is_empty() || name.contains(&0) {
        true => Err(RootError::Name),
        false => Ok(PathBuf::from(OsStr::from_bytes(name))),
    }
}
