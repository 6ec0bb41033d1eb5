//! Writing a root filesystem that strangers describe.
//!
//! [`Root`] keeps an index of everything it wrote (`index`). Symbolic links are followed in the index, never by the kernel:
//! a path is first turned into one without links, and that one is opened with `openat2`, `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`. So two things must fail at once before a write can leave the root. A file is always
//! created anew (`O_EXCL`), so an entry never writes through a link or into another name of the same file.
//!
//! Not here: what an archive may contain (`layer`), and the order of things (`Staging`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sha2::{Digest as _, Sha256};

use crate::sys::interrupt::{self, Interrupted};

use super::content::{Entries, Entry, Sha256Digest, escape, shown};
use super::index::{Index, Kind, Node, PATH_MAX};

const CHUNK: usize = 128 * 1024;

/// How much may be written below a root.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files together, those that later layers replace included.
    pub bytes: u64,
    /// Directories, files and links, replaced ones included.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 << 30,
            entries: 1_000_000,
        }
    }
}

/// Mode, time and owner of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits; setuid and setgid are dropped, and the owner can always read (directories: enter).
    pub mode: u32,
    /// Seconds since 1970. Kept because programs compare them: Python ignores a `.pyc` whose source has another.
    pub mtime: i64,
    /// Taken only where herd may give files away (as root), else everything belongs to the caller.
    pub uid: u32,
    pub gid: u32,
}

impl Attributes {
    /// Root's, of the given mode, as of 1970.
    pub fn new(mode: u32) -> Self {
        Self {
            mode,
            mtime: 0,
            uid: 0,
            gid: 0,
        }
    }
}

/// Why an entry was not written. The entry itself is named by whoever handles the error.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("its path climbs out with `..`")]
    Traversal,
    #[error("its path has a NUL byte, an empty part or a part longer than 255 bytes")]
    Name,
    #[error("its path is too long: together with the bundle's own it exceeds 4095 bytes")]
    PathTooLong,
    #[error("its path leads through the link {link}, which climbs out of the root filesystem")]
    Escape { link: String },
    #[error(
        "its path leads through the link {link}, whose target {target} does not exist in the root filesystem"
    )]
    Dangling { link: String, target: String },
    #[error("its path leads through {link}: more than 40 links")]
    LinkLoop { link: String },
    #[error("its path leads through {parent}, which is a file")]
    NotADirectory { parent: String },
    #[error("it would replace the root directory with something else")]
    ReplacesRoot,
    #[error("it is a hard link to {target}, which is not a regular file of this root filesystem")]
    HardLink { target: String },
    #[error("the target of a symbolic link is empty, has a NUL byte or more than 4095 bytes")]
    LinkTarget,
    #[error("the files together have more than {0} bytes")]
    TooManyBytes(u64),
    #[error("there are more than {0} entries")]
    TooManyEntries(u64),
    #[error("cannot read its content")]
    Content(#[source] io::Error),
    #[error("cannot {doing}")]
    Write {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn writing(doing: &'static str) -> impl Fn(Errno) -> RootError {
    move |errno| RootError::Write {
        doing,
        source: errno.into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owners {
    /// Files can be given away: they keep the owners of their entries.
    Kept,
    Caller,
}

/// A root filesystem being written.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    limits: Limits,
    index: Index,
    layer: u32,
    bytes: u64,
    written: u64,
    owners: Owners,
    /// The directory opened last: archives list a directory's entries one after the other.
    recent: Option<(PathBuf, OwnedFd)>,
}

impl Root {
    /// `directory` is empty and belongs to nobody else; `path` is where it will be.
    pub(super) fn new(directory: OwnedFd, path: &Path, limits: Limits) -> Self {
        Self {
            fd: directory,
            limits,
            index: Index::new(path),
            layer: 0,
            bytes: 0,
            written: 0,
            owners: match nix::unistd::geteuid().is_root() {
                true => Owners::Kept,
                false => Owners::Caller,
            },
            recent: None,
        }
    }

    /// What follows belongs to a new layer; see [`Root::whiteout`].
    pub fn next_layer(&mut self) {
        self.layer += 1;
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What is at `path`, links followed on the way but not at its end.
    pub fn kind(&self, path: &Path) -> Result<Option<&Kind>, RootError> {
        let path = self.index.locate(path)?;
        Ok(self.index.nodes.get(&path).map(|node| &node.kind))
    }

    /// A directory, or new attributes for one that exists. Missing parents are made, mode 0755.
    pub fn directory(&mut self, path: &Path, attributes: &Attributes) -> Result<(), RootError> {
        self.count()?;
        let path = self.index.locate(path)?;
        let attributes = Attributes {
            // The owner has to be able to look into it; the sticky bit is harmless.
            mode: attributes.mode & 0o1777 | 0o500,
            ..*attributes
        };
        if let Some(node) = self.index.nodes.get_mut(&path)
            && node.kind == Kind::Directory
        {
            node.attributes = attributes;
            node.layer = self.layer;
            return Ok(());
        }
        self.clear(&path)?;
        self.make_directory(&path, attributes)
    }

    /// A regular file with all that `content` yields. Answers with its size in bytes.
    pub fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        content: &mut dyn Read,
    ) -> Result<u64, RootError> {
        self.count()?;
        let path = self.index.locate(path)?;
        self.clear(&path)?;
        let (parent, name) = self.parent_of(&path)?;
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o600))
            .resolve(STRICT);
        let file = File::from(openat2(parent, name.as_os_str(), how).map_err(writing("create the file"))?);
        let mode = readable(attributes.mode);
        let (size, sha256) = self.copy(content, &file)?;
        self.own(&path, attributes)?;
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(writing("set the file's mode"))?;
        let time = TimeSpec::new(attributes.mtime, 0);
        futimens(&file, &time, &time).map_err(writing("set the file's time"))?;
        let attributes = Attributes { mode, ..*attributes };
        self.note(path, Kind::File { size, sha256 }, attributes);
        Ok(size)
    }

    /// A symbolic link. Its target is a text: it is looked at only when a later path leads through it.
    pub fn symlink(&mut self, path: &Path, target: &Path, attributes: &Attributes) -> Result<(), RootError> {
        self.count()?;
        let bytes = target.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= PATH_MAX {
            return Err(RootError::LinkTarget);
        }
        let path = self.index.locate(path)?;
        self.clear(&path)?;
        self.make_link(path, target, *attributes)
    }

    /// A further name for a file of this root. For a symbolic link it becomes an equal link.
    pub fn hardlink(&mut self, path: &Path, target: &Path) -> Result<(), RootError> {
        self.count()?;
        let wrong = || RootError::HardLink {
            target: escape(target.as_os_str()),
        };
        // A target that climbs out or leads through hostile links is the same refusal.
        let source = self.index.locate(target).map_err(|_| wrong())?;
        let node = self.index.nodes.get(&source).ok_or_else(wrong)?.clone();
        let path = self.index.locate(path)?;
        if path == source {
            return Ok(());
        }
        match &node.kind {
            Kind::Directory => Err(wrong()),
            Kind::Link { target } => {
                let target = target.clone();
                self.clear(&path)?;
                self.make_link(path, &target, node.attributes)
            }
            Kind::File { .. } => {
                self.clear(&path)?;
                // Clearing the way may have removed the target with a directory.
                if !self.index.nodes.contains_key(&source) {
                    return Err(wrong());
                }
                let from = self.open_directory(parent_path(&source))?;
                let (parent, name) = self.parent_of(&path)?;
                linkat(
                    &from,
                    name_of(&source),
                    parent,
                    name.as_os_str(),
                    AtFlags::empty(),
                )
                .map_err(writing("create the hard link"))?;
                self.note(path, node.kind, node.attributes);
                Ok(())
            }
        }
    }

    /// Removes what earlier layers put at `path`, and keeps what the current one did.
    pub fn whiteout(&mut self, path: &Path) -> Result<(), RootError> {
        self.count()?;
        let path = self.index.locate(path)?;
        if path.as_os_str().is_empty() {
            return Err(RootError::ReplacesRoot);
        }
        self.remove_older(&path)
    }

    /// Removes what earlier layers put into the directory `path`.
    pub fn opaque(&mut self, path: &Path) -> Result<(), RootError> {
        self.count()?;
        let path = self.follow(path)?;
        if self
            .index
            .nodes
            .get(&path)
            .is_some_and(|node| node.kind != Kind::Directory)
        {
            return Err(RootError::NotADirectory { parent: shown(&path) });
        }
        for child in self.index.children(&path) {
            self.remove_older(&child)?;
        }
        Ok(())
    }

    /// Removes `path`, whatever it is, with everything below.
    pub fn remove(&mut self, path: &Path) -> Result<(), RootError> {
        let path = self.index.locate(path)?;
        self.clear(&path)
    }

    /// The content of a file, links followed at its end, too; `None` if there is no such file. Longer ones than
    /// `limit` bytes are cut.
    pub fn read(&mut self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RootError> {
        let path = match self.follow(path) {
            Ok(path) => path,
            Err(RootError::Dangling { .. } | RootError::NotADirectory { .. } | RootError::Escape { .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !matches!(
            self.index.nodes.get(&path).map(|node| &node.kind),
            Some(Kind::File { .. })
        ) {
            return Ok(None);
        }
        let (parent, name) = self.parent_of(&path)?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(STRICT);
        let file = openat2(parent, name.as_os_str(), how).map_err(writing("open the file"))?;
        let mut content = Vec::new();
        File::from(file)
            .take(limit)
            .read_to_end(&mut content)
            .map_err(RootError::Content)?;
        Ok(Some(content))
    }

    /// Where `path` ends when every link is followed, the last one included.
    pub fn follow(&self, path: &Path) -> Result<PathBuf, RootError> {
        self.index.follow(path)
    }

    /// Gives directories their modes and times, which would have been in the way until now, and makes it all
    /// durable.
    pub(super) fn seal(&mut self) -> Result<Entries, RootError> {
        // Deepest first: a directory that is closed to its owner must not be needed any more.
        for (path, node) in self.index.nodes.iter().rev() {
            if node.kind != Kind::Directory {
                continue;
            }
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                .resolve(STRICT);
            let fd = openat2(&self.fd, path_or_dot(path), how).map_err(writing("open a directory"))?;
            fchmod(&fd, Mode::from_bits_truncate(node.attributes.mode))
                .map_err(writing("set a directory's mode"))?;
            let time = TimeSpec::new(node.attributes.mtime, 0);
            futimens(&fd, &time, &time).map_err(writing("set a directory's time"))?;
        }
        self.recent = None;
        nix::unistd::syncfs(self.fd.as_fd()).map_err(writing("write the files to disk"))?;
        let entries = self.index.nodes.iter().map(|(path, node)| {
            let mode = node.attributes.mode;
            let entry = match &node.kind {
                Kind::Directory => Entry::Directory { mode },
                Kind::File { size, sha256 } => Entry::File {
                    mode,
                    size: *size,
                    sha256: *sha256,
                },
                Kind::Link { target } => Entry::Link {
                    target: escape(target.as_os_str()),
                },
            };
            (path.clone(), entry)
        });
        Ok(entries.collect())
    }

    fn count(&mut self) -> Result<(), RootError> {
        interrupt::check()?;
        self.written += 1;
        match self.written > self.limits.entries {
            true => Err(RootError::TooManyEntries(self.limits.entries)),
            false => Ok(()),
        }
    }

    fn copy(&mut self, content: &mut dyn Read, mut file: &File) -> Result<(u64, Sha256Digest), RootError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            interrupt::check()?;
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(RootError::Content(error)),
            };
            size += read as u64;
            self.bytes = self.bytes.saturating_add(read as u64);
            if self.bytes > self.limits.bytes {
                return Err(RootError::TooManyBytes(self.limits.bytes));
            }
            hash.update(&buffer[..read]);
            file.write_all(&buffer[..read])
                .map_err(|source| RootError::Write {
                    doing: "write the file",
                    source,
                })?;
        }
        Ok((size, Sha256Digest(hash.finalize().into())))
    }

    fn make_link(&mut self, path: PathBuf, target: &Path, attributes: Attributes) -> Result<(), RootError> {
        let (parent, name) = self.parent_of(&path)?;
        symlinkat(target, parent, name.as_os_str()).map_err(writing("create the link"))?;
        self.own(&path, &attributes)?;
        let (parent, name) = self.parent_of(&path)?;
        let time = TimeSpec::new(attributes.mtime, 0);
        utimensat(
            parent,
            name.as_os_str(),
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(writing("set the link's time"))?;
        let kind = Kind::Link {
            target: target.to_owned(),
        };
        self.note(path, kind, attributes);
        Ok(())
    }

    fn make_directory(&mut self, path: &Path, attributes: Attributes) -> Result<(), RootError> {
        let (parent, name) = self.parent_of(path)?;
        mkdirat(parent, name.as_os_str(), Mode::from_bits_truncate(0o700))
            .map_err(writing("create the directory"))?;
        self.own(path, &attributes)?;
        self.note(path.to_owned(), Kind::Directory, attributes);
        Ok(())
    }

    fn note(&mut self, path: PathBuf, kind: Kind, attributes: Attributes) {
        let layer = self.layer;
        self.index.nodes.insert(
            path,
            Node {
                kind,
                attributes,
                layer,
            },
        );
    }

    /// Makes room at `path`.
    fn clear(&mut self, path: &Path) -> Result<(), RootError> {
        if path.as_os_str().is_empty() {
            return Err(RootError::ReplacesRoot);
        }
        if self.index.nodes.contains_key(path) {
            let below: Vec<_> = self.index.below(path).map(|(path, _)| path.clone()).collect();
            for path in below.iter().rev() {
                self.unlink(path)?;
            }
            self.unlink(path)?;
        }
        Ok(())
    }

    /// Removes what older layers put at and below `path`. A directory in which this layer put something stays.
    fn remove_older(&mut self, path: &Path) -> Result<(), RootError> {
        let Some(node) = self.index.nodes.get(path) else {
            return Ok(());
        };
        let all: Vec<_> = std::iter::once((path, node))
            .chain(self.index.below(path).map(|(path, node)| (path.as_path(), node)))
            .filter(|(_, node)| node.layer < self.layer)
            .map(|(path, _)| path.to_owned())
            .collect();
        // A directory comes before what is in it, so in reverse it is safe to ask "is it empty now?".
        for path in all.iter().rev() {
            interrupt::check()?;
            if self.index.below(path).next().is_none() {
                self.unlink(path)?;
            }
        }
        Ok(())
    }

    fn unlink(&mut self, path: &Path) -> Result<(), RootError> {
        let flag = match self.index.nodes.get(path).map(|node| &node.kind) {
            Some(Kind::Directory) => UnlinkatFlags::RemoveDir,
            Some(_) => UnlinkatFlags::NoRemoveDir,
            None => return Ok(()),
        };
        if matches!(flag, UnlinkatFlags::RemoveDir) {
            // The path may become something else.
            self.recent = None;
        }
        let (parent, name) = self.parent_of(path)?;
        unlinkat(parent, name.as_os_str(), flag)
            .map_err(writing("remove what an earlier entry put there"))?;
        self.index.nodes.remove(path);
        Ok(())
    }

    fn own(&mut self, path: &Path, attributes: &Attributes) -> Result<(), RootError> {
        if self.owners == Owners::Caller {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        let (parent, name) = self.parent_of(path)?;
        match fchownat(
            parent,
            name.as_os_str(),
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(()) => Ok(()),
            // Root of a user namespace without that id, or without the capability: as good as rootless.
            Err(Errno::EINVAL | Errno::EPERM) => {
                self.owners = Owners::Caller;
                Ok(())
            }
            Err(errno) => Err(writing("set the owner")(errno)),
        }
    }

    /// The open parent directory of a located path, made if it is missing, and the path's last part.
    fn parent_of(&mut self, path: &Path) -> Result<(&OwnedFd, OsString), RootError> {
        let parent = parent_path(path);
        if !self.index.nodes.contains_key(parent) {
            self.make_parents(parent)?;
        }
        if self.recent.as_ref().is_none_or(|(recent, _)| recent != parent) {
            let fd = self.open_directory(parent)?;
            self.recent = Some((parent.to_owned(), fd));
        }
        match &self.recent {
            Some((_, fd)) => Ok((fd, name_of(path).to_owned())),
            None => Err(writing("open a directory")(Errno::ENOENT)),
        }
    }

    fn make_parents(&mut self, directory: &Path) -> Result<(), RootError> {
        let missing: Vec<_> = directory
            .ancestors()
            .take_while(|path| !self.index.nodes.contains_key(*path))
            .map(Path::to_owned)
            .collect();
        for path in missing.iter().rev() {
            self.count()?;
            self.make_directory(path, Attributes::new(0o755))?;
        }
        Ok(())
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, RootError> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(STRICT);
        openat2(&self.fd, path_or_dot(path), how).map_err(writing("open a directory"))
    }
}

/// The index knows every link, so the kernel never has to follow one; nor is anything mounted in here.
const STRICT: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS)
    .union(ResolveFlag::RESOLVE_NO_XDEV);

fn parent_path(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or(OsStr::new("."))
}

fn path_or_dot(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}

/// Without setuid and setgid; readable by the owner, and executable by the owner if by anybody.
fn readable(mode: u32) -> u32 {
    let execute = if mode & 0o111 == 0 { 0 } else { 0o100 };
    mode & 0o777 | 0o400 | execute
}
