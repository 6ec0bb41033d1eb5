//! The last steps of a child before it becomes a worker's program, or a command beside it.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{
    AccessFlags, Pid, access, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, getppid, setsid,
};

use crate::sys::fork::exit_now;
use crate::sys::{fd, terminal};

use super::by_descriptor;
use super::keeper::Guarding;
use super::sandbox::OWN_BINARY;
use super::wire::Program;

/// What `execvp` uses where `PATH` is not set (confstr(3), `_CS_PATH`).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Who else runs where the program is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Nobody yet, or nobody who could not do the same outside.
    None,
    /// The worker of this sandbox, which may change any file between a look and an `execve`.
    Worker,
}

/// What becomes descriptors 0 to 2. Without a stdin that is /dev/null already: the launcher's own.
#[derive(Debug)]
pub(super) enum Standard {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(OwnedFd),
}

/// Why a program does not run, and the exit code by which a shell tells that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotRun {
    pub(super) message: String,
    pub(super) code: u8,
}

/// There is such a program, and it cannot be run.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

impl NotRun {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: NOT_EXECUTABLE,
        }
    }
}

/// Returns only if the program cannot be run.
pub(super) fn run(
    program: &Program,
    standard: &Standard,
    keeper: Pid,
    guarding: Guarding,
    company: Company,
) -> NotRun {
    match try_run(program, standard, keeper, guarding, company) {
        Err(not_run) => not_run,
    }
}

fn try_run(
    program: &Program,
    standard: &Standard,
    keeper: Pid,
    guarding: Guarding,
    company: Company,
) -> Result<Infallible, NotRun> {
    let step = |what: &'static str| move |e: Errno| NotRun::new(format!("cannot {what} for the worker: {e}"));
    setsid().map_err(step("make a session"))?;
    if guarding == Guarding::Group {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("arm the parent-death signal"))?;
        if getppid() != keeper {
            exit_now(i32::from(NOT_FOUND));
        }
    }
    let (stdin, stdout, stderr) = match standard {
        Standard::Pipes {
            stdin,
            stdout,
            stderr,
        } => (stdin.as_ref(), stdout, stderr),
        Standard::Terminal(end) => {
            terminal::take(end.as_fd())
                .map_err(|e| NotRun::new(format!("cannot take the terminal for the command: {e}")))?;
            (Some(end), end, end)
        }
    };
    if let Some(stdin) = stdin {
        dup2_stdin(stdin).map_err(step("set stdin"))?;
    }
    dup2_stdout(stdout).map_err(step("set stdout"))?;
    dup2_stderr(stderr).map_err(step("set stderr"))?;
    fd::cloexec_from_3()
        .map_err(|e| NotRun::new(format!("cannot keep herd's descriptors from the worker: {e}")))?;
    reset_signals();
    if let Some(cwd) = &program.cwd {
        chdir(cwd.as_str()).map_err(|e| {
            NotRun::new(format!(
                "cannot enter the working directory {cwd:?}: {}",
                e.desc()
            ))
        })?;
    }
    exec(program, guarding, company)
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

fn exec(program: &Program, guarding: Guarding, company: Company) -> Result<Infallible, NotRun> {
    let name = program
        .argv
        .first()
        .ok_or_else(|| NotRun::new("the command line is empty"))?;
    let c = |text: &str| CString::new(text).map_err(|_| NotRun::new(format!("{text:?} contains a NUL byte")));
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
    if guarding == Guarding::Sandbox && company == Company::None {
        let found = find(name, &program.env);
        if found != Path::new(OWN_BINARY) {
            refuse_own_binary(&found)?;
        }
    }
    let execute = |file: &CStr| match (guarding, company) {
        (Guarding::Sandbox, Company::Worker) => by_descriptor::execute(file, &argv, &env),
        _ => {
            let Err(e) = execve(file, &argv, &env);
            e
        }
    };
    if name.contains('/') {
        return Err(explain(name, name, execute(&argv[0])));
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
        match execute(&c(&file)?) {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP
                if !Path::new(&file).exists() => {}
            // A directory that may not be searched is passed over, as shells do.
            Errno::EACCES if !Path::new(&file).exists() => {}
            Errno::EACCES => denied = denied.or(Some(file)),
            e => return Err(explain(name, &file, e)),
        }
    }
    Err(match denied {
        Some(file) => explain(name, &file, Errno::EACCES),
        None => NotRun {
            message: format!("cannot run {name:?}: not found in PATH ({path})"),
            code: NOT_FOUND,
        },
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
pub(super) const INTERPRETERS: usize = 5;

/// Until the program runs, `/proc/self/exe` is herd's binary, and a bundle could name it as its program or as a
/// script's interpreter, to have herd run inside with a library of the bundle's (CVE-2019-5736). Nobody else
/// runs in the sandbox yet who could change a file after this look; [`by_descriptor`] is for when somebody does.
fn refuse_own_binary(file: &Path) -> Result<(), NotRun> {
    let Ok(own) = std::fs::metadata("/proc/self/exe") else {
        return Err(NotRun::new("cannot tell herd's own binary from the program"));
    };
    let mut file = file.to_owned();
    for _ in 0..INTERPRETERS {
        let Ok(meta) = std::fs::metadata(&file) else {
            // execve will say it better.
            return Ok(());
        };
        if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
            return Err(NotRun::new(format!(
                "{} leads to herd's own binary, which no sandbox may run this way",
                file.display()
            )));
        }
        let mut head = [0; INTERPRETER_LINE];
        let read = std::fs::File::open(&file).and_then(|mut script| script.read(&mut head));
        let Some(script) = interpreter(&head[..read.unwrap_or(0)]) else {
            return Ok(());
        };
        file = PathBuf::from(OsStr::from_bytes(script.interpreter));
    }
    Ok(())
}

/// Bytes of a file that the kernel looks at to know what it is (`BINPRM_BUF_SIZE`).
pub(super) const INTERPRETER_LINE: usize = 256;

/// The first line of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script<'a> {
    pub(super) interpreter: &'a [u8],
    /// The rest of the line, as one argument.
    pub(super) argument: Option<&'a [u8]>,
}

/// As the kernel reads it (`fs/binfmt_script.c`); `None`: this is no script.
pub(super) fn interpreter(head: &[u8]) -> Option<Script<'_>> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|b| matches!(b, b'\n' | 0)).next().unwrap_or_default();
    let line = line.trim_ascii();
    let end = line.iter().position(|b| matches!(b, b' ' | b'\t'));
    let (interpreter, argument) = line.split_at(end.unwrap_or(line.len()));
    let argument = argument.trim_ascii();
    Some(Script {
        interpreter,
        argument: (!argument.is_empty()).then_some(argument),
    })
}

fn explain(name: &str, file: &str, error: Errno) -> NotRun {
    let place = if name == file {
        String::new()
    } else {
        format!(" ({file})")
    };
    let exists = Path::new(file).exists();
    let hint = match error {
        Errno::ENOENT if exists => {
            "; the file exists, so the interpreter named in its first line, or its loader, does not"
        }
        Errno::EACCES if Path::new(file).is_file() => "; is it executable? (chmod +x)",
        Errno::ENOEXEC => "; a script needs a first line such as #!/bin/sh",
        Errno::E2BIG => "; the command line and environment are too long for the kernel",
        by_descriptor::OWN_BINARY => "; it leads to herd's own binary, which no sandbox may run this way",
        _ => "",
    };
    NotRun {
        message: format!("cannot run {name:?}{place}: {}{hint}", error.desc()),
        code: match error {
            Errno::ENOENT | Errno::ENOTDIR if !exists => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(head: &'static [u8]) -> Option<(&'static str, Option<&'static str>)> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        interpreter(head).map(|script| (text(script.interpreter), script.argument.map(text)))
    }

    #[test]
    fn the_first_line_of_a_script_is_read_as_the_kernel_reads_it() {
        assert_eq!(script(b"#!/bin/sh\necho"), Some(("/bin/sh", None)));
        assert_eq!(
            script(b"#! /usr/bin/env  -S a b \n"),
            Some(("/usr/bin/env", Some("-S a b")))
        );
        assert_eq!(script(b"#!\t/bin/sh\t-x"), Some(("/bin/sh", Some("-x"))));
        assert_eq!(script(b"#!/bin/a\0/bin/b"), Some(("/bin/a", None)));
        assert_eq!(script(b"#!\n"), Some(("", None)));
        assert_eq!(script(b"\x7fELF"), None);
    }
}
