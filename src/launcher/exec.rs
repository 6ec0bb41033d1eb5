//! The last steps of a worker's main process before it becomes the program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdout, execve, getppid, setsid};

use crate::sys::fd;
use crate::sys::fork::exit_now;

use super::keeper::Guarding;
use super::wire::Program;

/// What `execvp` uses where `PATH` is not set (confstr(3), `_CS_PATH`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Returns only if the program cannot be run: what and why.
pub(super) fn run(
    program: &Program,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
    keeper: Pid,
    guarding: Guarding,
) -> String {
    match try_run(program, stdout, stderr, keeper, guarding) {
        Err(message) => message,
    }
}

fn try_run(
    program: &Program,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
    keeper: Pid,
    guarding: Guarding,
) -> Result<Infallible, String> {
    let step = |what: &'static str| move |e: Errno| format!("cannot {what} for the worker: {e}");
    setsid().map_err(step("make a session"))?;
    if guarding == Guarding::Group {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("arm the parent-death signal"))?;
        if getppid() != keeper {
            exit_now(127);
        }
    }
    // Standard input is /dev/null already: the launcher's own.
    dup2_stdout(stdout).map_err(step("set stdout"))?;
    dup2_stderr(stderr).map_err(step("set stderr"))?;
    fd::cloexec_from_3().map_err(|e| format!("cannot keep herd's descriptors from the worker: {e}"))?;
    reset_signals();
    if let Some(cwd) = &program.cwd {
        chdir(cwd.as_str())
            .map_err(|e| format!("cannot enter the working directory {cwd:?}: {}", e.desc()))?;
    }
    exec(program)
}

/// `exec` resets handlers, not ignored signals, and Rust's runtime ignores SIGPIPE; nor does it reset the mask.
fn reset_signals() {
    // As the kernel sees it: SIG_DFL, no flags, empty mask. The C library would refuse the two signals that it
    // keeps for itself, which herd may well have inherited as ignored.
    let default = [0_u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: `default` is at least as long as the kernel's `sigaction` and installs no code; the old action
        // is not asked for; the mask's size is the kernel's 8 bytes. SIGKILL and SIGSTOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn exec(program: &Program) -> Result<Infallible, String> {
    let name = program.argv.first().ok_or("the command line is empty")?;
    let c = |text: &str| CString::new(text).map_err(|_| format!("{text:?} contains a NUL byte"));
    let argv = program
        .argv
        .iter()
        .map(|arg| c(arg))
        .collect::<Result<Vec<_>, _>>()?;
    let env = program
        .env
        .iter()
        .map(|(k, v)| c(&format!("{k}={v}")))
        .collect::<Result<Vec<_>, _>>()?;
    if name.contains('/') {
        let Err(e) = execve(&argv[0], &argv, &env);
        return Err(explain(name, name, e));
    }
    let path = program
        .env
        .iter()
        .find(|(k, _)| k == "PATH")
        .map_or(DEFAULT_PATH, |(_, v)| v.as_str());
    let mut denied = None;
    for directory in path.split(':') {
        // An empty entry is the working directory (execvp(3)).
        let file = if directory.is_empty() {
            format!("./{name}")
        } else {
            format!("{directory}/{name}")
        };
        match execve(&c(&file)?, &argv, &env) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP)
                if !Path::new(&file).exists() => {}
            // A directory that may not be searched is passed over, as shells do.
            Err(Errno::EACCES) if !Path::new(&file).exists() => {}
            Err(Errno::EACCES) => denied = denied.or(Some(file)),
            Err(e) => return Err(explain(name, &file, e)),
        }
    }
    Err(match denied {
        Some(file) => explain(name, &file, Errno::EACCES),
        None => format!("cannot run {name:?}: not found in PATH ({path})"),
    })
}

fn explain(name: &str, file: &str, error: Errno) -> String {
    let place = if name == file {
        String::new()
    } else {
        format!(" ({file})")
    };
    let hint = match error {
        Errno::ENOENT if Path::new(file).exists() => {
            "; the file exists, so the interpreter named in its first line, or its loader, does not"
        }
        Errno::EACCES if Path::new(file).is_file() => "; is it executable? (chmod +x)",
        Errno::ENOEXEC => "; a script needs a first line such as #!/bin/sh",
        Errno::E2BIG => "; the command line and environment are too long for the kernel",
        _ => "",
    };
    format!("cannot run {name:?}{place}: {}{hint}", error.desc())
}
