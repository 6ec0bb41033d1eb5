//! What a recipe puts somewhere by itself: copies at other paths than this machine has them at, links,
//! other bundles, and what it takes out again.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Missing;
use super::gather::{Gatherer, THE_BUNDLE, directory, file_mode, special};
use super::tree::Entry;

impl Gatherer<'_> {
    /// Adds all of another root filesystem, at the same paths in the bundle.
    pub fn root(&mut self, root: &Path) -> Result<(), Missing> {
        self.copy_tree(root, Path::new("/"))
    }

    /// Adds a file, or a directory with all that is in it, at another path than it has here.
    pub fn file(&mut self, source: &Path, target: &Path, mode: Option<u32>) -> Result<(), Missing> {
        let metadata = fs::metadata(source).map_err(|e| self.unreadable(source, THE_BUNDLE, e))?;
        if metadata.is_dir() {
            return self.directory_at(source, target, metadata.permissions().mode());
        }
        if !metadata.is_file() {
            return Err(Missing::Special {
                path: source.to_owned(),
                kind: special(&metadata),
            });
        }
        let mode = mode.unwrap_or(file_mode(metadata.permissions().mode()));
        let entry = Entry::Copy {
            from: source.to_owned(),
            mode,
        };
        let target = self.place(target);
        self.tree.replace(&target, entry);
        Ok(())
    }

    /// Adds a link that this machine need not have.
    pub fn link(&mut self, path: &Path, to: &Path) {
        let path = self.place(path);
        self.tree.replace(&path, Entry::Link { to: to.to_owned() });
    }

    /// `path` with the links of the tree above it followed: /bin/sh is /usr/bin/sh where /bin is a link.
    fn place(&self, path: &Path) -> PathBuf {
        let above = path.parent().and_then(|parent| self.tree.resolve(parent));
        match (above, path.file_name()) {
            (Some(above), Some(name)) => above.join(name),
            _ => path.to_owned(),
        }
    }

    /// Takes out what is at `path` and below; `false` if nothing is.
    pub fn without(&mut self, path: &Path) -> bool {
        let path = self.place(path);
        self.tree.remove(&path)
    }

    /// Adds a directory with all that is in it. Where `target` is a link of the tree, what it leads to gets the files.
    fn directory_at(&mut self, source: &Path, target: &Path, mode: u32) -> Result<(), Missing> {
        // Links in a circle are told when the tree is written.
        let target = self.tree.resolve(target).unwrap_or_else(|| target.to_owned());
        self.tree.add(&target, directory(mode));
        self.copy_tree(source, &target)
    }

    /// `target` leads through no link.
    fn copy_tree(&mut self, source: &Path, target: &Path) -> Result<(), Missing> {
        let needed_by = source.display().to_string();
        let mut entries = fs::read_dir(source)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|e| self.unreadable(source, &needed_by, e))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (from, path) = (entry.path(), target.join(entry.file_name()));
            let metadata = entry
                .metadata()
                .map_err(|e| self.unreadable(&from, &needed_by, e))?;
            let mode = metadata.permissions().mode();
            if metadata.is_dir() {
                self.directory_at(&from, &path, mode)?;
            } else if metadata.is_symlink() {
                let to = fs::read_link(&from).map_err(|e| self.unreadable(&from, &needed_by, e))?;
                self.tree.replace(&path, Entry::Link { to });
            } else if metadata.is_file() {
                let mode = file_mode(mode);
                self.tree.replace(&path, Entry::Copy { from, mode });
            }
        }
        Ok(())
    }
}
