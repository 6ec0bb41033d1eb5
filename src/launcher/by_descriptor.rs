//! `execve` where somebody hostile may change any file at any moment.
//!
//! A command beside a sandbox's program is, until it runs, a copy of herd's init with herd's binary as its
//! `/proc/self/exe`. Whoever gets the kernel to execute *that* has herd's binary running in the sandbox under its own
//! rights, opens it through `/proc` and, where the user of the sandbox may write it, overwrites it (CVE-2019-5736).
//! A worker can put it anywhere: as a link, as the interpreter in the first line of a script, and it can do so after
//! any look that herd takes.
//!
//! So the kernel is given no path. The file is opened, the *open file* is compared with herd's binary, and that one is
//! executed, by a descriptor that closes at exec: for such a descriptor the kernel refuses whatever has an interpreter
//! of its own to be found by a path (execveat(2), ENOENT), whatever the file has become meanwhile. Scripts are
//! therefore followed here, by the kernel's rules, each interpreter opened and compared in its turn.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::execveat;

use super::exec::{INTERPRETER_LINE, INTERPRETERS, interpreter};

/// Told where the file is herd's own binary.
pub(super) const OWN_BINARY: Errno = Errno::ELIBEXEC;

/// Returns only if the file cannot be executed.
pub(super) fn execute(file: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    match follow(file.to_owned(), argv.to_vec(), env) {
        Ok(never) => match never {},
        Err(e) => e,
    }
}

fn follow(
    mut file: CString,
    mut argv: Vec<CString>,
    env: &[CString],
) -> nix::Result<std::convert::Infallible> {
    for _ in 0..=INTERPRETERS {
        // A place, not a stream: it needs the right to execute only, and waits for nobody.
        let place = open(&*file, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        refuse_own_binary(&place)?;
        let Err(e) = execveat(&place, c"", &argv, env, AtFlags::AT_EMPTY_PATH);
        if e != Errno::ENOENT {
            return Err(e);
        }
        let mut head = [0; INTERPRETER_LINE];
        let read = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
            .and_then(|mut script| script.read(&mut head))
            .map_err(|_| Errno::ENOENT)?;
        let script = interpreter(&head[..read]).ok_or(Errno::ENOENT)?;
        let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::ENOEXEC);
        let interpreter = c(script.interpreter)?;
        let mut with = vec![interpreter.clone()];
        if let Some(argument) = script.argument {
            with.push(c(argument)?);
        }
        with.push(file);
        with.extend(argv.into_iter().skip(1));
        (file, argv) = (interpreter, with);
    }
    Err(Errno::ELOOP)
}

/// Unless it is reached by a mount that nobody may write through, as where it is the worker.
fn refuse_own_binary(file: &OwnedFd) -> nix::Result<()> {
    let (own, found) = (stat("/proc/self/exe")?, fstat(file)?);
    let same = (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino);
    match same && !fstatvfs(file)?.flags().contains(FsFlags::ST_RDONLY) {
        true => Err(OWN_BINARY),
        false => Ok(()),
    }
}
