//! Mount trees as descriptors (open_tree(2), mount_setattr(2), move_mount(2)): copied from one place, given
//! attributes while nobody can see them, attached at another. No path is looked up twice.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use serde::{Deserialize, Serialize};

/// What a mount forbids; the union of both is meant where two are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    pub const NO_SETUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    pub const NO_DEVICES: Self = Self(libc::MOUNT_ATTR_NODEV);
    pub const NO_EXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    pub const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A copy of a mount and everything below it, attached nowhere yet.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Copies what is seen at `path`; symbolic links are followed.
    ///
    /// Always with what is mounted below: in a user namespace the kernel refuses to show what a mount covers.
    pub fn copy(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
        // SAFETY: a NUL-terminated path that outlives the call, and integers.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so this is a new descriptor that nobody else knows.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Forbids more, in the whole tree.
    pub fn restrict(&self, attributes: Attributes) -> io::Result<()> {
        // SAFETY: plain integers, for which zero means "unchanged".
        let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
        attr.attr_set = attributes.0;
        self.set(&attr)
    }

    /// Shows the owners of its files as the user namespace maps them. Needs privilege over the file system, and
    /// one that supports it.
    pub fn map_ids(&self, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: as above.
        let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
        attr.attr_set = libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = user_namespace.as_raw_fd() as u64;
        self.set(&attr)
    }

    fn set(&self, attr: &libc::mount_attr) -> io::Result<()> {
        // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; `attr` is valid for its size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
                attr,
                size_of::<libc::mount_attr>(),
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Attaches it on top of what `target` refers to.
    pub fn attach(self, target: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both paths are empty, so only the descriptors count.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                target.as_raw_fd(),
                c"".as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Directory,
    File,
}

/// Looks `path` up as if `root` were the root of everything: no `..` and no symbolic link leads out (openat2(2)).
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?)
}

/// A place below `root` to mount something on, made with its parents where it does not exist.
pub fn mount_point(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    match open_in(root, path, OFlag::O_PATH, Mode::empty()) {
        Ok(found) => {
            let is_directory = fstat(&found)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
            match is_directory == (kind == Kind::Directory) {
                true => Ok(found),
                false if is_directory => Err(io::Error::from(io::ErrorKind::IsADirectory)),
                false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let name = path
                .file_name()
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            let parent = match parent == Path::new("/") {
                true => root.try_clone_to_owned()?,
                false => mount_point(root, parent, Kind::Directory)?,
            };
            match kind {
                Kind::Directory => mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?,
                Kind::File => drop(openat2(
                    parent.as_fd(),
                    name,
                    OpenHow::new()
                        .flags(OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC)
                        .mode(Mode::from_bits_truncate(0o644))
                        .resolve(ResolveFlag::RESOLVE_BENEATH),
                )?),
            }
            open_in(root, path, OFlag::O_PATH, Mode::empty())
        }
        Err(e) => Err(e),
    }
}
