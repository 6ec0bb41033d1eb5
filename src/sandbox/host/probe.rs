//! What is really tried, because no file says it: policies of security modules, of containers and of filters show
//! only in the attempt.
//!
//! A probe enters namespaces and mounts, and neither can be left again, so each runs in a process of its own, which
//! must have one thread. Everything it makes is in its own mount namespace and goes with it. Who starts that process
//! is up to the caller ([`Runner`]): this module knows what to do in it, not how herd is called.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use caps::{CapSet, Capability};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid, getpid};

use crate::sandbox::seccomp::Profile;
use crate::sys::network::bring_loopback_up;

/// One attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A user namespace with this user in it, and privilege inside.
    UserNamespace,
    /// A PID namespace, and a fresh `/proc` for it.
    PidNamespace,
    Proc,
    /// Part of the two above, inside the new PID namespace.
    PidOne,
    ProcInside,
    Tmpfs,
    Overlay,
    /// A network namespace with its loopback interface up.
    Network,
    /// The strict profile, in force.
    Seccomp,
}

/// What came of an attempt: what was seen, or why not.
pub type Outcome = Result<String, String>;

/// Runs a probe in a process of its own: there, [`Probe::run`] has to be called before any thread is made, and its
/// outcome brought back.
pub type Runner<'a> = &'a dyn Fn(Probe) -> Outcome;

impl Probe {
    const ALL: [Self; 9] = [
        Self::UserNamespace,
        Self::PidNamespace,
        Self::Proc,
        Self::PidOne,
        Self::ProcInside,
        Self::Tmpfs,
        Self::Overlay,
        Self::Network,
        Self::Seccomp,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user-namespace",
            Self::PidNamespace => "pid-namespace",
            Self::Proc => "proc",
            Self::PidOne => "pid-one",
            Self::ProcInside => "proc-inside",
            Self::Tmpfs => "tmpfs",
            Self::Overlay => "overlay",
            Self::Network => "network",
            Self::Seccomp => "seccomp",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|probe| probe.name() == name)
    }

    /// Tries it in this process, which is of no other use afterwards. `runner` makes its children.
    pub fn run(self, runner: Runner<'_>) -> Outcome {
        match self {
            Self::UserNamespace => user_namespace(),
            Self::PidNamespace => {
                enter(CloneFlags::CLONE_NEWPID)?;
                runner(Self::PidOne)
            }
            Self::Proc => {
                enter(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
                runner(Self::ProcInside)
            }
            Self::PidOne => match getpid().as_raw() {
                1 => Ok("made one; its first process is number 1".to_owned()),
                other => Err(format!(
                    "the first process of a new PID namespace is number {other}"
                )),
            },
            Self::ProcInside => proc_inside(),
            Self::Tmpfs => {
                let directory = private_tmpfs()?;
                fs::write(directory.join("file"), "x")
                    .map_err(|e| format!("a new tmpfs cannot be written to: {e}"))?;
                Ok("mounted one with a size and an inode limit".to_owned())
            }
            Self::Overlay => overlay(),
            Self::Network => network(),
            Self::Seccomp => {
                let filter = Profile::strict().compile().map_err(|e| e.to_string())?;
                filter.install().map_err(|e| e.to_string())?;
                Ok(format!(
                    "loaded the strict profile, {} instructions",
                    filter.instructions()
                ))
            }
        }
    }
}

/// Enters a user namespace and, together with it, those of `others`.
fn enter(others: CloneFlags) -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | others)
        .map_err(|e| format!("the kernel refuses a new user namespace: {e}"))?;
    let write = |file: &str, text: String| {
        // AppArmor lets a program that has no profile make the namespace, and then denies it every right in there.
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|e| format!("no rights in a new user namespace ({file}: {e})"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

fn user_namespace() -> Outcome {
    enter(CloneFlags::empty())?;
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|e| format!("no rights in a new user namespace (unshare: {e})"))?;
    Ok("made one, with privilege inside".to_owned())
}

/// A fresh proc over the old one. The kernel refuses it to a user namespace when parts of the `/proc` it could see
/// before are covered: the new one would show them.
fn proc_inside() -> Outcome {
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(|e| format!("a PID namespace's own /proc cannot be mounted: {e}"))?;
    match fs::read_link("/proc/self") {
        Ok(target) if target == Path::new("1") => Ok("mounted a fresh one".to_owned()),
        Ok(target) => Err(format!(
            "a fresh /proc says that process 1 is {}",
            target.display()
        )),
        Err(e) => Err(format!("a fresh /proc cannot be read: {e}")),
    }
}

/// Whether herd would make namespaces without a user namespace around them: it is root, and not one whom a container has
/// left without that right.
fn is_privileged() -> bool {
    geteuid().is_root() && caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// Mounts a tmpfs where only this process sees it; root as herd does it, without a user namespace.
fn private_tmpfs() -> Result<&'static Path, String> {
    let namespaces = CloneFlags::CLONE_NEWNS;
    match is_privileged() {
        true => unshare(namespaces).map_err(|e| format!("the kernel refuses a new mount namespace: {e}"))?,
        false => enter(namespaces)?,
    }
    // From here on nothing that is mounted reaches the host; without this nothing may be.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|e| format!("a new mount namespace cannot be cut off from the host's: {e}"))?;
    // Any directory does: only this process sees what covers it.
    let directory = Path::new("/proc");
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("size=1m,nr_inodes=64,mode=0700"),
    )
    .map_err(|e| format!("a tmpfs cannot be mounted: {e}"))?;
    Ok(directory)
}

fn overlay() -> Outcome {
    // Only the initial user namespace may write trusted.* attributes; elsewhere overlayfs keeps its notes in user.*
    // (Linux 5.11). The file is out of sight once something is mounted.
    let ids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = ids.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    let attributes = if is_privileged() && initial {
        ""
    } else {
        ",userxattr"
    };
    let directory = private_tmpfs()?;
    let made = ["lower", "upper", "work", "merged"].map(|name| {
        let path = directory.join(name);
        fs::create_dir(&path).map(|()| path)
    });
    let [Ok(lower), Ok(upper), Ok(work), Ok(merged)] = made else {
        return Err("a new tmpfs cannot be written to".to_owned());
    };
    let written = |e| format!("a new overlay cannot be written to: {e}");
    fs::write(lower.join("file"), "below").map_err(written)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{attributes}",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|e| format!("an overlay cannot be mounted: {e}"))?;
    fs::write(merged.join("file"), "above").map_err(written)?;
    match fs::read(lower.join("file")) {
        Ok(text) if text == b"below" => Ok(match attributes {
            "" => "mounted one".to_owned(),
            _ => "mounted one in a user namespace".to_owned(),
        }),
        _ => Err("an overlay lets writes through to what it covers".to_owned()),
    }
}

fn network() -> Outcome {
    match is_privileged() {
        true => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("the kernel refuses a new network namespace: {e}"))?,
        false => enter(CloneFlags::CLONE_NEWNET)?,
    }
    bring_loopback_up().map_err(|e| {
        format!("the loopback interface of a new network namespace cannot be brought up: {e}")
    })?;
    let unreachable = |e| format!("nobody answers on the loopback interface of a new network namespace: {e}");
    let server = TcpListener::bind(("127.0.0.1", 0)).map_err(unreachable)?;
    let mut client = server
        .local_addr()
        .and_then(TcpStream::connect)
        .map_err(unreachable)?;
    client.write_all(b"x").map_err(unreachable)?;
    Ok("made one, with loopback".to_owned())
}
