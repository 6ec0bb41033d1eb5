//! The files of this machine, read one path component at a time, so that every link on the way to a
//! file is known and can be copied as a link.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// As many links in one path as the kernel follows (path_resolution(7)).
pub(super) const MOST_HOPS: usize = 40;

/// Where files come from: `/`, with what was unpacked for this bundle lying over it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Earlier roots hide later ones, path by path.
    roots: Vec<PathBuf>,
}

/// Something passed on the way to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Directory { path: PathBuf, mode: u32 },
    Link { path: PathBuf, to: PathBuf },
}

/// A path followed to its end.
#[derive(Debug)]
pub(super) struct Walk {
    /// In order, the end excluded.
    pub(super) steps: Vec<Step>,
    /// The end without any link in it.
    pub(super) path: PathBuf,
    /// The same on this machine's disk: below the root that has it.
    pub(super) on_disk: PathBuf,
    pub(super) metadata: Metadata,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            roots: vec![PathBuf::from("/")],
        }
    }
}

impl Machine {
    /// A machine whose files lie below `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            roots: vec![root.to_owned()],
        }
    }

    /// Lays the files below `root` over those known so far.
    pub fn lay_over(&mut self, root: &Path) {
        self.roots.insert(0, root.to_owned());
    }

    /// Follows `path`, which is absolute, through every link.
    pub(super) fn walk(&self, path: &Path) -> io::Result<Walk> {
        let mut steps = Vec::new();
        let mut at = PathBuf::from("/");
        let (mut on_disk, mut metadata) = self.look(&at)?;
        let mut ahead = parts(path);
        let mut hops = 0;
        while let Some(part) = ahead.pop_front() {
            if !metadata.is_dir() {
                return Err(io::Error::from(io::ErrorKind::NotADirectory));
            }
            if at != Path::new("/") {
                steps.push(Step::Directory {
                    path: at.clone(),
                    mode: metadata.permissions().mode(),
                });
            }
            if part == ".." {
                at.pop();
                (on_disk, metadata) = self.look(&at)?;
                continue;
            }
            let next = at.join(&part);
            let found = self.look(&next)?;
            if !found.1.is_symlink() {
                (at, (on_disk, metadata)) = (next, found);
                continue;
            }
            hops += 1;
            if hops > MOST_HOPS {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let to = fs::read_link(&found.0)?;
            if to.is_absolute() {
                at = PathBuf::from("/");
                (on_disk, metadata) = self.look(&at)?;
            }
            for part in parts(&to).into_iter().rev() {
                ahead.push_front(part);
            }
            steps.push(Step::Link { path: next, to });
        }
        Ok(Walk {
            steps,
            path: at,
            on_disk,
            metadata,
        })
    }

    /// What is at `path` itself; its parents must be free of links.
    pub(super) fn look(&self, path: &Path) -> io::Result<(PathBuf, Metadata)> {
        let mut absent = io::Error::from(io::ErrorKind::NotFound);
        for root in &self.roots {
            let on_disk = below(root, path);
            match fs::symlink_metadata(&on_disk) {
                Ok(metadata) => return Ok((on_disk, metadata)),
                Err(error) => absent = error,
            }
        }
        Err(absent)
    }

    /// The names in a directory whose path is free of links, sorted.
    pub(super) fn list(&self, directory: &Path) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        let mut result = Err(io::Error::from(io::ErrorKind::NotFound));
        for root in &self.roots {
            match fs::read_dir(below(root, directory)) {
                Ok(entries) => {
                    for entry in entries {
                        names.insert(entry?.file_name());
                    }
                    result = Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        result.map(|()| names)
    }

    /// What is at `path` itself, a link included, whose parents may be links.
    pub(super) fn look_through(&self, path: &Path) -> Option<(PathBuf, Metadata)> {
        let parent = self.walk(path.parent()?).ok()?.path;
        self.look(&parent.join(path.file_name()?)).ok()
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.walk(path).is_ok()
    }

    /// The whole file at `path`, which is absolute and may lead through links.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(self.walk(path)?.on_disk)
    }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The components of a path that name something, `..` included.
pub(super) fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_told() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        make("usr/bin");
        make("etc/alternatives");
        symlink("usr/bin", root.path().join("bin")).unwrap();
        symlink("/etc/alternatives/x", root.path().join("usr/bin/x")).unwrap();
        symlink("../../usr/bin/x.real", root.path().join("etc/alternatives/x")).unwrap();
        fs::write(root.path().join("usr/bin/x.real"), "x").unwrap();

        let walk = Machine::at(root.path()).walk(Path::new("/bin/x")).unwrap();
        assert_eq!(walk.path, Path::new("/usr/bin/x.real"));
        let links: Vec<_> = walk
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Link { path, to } => Some((path.to_str().unwrap(), to.to_str().unwrap())),
                Step::Directory { .. } => None,
            })
            .collect();
        assert_eq!(
            links,
            [
                ("/bin", "usr/bin"),
                ("/usr/bin/x", "/etc/alternatives/x"),
                ("/etc/alternatives/x", "../../usr/bin/x.real"),
            ]
        );
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let error = Machine::at(root.path()).walk(Path::new("/a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_unpacked_root_lies_over_the_machine() {
        let (under, over) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [&under, &over] {
            fs::create_dir(root.path().join("etc")).unwrap();
        }
        fs::write(under.path().join("etc/one"), "under").unwrap();
        fs::write(under.path().join("etc/two"), "under").unwrap();
        fs::write(over.path().join("etc/two"), "over").unwrap();
        let mut machine = Machine::at(under.path());
        machine.lay_over(over.path());
        assert_eq!(machine.read(Path::new("/etc/one")).unwrap(), b"under");
        assert_eq!(machine.read(Path::new("/etc/two")).unwrap(), b"over");
        let names: Vec<_> = machine.list(Path::new("/etc")).unwrap().into_iter().collect();
        assert_eq!(names, ["one", "two"]);
    }
}
