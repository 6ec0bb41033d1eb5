//! How herd makes its launcher.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};

use crate::config::Lifetime;
use crate::sandbox::host;
use crate::sys::fork::{Namespaces, Side, clone3, exit_now};
use crate::sys::lifeline::Lifeline;
use crate::sys::pidfd::PidFd;
use crate::sys::{fd, process};

use super::run::{self, Mapped, Offered, Sandboxes};
use super::sandbox::{Ids, Owner};
use super::subordinate;
use super::wire::{self, Reply};

/// How long a launcher may take to set itself up, milliseconds. It needs a few; this only bounds a hang.
const SETUP_LIMIT: u16 = 10_000;

/// For tests only: behave as if the kernel refused every namespace.
const FORCE_WEAK: &str = "HERD_FORCE_WEAK_GUARD";

#[derive(Debug)]
pub struct Options {
    pub lifetime: Lifetime,
    pub sandboxes: Sandboxes,
}

/// What makes sure that nothing survives herd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// PID namespaces made with privilege: the kernel's guarantee.
    PidNamespace,
    /// PID namespaces inside a user namespace with the same uid: the same guarantee, without privilege.
    UserPidNamespace,
    /// Process groups, sub-reapers and parent-death signals. Fails if a keeper *and* the launcher are killed
    /// with SIGKILL at once, or a worker changes its credentials.
    Weak { why: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    #[error("the launcher has to be forked before any thread exists, and there are {threads} threads")]
    Threads { threads: usize },
    #[error("`lifetime: strict` cannot be kept here: {why}")]
    NotGuaranteed { why: String },
    #[error("sandboxes need PID, mount and user namespaces, and there are none: {why}")]
    NoSandboxes { why: String },
    #[error("cannot start the launcher: {0}")]
    Io(#[from] io::Error),
}

/// herd's end of a running launcher.
#[derive(Debug)]
pub struct Forked {
    pub socket: OwnedFd,
    pub pidfd: Arc<PidFd>,
    pub guard: Guard,
    pub sandboxes: Sandboxes,
    /// Ids for sandboxes; `None`: there are no namespaces to make them of.
    pub ids: Option<Ids>,
}

/// Forks the launcher. Returns in the parent only.
///
/// The calling thread must be the one that lives as long as herd: the launcher dies with it.
pub fn fork(options: Options) -> Result<Forked, ForkError> {
    let threads = process::threads()?;
    if threads != 1 {
        return Err(ForkError::Threads { threads });
    }
    let forced = std::env::var_os(FORCE_WEAK).is_some();
    let mut sandboxes = options.sandboxes;
    let sandboxed = sandboxes.plans.iter().any(Option::is_some);
    let why = if forced {
        format!("{FORCE_WEAK} is set")
    } else {
        match with_namespaces(sandboxes)? {
            Ok(forked) => return Ok(forked),
            Err((why, unused)) => {
                sandboxes = unused;
                why
            }
        }
    };
    if sandboxed {
        return Err(ForkError::NoSandboxes { why });
    }
    match options.lifetime {
        Lifetime::Strict => Err(ForkError::NotGuaranteed { why }),
        Lifetime::BestEffort => {
            let guard = Guard::Weak { why };
            start(Namespaces::NONE, guard, sandboxes)?
                .map_err(|(message, _)| io::Error::other(message).into())
        }
    }
}

/// The inner error says why the kernel does not want to.
fn with_namespaces(mut sandboxes: Sandboxes) -> io::Result<Result<Forked, Refusal>> {
    let mut refusal = String::new();
    if geteuid().is_root() {
        match start(Namespaces::PID_MOUNT, Guard::PidNamespace, sandboxes)? {
            Ok(forked) => return Ok(Ok(forked)),
            Err((why, unused)) => {
                refusal = format!("as root: {why}; ");
                sandboxes = unused;
            }
        }
    }
    match start(Namespaces::USER_PID_MOUNT, Guard::UserPidNamespace, sandboxes)? {
        Ok(forked) => Ok(Ok(forked)),
        Err((why, unused)) => {
            let why = format!("{refusal}{why}; {}", host::why_no_user_namespaces());
            Ok(Err((why, unused)))
        }
    }
}

/// Why the kernel does not want to, and what was to be taken along.
type Refusal = (String, Sandboxes);

fn start(namespaces: Namespaces, guard: Guard, sandboxes: Sandboxes) -> io::Result<Result<Forked, Refusal>> {
    let offered = Offered {
        own: Owner {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        },
        range: match sandboxes.plans.iter().any(Option::is_some) && namespaces == Namespaces::USER_PID_MOUNT {
            true => subordinate::range(),
            false => None,
        },
    };
    let lifeline = Lifeline::tie()?;
    let (ours, theirs) = fd::packet_pair()?;
    let (go_read, go_write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: `fork` has checked that there is only this thread.
    let side = match unsafe { clone3(namespaces) } {
        Ok(side) => side,
        Err(e) => {
            let why = format!("the kernel refuses new {}: {e}", names(namespaces));
            return Ok(Err((why, sandboxes)));
        }
    };
    let (pid, pidfd) = match side {
        Side::Child => {
            drop((ours, go_write));
            exit_now(run::launcher(
                theirs, go_read, &lifeline, &guard, &sandboxes, offered,
            ))
        }
        Side::Parent { pid, child } => (pid, child),
    };
    drop((theirs, go_read));
    let mapped = match namespaces == Namespaces::USER_PID_MOUNT {
        true => map_ids(pid, offered).map_err(|why| match pidfd.has_exited() {
            true => Setback::Broken("the launcher died at once".to_owned()),
            false => Setback::Refused(why),
        }),
        false => Ok(Mapped::Own),
    };
    let result = mapped
        .and_then(|mapped| {
            let died = |e| Setback::Broken(format!("the launcher died at once: {e}"));
            nix::unistd::write(&go_write, &[mapped as u8]).map_err(died)?;
            Ok(mapped)
        })
        .and_then(|mapped| first_words(&ours).map(|()| mapped));
    let mapped = match result {
        Ok(mapped) => mapped,
        Err(setback) => {
            pidfd.signal(Signal::SIGKILL)?;
            fd::retry(|| nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None))?;
            return match setback {
                Setback::Refused(why) => Ok(Err((why, sandboxes))),
                Setback::Broken(why) => Err(io::Error::other(why)),
            };
        }
    };
    lifeline.keep();
    Ok(Ok(Forked {
        socket: ours,
        pidfd: Arc::new(pidfd),
        ids: offered.ids(&guard, mapped),
        guard,
        sandboxes,
    }))
}

/// Why a launcher did not come up.
enum Setback {
    /// The kernel does not give what it needs: a weaker guard may do.
    Refused(String),
    /// It died or fell silent, which says nothing about the kernel: never a reason for a weaker guard.
    Broken(String),
}

/// The same ids inside as outside, so that files keep their owners: this user's own, and its subordinate ones
/// where there are sandboxes for them.
fn map_ids(pid: i32, offered: Offered) -> Result<Mapped, String> {
    if let Some(range) = offered.range
        && subordinate::map(pid, offered.own, range)
    {
        return Ok(Mapped::WithRange);
    }
    let Owner { uid, gid } = offered.own;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(|e| format!("the kernel refuses the {file}: {e}"))
    };
    // Without privilege the kernel accepts a gid map only once setgroups(2) is off (user_namespaces(7)).
    let done = |file: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|map| !map.trim().is_empty())
    };
    // Half of an attempt to map more may have succeeded.
    let gids = done("gid_map");
    if !gids {
        write("setgroups", "deny".to_owned())?;
    }
    write("uid_map", format!("{uid} {uid} 1"))?;
    if !gids {
        write("gid_map", format!("{gid} {gid} 1"))?;
    }
    Ok(Mapped::Own)
}

fn first_words(socket: &OwnedFd) -> Result<(), Setback> {
    let broken = |why: String| Err(Setback::Broken(why));
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match fd::retry(|| poll(&mut fds, PollTimeout::from(SETUP_LIMIT))) {
        Ok(0) => return broken("the launcher did not finish its set-up".to_owned()),
        Ok(_) => {}
        Err(e) => return broken(format!("poll: {e}")),
    }
    match wire::receive(socket.as_fd(), &mut Vec::new()) {
        Ok(Some((Reply::Ready, _))) => Ok(()),
        Ok(Some((Reply::Refused { message }, _))) => Err(Setback::Refused(message)),
        Ok(Some((other, _))) => broken(format!("the launcher began with {other:?}")),
        Ok(None) => broken("the launcher died during its set-up".to_owned()),
        Err(e) => broken(format!("the launcher cannot be heard: {e}")),
    }
}

fn names(namespaces: Namespaces) -> &'static str {
    match namespaces {
        Namespaces::USER_PID_MOUNT => "user, PID and mount namespaces",
        _ => "PID and mount namespaces",
    }
}
