//! Whether something could be made at a place, as far as a look can tell. Makes nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, faccessat};

/// Whether this is a directory in which this process can make files, or can be made one, with those above it.
pub fn directory(path: &Path) -> io::Result<()> {
    for above in path.ancestors() {
        let above = or_here(above);
        match fs::metadata(above) {
            Ok(meta) if meta.is_dir() => return takes_files(above),
            Ok(_) => return Err(ErrorKind::NotADirectory.into()),
            // A link that leads nowhere stays in the way.
            Err(error) if error.kind() != ErrorKind::NotFound || above.is_symlink() => return Err(error),
            Err(_) => {}
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// Whether this process can add to this file, or can make it in a directory that is there.
pub fn file(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(meta) if meta.file_type().is_socket() => Err(nix::Error::ENXIO.into()),
        Ok(_) => allows(path, AccessFlags::W_OK),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Err(missing) => match path.parent().map(or_here) {
            Some(dir) if dir.is_dir() => takes_files(dir),
            _ => Err(missing),
        },
    }
}

/// A relative path's directory.
fn or_here(path: &Path) -> &Path {
    match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    }
}

fn takes_files(dir: &Path) -> io::Result<()> {
    // Their permissions do not tell: root may write to /proc, where nothing can be made.
    let kind = statfs(dir)?.filesystem_type();
    if [
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
    ]
    .contains(&kind)
    {
        let why = format!("{} is the kernel's and takes no files", dir.display());
        return Err(io::Error::new(ErrorKind::Unsupported, why));
    }
    allows(dir, AccessFlags::W_OK | AccessFlags::X_OK)
}

/// The kernel's word for what this very thread would be let do. eaccess(3) asks about the real user, or works it out
/// itself from the permission bits.
fn allows(path: &Path, access: AccessFlags) -> io::Result<()> {
    Ok(faccessat(AT_FDCWD, path, access, AtFlags::AT_EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_made_is_told_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        directory(dir.path()).unwrap();
        directory(&deep).unwrap();
        file(&dir.path().join("log")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_relative_path_is_one_of_the_directory_that_this_process_is_in() {
        // Which this user may be unable to write to.
        let here = directory(&std::env::current_dir().unwrap()).map_err(|error| error.kind());
        let told = |outcome: io::Result<()>| outcome.map_err(|error| error.kind());
        assert_eq!(told(directory(Path::new("made-by-nobody/below"))), here);
        assert_eq!(told(file(Path::new("made-by-nobody"))), here);
    }

    #[test]
    fn what_could_not_be_made_is_told_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("file");
        fs::write(&plain, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        file(&plain).unwrap();
        let kind = |outcome: io::Result<()>| outcome.unwrap_err().kind();
        assert_eq!(kind(directory(&plain)), ErrorKind::NotADirectory);
        assert_eq!(kind(directory(&plain.join("below"))), ErrorKind::NotADirectory);
        assert_eq!(kind(directory(&link.join("below"))), ErrorKind::NotFound);
        assert_eq!(kind(file(dir.path())), ErrorKind::IsADirectory);
        // Unlike a directory, a log's is not made for it.
        assert_eq!(kind(file(&dir.path().join("none/log"))), ErrorKind::NotFound);
        let told = directory(Path::new("/proc/nope")).unwrap_err().to_string();
        assert_eq!(told, "/proc is the kernel's and takes no files");
    }

    #[test]
    fn a_place_that_this_user_may_not_write_to_is_refused() {
        let nobody = nix::unistd::Uid::from_raw(65534);
        // A user of its own, and with it root's rights, is a thread's here and not the process's: setfsuid(2).
        let look = move || {
            nix::unistd::setfsuid(nobody);
            directory(Path::new("/nope"))
        };
        let refused = std::thread::spawn(look).join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    }
}
