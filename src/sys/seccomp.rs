//! Loading a system call filter (seccomp(2)).

use std::io;

use nix::sys::prctl;

/// Why a filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("no_new_privs cannot be set, and without it no filter may be loaded: {0}")]
    NoNewPrivs(#[source] io::Error),
    #[error("no_new_privs did not stay set, and without it no filter may be loaded")]
    NotKept,
    #[error("a filter of {0} instructions is longer than a program can be")]
    TooLong(usize),
    #[error("the kernel refuses the system call filter: {0}")]
    Refused(#[source] io::Error),
}

/// Puts the calling thread, and all that it starts from now on, under `program`, for good. Sets no_new_privs
/// first, as the kernel demands of whoever has no CAP_SYS_ADMIN and herd of everyone: a filter that survives into
/// a setuid program could turn that program against its owner.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*` bits. Threads that exist already are not covered: meant for a process that
/// has just been forked and has no other.
pub fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<(), InstallError> {
    prctl::set_no_new_privs().map_err(|e| InstallError::NoNewPrivs(e.into()))?;
    if !prctl::get_no_new_privs().map_err(|e| InstallError::NoNewPrivs(e.into()))? {
        return Err(InstallError::NotKept);
    }
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| InstallError::TooLong(program.len()))?,
        filter: program.as_ptr().cast_mut(),
    };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` describes a slice that outlives the call; the kernel copies from it and, though the type
    // has a mutable pointer, never writes to it.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
        0 => Ok(()),
        _ => Err(InstallError::Refused(io::Error::last_os_error())),
    }
}
