//! Renames that say what is to become of the target (rename(2)). By the system call: musl has no function for it.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Gives `from` the name `to`; EEXIST if something has it.
pub fn without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    renameat2(from, to, libc::RENAME_NOREPLACE)
}

/// Gives each of the two the name of the other, in one step.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    renameat2(one, other, libc::RENAME_EXCHANGE)
}

fn renameat2(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    let (here, from, to) = (libc::AT_FDCWD, from.as_ptr(), to.as_ptr());
    // SAFETY: renameat2(2) reads two strings, which are terminated and outlive the call.
    match unsafe { libc::syscall(libc::SYS_renameat2, here, from, here, to, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_rename_replaces_nothing_unless_it_is_an_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other, free] = ["one", "other", "free"].map(|name| dir.path().join(name));
        fs::write(&one, "1").unwrap();
        fs::write(&other, "2").unwrap();

        let refused = without_replacing(&one, &other).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&other).unwrap(), "2");

        exchange(&one, &other).unwrap();
        assert_eq!(fs::read_to_string(&one).unwrap(), "2");
        assert_eq!(fs::read_to_string(&other).unwrap(), "1");

        without_replacing(&one, &free).unwrap();
        assert!(!one.exists());
        assert_eq!(exchange(&one, &free).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
