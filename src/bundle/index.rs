//! All that was written below a root, and how paths lead there: the file system without the kernel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::content::{Sha256Digest, escape, shown};
use super::root::{Attributes, RootError};

/// Linux's limit for one component of a path, in bytes.
const NAME_MAX: usize = 255;
/// Linux's limit for a path, in bytes; the terminating NUL included.
pub(super) const PATH_MAX: usize = 4096;
/// As many links as the kernel would follow.
const LINKS_MAX: usize = 40;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) attributes: Attributes,
    pub(super) layer: u32,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Its size in bytes.
    File {
        size: u64,
        sha256: Sha256Digest,
    },
    Link {
        target: PathBuf,
    },
}

/// Paths are relative to the root, without links and `..`; the root itself is the empty one.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) nodes: BTreeMap<PathBuf, Node>,
    /// Longest path that is still usable with the bundle's own path before it.
    path_max: usize,
}

impl Index {
    /// Of an empty root at `path`.
    pub(super) fn new(path: &Path) -> Self {
        let root = Node {
            kind: Kind::Directory,
            attributes: Attributes::new(0o755),
            layer: 0,
        };
        Self {
            nodes: BTreeMap::from([(PathBuf::new(), root)]),
            path_max: PATH_MAX.saturating_sub(path.as_os_str().len() + 2),
        }
    }

    /// Where `path` ends when every link is followed, the last one included.
    pub(super) fn follow(&self, path: &Path) -> Result<PathBuf, RootError> {
        let parts = parts(path)?;
        self.walk(&parts)
    }

    /// The path without links to follow: those on the way are, the last part is not looked at.
    pub(super) fn locate(&self, path: &Path) -> Result<PathBuf, RootError> {
        let parts = parts(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(PathBuf::new());
        };
        let parent = self.walk(parents)?;
        if matches!(
            self.nodes.get(&parent).map(|node| &node.kind),
            Some(Kind::File { .. })
        ) {
            return Err(RootError::NotADirectory {
                parent: shown(&parent),
            });
        }
        let located = parent.join(name);
        match located.as_os_str().len() > self.path_max {
            true => Err(RootError::PathTooLong),
            false => Ok(located),
        }
    }

    fn walk(&self, parts: &[&OsStr]) -> Result<PathBuf, RootError> {
        // What is left to walk, the next part last.
        let mut left: Vec<OsString> = parts.iter().rev().map(|part| (*part).to_owned()).collect();
        let mut at = PathBuf::new();
        let mut links = 0;
        // The links whose targets are being walked: link, target, what is left to walk after the target.
        let mut through: Vec<(PathBuf, &Path, usize)> = Vec::new();
        while let Some(part) = left.pop() {
            through.retain(|(_, _, rest)| left.len() >= *rest);
            if part == ".." {
                if !at.pop() {
                    // Archives' own `..` were refused before, so a link it is.
                    let link = through.last().map_or_else(String::new, |(link, ..)| shown(link));
                    return Err(RootError::Escape { link });
                }
                continue;
            }
            at.push(&part);
            match self.nodes.get(&at).map(|node| &node.kind) {
                Some(Kind::Directory) => {}
                Some(Kind::File { .. }) if left.is_empty() => {}
                Some(Kind::File { .. }) => return Err(RootError::NotADirectory { parent: shown(&at) }),
                None => {
                    if let Some((link, target, _)) = through.last() {
                        return Err(RootError::Dangling {
                            link: shown(link),
                            target: escape(target.as_os_str()),
                        });
                    }
                }
                Some(Kind::Link { target }) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(RootError::LinkLoop { link: shown(&at) });
                    }
                    through.push((at.clone(), target, left.len()));
                    at.pop();
                    for component in target.components().rev() {
                        match component {
                            Component::RootDir => at.clear(),
                            Component::ParentDir => left.push("..".into()),
                            Component::Normal(part) => left.push(part.to_owned()),
                            Component::CurDir | Component::Prefix(_) => {}
                        }
                    }
                }
            }
        }
        Ok(at)
    }

    pub(super) fn children(&self, path: &Path) -> Vec<PathBuf> {
        self.below(path)
            .map(|(child, _)| child)
            .filter(|child| child.parent() == Some(path))
            .cloned()
            .collect()
    }

    pub(super) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Node)> {
        // Paths are ordered by their parts, so what is below a directory follows it immediately.
        self.nodes
            .range::<Path, _>((Bound::Excluded(path), Bound::Unbounded))
            .take_while(move |(child, _)| child.starts_with(path))
    }
}

/// The parts of a path as archives write it: `./a/b`, `/a/b` and `a//b/` are all `a/b`, relative to the root.
fn parts(path: &Path) -> Result<Vec<&OsStr>, RootError> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                if part.len() > NAME_MAX || part.as_bytes().contains(&0) {
                    return Err(RootError::Name);
                }
                parts.push(part);
            }
            Component::ParentDir => return Err(RootError::Traversal),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(parts)
}
