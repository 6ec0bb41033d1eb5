//! herd's own groups: made once, before the launcher is forked.

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Version;
use super::dir::Dir;
use super::limits::Controllers;
use super::plan::{self, LEAF, Moving, Plan};
use super::remove::Removal;
use super::why::{Host, Reason, Unavailable};

/// How long the launcher of a herd that was just killed may still hold its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long killed processes may take to die.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);
/// How often a base is emptied again because its processes fork meanwhile.
const ROUNDS: usize = 20;
const PREFIX: &str = "herd-";
/// Groups below groups that a sweep descends into.
const DEPTH: usize = 16;

/// One sandbox's group, for the life of a herd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupId(pub u64);

impl GroupId {
    pub(super) fn name(self) -> String {
        format!("w{}", self.0)
    }
}

/// The groups in which those of the sandboxes are made; open directories, which survive a fork and any change
/// of mounts.
#[derive(Debug, Default)]
pub struct Hierarchies {
    pub(super) parents: Vec<Parent>,
}

#[derive(Debug)]
pub(super) struct Parent {
    pub(super) version: Version,
    pub(super) controllers: Controllers,
    /// `herd-<hash>`; locked.
    pub(super) dir: Dir,
    base: Dir,
    name: String,
}

/// What there is, and what there is not.
#[derive(Debug)]
pub struct Opened {
    pub hierarchies: Hierarchies,
    /// Of what was needed.
    pub missing: Vec<Unavailable>,
}

impl Hierarchies {
    /// Finds what is needed and makes herd's own groups there. What killed herds left in the same places is killed
    /// and removed, whatever is needed now; the last processes are waited for, a few seconds at most.
    ///
    /// In a version 2 group that is delegated, this process and the others there are moved into a leaf: only so
    /// can the group have children with limits. Call it before any thread or child exists.
    pub fn open(state_dir: &Path, needs: Controllers, host: Host) -> Opened {
        let name = name(state_dir);
        // All of them, for the sweep: a former herd may have needed what this one does not.
        let (plans, mut missing) = plan::make(super::Controller::ALL.into_iter().collect(), host);
        missing.retain(|why| needs.contains(why.controller));
        let mut parents = Vec::new();
        for mut plan in plans {
            plan.controllers = plan.controllers.intersection(needs);
            let (version, controllers) = (plan.version, plan.controllers);
            sweep(&plan.base);
            if controllers.is_empty() {
                continue;
            }
            match Parent::make(plan, &name) {
                Ok(parent) => parents.push(parent),
                Err(reason) => {
                    let why = |controller| reason.clone().of(controller, Some(version), host);
                    missing.extend(controllers.iter().map(why));
                }
            }
        }
        Opened {
            hierarchies: Self { parents },
            missing,
        }
    }

    /// What can be limited.
    pub fn controllers(&self) -> Controllers {
        self.parents
            .iter()
            .fold(Controllers::NONE, |all, parent| all.union(parent.controllers))
    }

    /// herd's own groups, for messages.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parents.iter().map(|parent| parent.dir.path())
    }

    /// The descriptors that [`Hierarchies::create`] works with: a keeper that closes all others keeps these.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.parents.iter().map(|parent| parent.dir.raw_fd())
    }

    /// Removes herd's own groups at a clean end, with what the launcher had no time to remove. After any other end
    /// the next herd with the same state directory does it.
    pub fn close(self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.parents.into_iter().try_for_each(|parent| {
            clear(&parent.dir, deadline, DEPTH)?;
            remove(&parent.base, &parent.name, deadline)
        })
    }
}

impl Parent {
    fn make(plan: Plan, name: &str) -> Result<Self, Reason> {
        let dir = acquire(&plan.base, name)?;
        let result = clear(&dir, Instant::now() + PATIENCE, DEPTH)
            .map_err(Reason::io("remove what a former herd left in", dir.path()))
            .and_then(|()| match plan.version {
                Version::V1 => Ok(()),
                Version::V2 => divide(&plan, &dir),
            });
        if let Err(reason) = result {
            // Best effort: the reason is what matters.
            let _ = plan.base.remove(name);
            return Err(reason);
        }
        Ok(Self {
            version: plan.version,
            controllers: plan.controllers,
            dir,
            base: plan.base,
            name: name.to_owned(),
        })
    }
}

/// Makes herd's own group or takes over a former one, and locks it: two herds never share one, not even from
/// different mount namespaces.
fn acquire(base: &Dir, name: &str) -> Result<Dir, Reason> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    let path = base.path().join(name);
    loop {
        match base.make(name) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Reason::io("make the control group", &path)(e));
            }
            _ => {}
        }
        let dir = match base.child(name) {
            // Its former owner removed it in this moment.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            result => result.map_err(Reason::io("open", &path))?,
        };
        // A lock on a directory that is no longer the one of that name would lock nothing.
        if dir.try_lock().map_err(Reason::io("lock", &path))? && dir.is_linked() {
            return Ok(dir);
        }
        if Instant::now() > deadline {
            return Err(Reason::InUse { path });
        }
        sleep(PAUSE);
    }
}

/// Removes the groups of herds that are gone, whichever state directory they had: one that was temporary is never
/// used again. A herd, its launcher and its keepers share one lock, so a group that nobody holds is nobody's. What
/// cannot be removed is left to the next herd: it is no reason against this one.
fn sweep(base: &Dir) {
    let deadline = Instant::now() + PATIENCE;
    let names = base.children().unwrap_or_default();
    for name in names.into_iter().filter(|name| is_ours(name)) {
        if let Ok(dir) = base.child(&name)
            && dir.try_lock().is_ok_and(|locked| locked)
        {
            // Under the lock to the end: a herd that starts with this name meanwhile waits, and makes a new one.
            let _ = clear(&dir, deadline, DEPTH).and_then(|()| remove(base, &name, deadline));
        }
    }
}

/// Kills and removes everything in `dir`, but not `dir`.
fn clear(dir: &Dir, deadline: Instant, depth: usize) -> io::Result<()> {
    dir.kill()?;
    for name in dir.children()? {
        if depth > 0 {
            clear(&dir.child(&name)?, deadline, depth - 1)?;
        }
        remove(dir, &name, deadline)?;
    }
    Ok(())
}

/// Waits for dying processes.
fn remove(base: &Dir, name: &str, deadline: Instant) -> io::Result<()> {
    while base.remove(name)? == Removal::Busy {
        if Instant::now() > deadline {
            return Err(Errno::EBUSY.into());
        }
        if let Ok(dir) = base.child(name) {
            dir.kill()?;
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// Version 2: passes the controllers down to `dir`'s children.
fn divide(plan: &Plan, dir: &Dir) -> Result<(), Reason> {
    let wanted = plan
        .controllers
        .iter()
        .map(|c| format!("+{c}"))
        .collect::<Vec<_>>()
        .join(" ");
    let base = &plan.base;
    let failed = |path: &Path| Reason::io("pass controllers down in", path);
    let mut rounds = ROUNDS;
    loop {
        evacuate(base, plan.moving)?;
        rounds -= 1;
        match base.write("cgroup.subtree_control", &wanted) {
            // A process has appeared since.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && rounds > 0 => {}
            result => break result.map_err(failed(base.path()))?,
        }
    }
    dir.write("cgroup.subtree_control", &wanted)
        .map_err(failed(dir.path()))
}

fn evacuate(base: &Dir, moving: Moving) -> Result<(), Reason> {
    let pids = |dir: &Dir| {
        dir.pids()
            .map_err(Reason::io("read the processes in", dir.path()))
    };
    let own = std::process::id().cast_signed();
    let mut left = match moving {
        Moving::Nobody => return Ok(()),
        Moving::OnlyHerd | Moving::Everybody => pids(base)?,
    };
    if left.is_empty() {
        return Ok(());
    }
    let path = base.path().join(LEAF);
    match base.make(LEAF) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Reason::io("make the control group", &path)(e));
        }
        _ => {}
    }
    let leaf = base.child(LEAF).map_err(Reason::io("open", &path))?;
    for _ in 0..ROUNDS {
        for pid in &left {
            if moving == Moving::OnlyHerd && *pid != own {
                return Err(plan::shared(base, left));
            }
            // 0: not in this PID namespace, so nothing that could be named.
            if *pid == 0 {
                return Err(plan::shared(base, left));
            }
            match leaf.write("cgroup.procs", &pid.to_string()) {
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                result => result.map_err(Reason::io("move processes into", &path))?,
            }
        }
        left = pids(base)?;
        if left.is_empty() {
            return Ok(());
        }
    }
    Err(plan::shared(base, left))
}

/// The same for every herd with this state directory, and for no other. See [`is_ours`].
fn name(state_dir: &Path) -> String {
    let digest = Sha256::digest(resolved(state_dir).as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{hash}")
}

fn is_ours(name: &str) -> bool {
    let hash = name.strip_prefix(PREFIX).unwrap_or_default();
    hash.len() == 12 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Without symbolic links as far as it exists: it may not have been made yet.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|above| {
            let real = above.canonicalize().ok()?;
            // Joining an empty path would append a slash.
            match path.strip_prefix(above) {
                Ok(rest) if !rest.as_os_str().is_empty() => Some(real.join(rest)),
                _ => Some(real),
            }
        })
        .unwrap_or(path.clone())
}
