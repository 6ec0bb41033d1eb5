//! What a root filesystem will hold, before any of it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One entry of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Directory {
        mode: u32,
    },
    /// A symbolic link, with the text it has on the machine.
    Link {
        to: PathBuf,
    },
    /// A copy of the file at `from`.
    Copy {
        from: PathBuf,
        mode: u32,
    },
    /// A file no machine has: its content is made here.
    Made {
        bytes: Vec<u8>,
        mode: u32,
    },
}

/// Entries by their absolute path; no path leads through a link of the tree, and every parent is there.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// In the order in which they can be written: parents first.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Adds `entry`, and directories above it. What is there already stays: two reasons to include a
    /// path are the same path.
    pub(super) fn add(&mut self, path: &Path, entry: Entry) {
        self.add_parents(path);
        self.entries.entry(path.to_owned()).or_insert(entry);
    }

    /// Adds `entry`, in place of what is there.
    pub(super) fn replace(&mut self, path: &Path, entry: Entry) {
        self.add_parents(path);
        self.entries.insert(path.to_owned(), entry);
    }

    /// Takes out what is at `path` and below; `false` if nothing is.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
        let before = self.entries.len();
        self.entries.retain(|existing, _| !existing.starts_with(path));
        self.entries.len() < before
    }
    fn add_parents(&mut self, path: &Path) {
        let mut parent = path.parent();
        while let Some(directory) = parent
            && directory != Path::new("/")
            && !self.entries.contains_key(directory)
        {
            self.entries
                .insert(directory.to_owned(), Entry::Directory { mode: 0o755 });
            parent = directory.parent();
        }
    }

    /// Where `path` leads through the tree's own links: the canonical path, there or not. `None` where
    /// links go round in circles.
    pub fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut at = PathBuf::from("/");
        let mut hops = 0;
        let mut ahead = super::machine::parts(path);
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let Some(Entry::Link { to }) = self.entries.get(&next) else {
                at = next;
                continue;
            };
            hops += 1;
            if hops > super::machine::MOST_HOPS {
                return None;
            }
            if to.is_absolute() {
                at = PathBuf::from("/");
            }
            for part in super::machine::parts(to).into_iter().rev() {
                ahead.push_front(part);
            }
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_before_what_they_hold() {
        let mut tree = Tree::default();
        tree.add(
            Path::new("/a/b/c"),
            Entry::Made {
                bytes: Vec::new(),
                mode: 0o644,
            },
        );
        let paths: Vec<_> = tree.iter().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(paths, ["/a", "/a/b", "/a/b/c"].map(PathBuf::from));
    }

    #[test]
    fn paths_resolve_through_links_of_the_tree_alone() {
        let mut tree = Tree::default();
        tree.add(Path::new("/bin"), Entry::Link { to: "usr/bin".into() });
        tree.add(Path::new("/usr/bin/x"), Entry::Link { to: "/etc/x".into() });
        tree.add(Path::new("/round"), Entry::Link { to: "round".into() });
        assert_eq!(tree.resolve(Path::new("/bin/x")), Some("/etc/x".into()));
        assert_eq!(tree.resolve(Path::new("/bin/../y")), Some("/usr/y".into()));
        assert_eq!(tree.resolve(Path::new("/round/z")), None);
    }
}
