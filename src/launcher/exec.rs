//! The last steps of a worker's main process before it becomes the program.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{AccessFlags, Pid, access, chdir, dup2_stderr, dup2_stdout, execve, getppid, setsid};

use crate::sys::fd;
use crate::sys::fork::exit_now;

use super::keeper::Guarding;
use super::sandbox::OWN_BINARY;
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
    exec(program, guarding)
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

fn exec(program: &Program, guarding: Guarding) -> Result<Infallible, String> {
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
    if guarding == Guarding::Sandbox {
        let found = find(name, &program.env);
        if found != Path::new(OWN_BINARY) {
            refuse_own_binary(&found)?;
        }
    }
    if name.contains('/') {
        let Err(e) = execve(&argv[0], &argv, &env);
        return Err(explain(name, name, e));
    }
    let path = search_path(&program.env);
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

fn search_path(env: &[(String, String)]) -> &str {
    env.iter()
        .find(|(k, _)| k == "PATH")
        .map_or(DEFAULT_PATH, |(_, v)| v.as_str())
}

/// The file that `execve` will most probably be given.
fn find(name: &str, env: &[(String, String)]) -> PathBuf {
    if name.contains('/') {
        return PathBuf::from(name);
    }
    let places = search_path(env)
        .split(':')
        .map(|directory| Path::new(directory).join(name));
    places
        .into_iter()
        .find(|file| access(file, AccessFlags::X_OK).is_ok() && file.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

/// How many interpreters of interpreters the kernel follows.
const INTERPRETERS: usize = 5;

/// Until the program runs, `/proc/self/exe` is herd's binary, and a bundle could name it as its program or as a
/// script's interpreter, to have herd run inside with a library of the bundle's (CVE-2019-5736). Nobody else
/// runs in the sandbox yet who could change a file after this look.
fn refuse_own_binary(file: &Path) -> Result<(), String> {
    let Ok(own) = std::fs::metadata("/proc/self/exe") else {
        return Err("cannot tell herd's own binary from the program".to_owned());
    };
    let mut file = file.to_owned();
    for _ in 0..INTERPRETERS {
        let Ok(meta) = std::fs::metadata(&file) else {
            // execve will say it better.
            return Ok(());
        };
        if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
            return Err(format!(
                "{} leads to herd's own binary, which no sandbox may run this way",
                file.display()
            ));
        }
        let mut head = [0; 256];
        let read = std::fs::File::open(&file).and_then(|mut script| script.read(&mut head));
        let head = &head[..read.unwrap_or(0)];
        let Some(line) = head.strip_prefix(b"#!") else {
            return Ok(());
        };
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let interpreter = line
            .split(|b| matches!(b, b' ' | b'\t' | 0))
            .find(|word| !word.is_empty())
            .unwrap_or_default();
        file = PathBuf::from(OsStr::from_bytes(interpreter));
    }
    Ok(())
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
