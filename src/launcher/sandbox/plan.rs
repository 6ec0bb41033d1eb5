//! What a kind's sandboxes are made of: read, checked and compiled by herd. Those of its first configuration are made
//! before the launcher is forked, so that both hold them without a word between them; those of later ones are sent to
//! it, as they are: there is nothing in a plan that the launcher would have to find out or to believe.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::bundle;
use crate::config::{Config, Kind, Mount, Profile, Require, Root, Sandbox, SandboxNetwork};
use crate::sandbox::cgroup::{Controller, Controllers, Cpus, Limits};
use crate::sandbox::seccomp::{self, Filter};
use crate::sys::{kernel, mounts, process};

/// Who the worker is inside, where neither herd.yaml nor the bundle says: no root, and known to most images.
const DEFAULT_USER: u32 = 1000;

/// A command of this name is this very binary, so that herd's own runner is always of the version that reads the
/// file, and works before anything is installed.
pub const OWN_NAME: &str = "herd";

/// Each file costs an inode in memory, too: as many as there would be pages.
const BYTES_PER_INODE: u64 = 4096;

/// A plan, for the life of a herd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PlanId(u64);

/// One kind's sandboxes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Not a part of what it says.
    #[serde(skip)]
    id: PlanId,
    pub(super) root: PlannedRoot,
    pub(super) filter: Filter,
    pub(super) network: SandboxNetwork,
    /// Bytes and files of the writable layer.
    pub(super) tmpfs: u64,
    pub(super) inodes: u64,
    pub(super) mounts: Vec<PlannedMount>,
    pub(super) user: u32,
    /// What will be enforced by control groups.
    pub(super) limits: Limits,
    /// What is enforced without them.
    pub(super) most_processes: Option<u64>,
    /// This very binary, where it is the worker.
    pub(super) own_binary: Option<PathBuf>,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    weaker: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum PlannedRoot {
    Host,
    Bundle {
        rootfs: PathBuf,
        /// A bundle that was built anew has another directory of the same name.
        inode: (u64, u64),
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PlannedMount {
    pub(super) source: PathBuf,
    pub(super) kind: mounts::Kind,
    pub(super) target: PathBuf,
    pub(super) writable: bool,
    /// User and group that own the source.
    pub(super) owner: (u32, u32),
}

impl Plan {
    pub fn id(&self) -> PlanId {
        self.id
    }

    /// For the launcher.
    pub(in crate::launcher) fn packed(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// What was [packed](Self::packed).
    pub(in crate::launcher) fn unpack(id: PlanId, packed: &[u8]) -> serde_json::Result<Self> {
        let plan = serde_json::from_slice(packed)?;
        Ok(Self { id, ..plan })
    }

    /// Whether sandboxes of both are the same.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self.packed(), other.packed()) {
            (Ok(own), Ok(other)) => own == other,
            _ => false,
        }
    }

    /// Variables that the bundle sets.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Where the bundle's program starts.
    pub fn cwd(&self) -> Option<&str> {
        self.cwd.as_deref()
    }

    pub fn network(&self) -> SandboxNetwork {
        self.network
    }

    /// What was asked for and cannot be enforced here; only with `require: best-effort`.
    pub fn weaker(&self) -> &[String] {
        &self.weaker
    }
}

/// Why a kind cannot run in its sandbox.
#[derive(Debug, thiserror::Error)]
#[error("workers.{kind}.sandbox: {why}")]
pub struct PlanError {
    pub kind: String,
    /// The setting of `sandbox` that is wrong; `None`: the whole.
    pub key: Option<&'static str>,
    #[source]
    pub why: PlanErrorKind,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanErrorKind {
    #[error(transparent)]
    Bundle(#[from] bundle::OpenError),
    #[error(transparent)]
    Program(#[from] bundle::ProgramError),
    #[error(transparent)]
    Profile(#[from] seccomp::ProfileError),
    #[error(transparent)]
    Compile(#[from] seccomp::CompileError),
    #[error("{} cannot be mounted: {source}; write a directory or file that exists, or remove the mount", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error(
        "{} belongs to root, and what a worker writes there would too; give it to another user (chown), or write mode: ro",
        path.display()
    )]
    WritableRoot { path: PathBuf },
    #[error("{why}; or write `require: best-effort` to run without this limit")]
    Limit { why: String },
}

/// A plan per kind, in the file's order; `None` for a kind without a sandbox.
pub type Plans = Vec<Option<std::sync::Arc<Plan>>>;

/// The control group controllers that the kinds' limits need.
pub fn needs(config: &Config) -> Controllers {
    let sandboxes = config.kinds.iter().filter_map(|kind| kind.sandbox.on());
    sandboxes.fold(Controllers::NONE, |all, sandbox| {
        all.union(wanted(sandbox).needs())
    })
}

/// Limits that a herd which runs cannot enforce: it has made no control groups for them, because nothing asked for them
/// when it started. Each with its kind and its key.
pub fn unopened(
    config: &Config,
    available: Controllers,
    missing: &[crate::sandbox::cgroup::Unavailable],
) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for kind in &config.kinds {
        for controller in kind
            .sandbox
            .on()
            .into_iter()
            .flat_map(|sandbox| wanted(sandbox).needs().iter())
        {
            let known = missing.iter().any(|why| why.controller == controller);
            if !available.contains(controller) && !known {
                found.push((kind.name.clone(), key(controller)));
            }
        }
    }
    found
}

fn key(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory",
        Controller::Cpu => "cpus",
        Controller::Pids => "pids",
    }
}

fn wanted(sandbox: &Sandbox) -> Limits {
    Limits {
        memory: sandbox.limits.memory,
        cpus: sandbox.limits.cpus.and_then(Cpus::from_milli),
        // RLIMIT_NPROC does it where nobody asks to hear of it, and joining a control group can take the kernel longer
        // than everything else.
        pids: (sandbox.limits.pids_asked || !counts_by_namespace()).then_some(sandbox.limits.pids),
    }
}

/// Whether RLIMIT_NPROC counts the processes of a user namespace alone, not all of a user's.
fn counts_by_namespace() -> bool {
    kernel::version(&kernel::release()) >= (5, 14)
}

/// Every kind's plan, or everything that is wrong with any. `available` and `missing` are what control groups
/// can and cannot limit here.
pub fn prepare(
    config: &Config,
    available: Controllers,
    missing: &[crate::sandbox::cgroup::Unavailable],
) -> Result<Plans, Vec<PlanError>> {
    let mut plans = Vec::new();
    let mut wrong = Vec::new();
    for kind in &config.kinds {
        let plan = kind
            .sandbox
            .on()
            .map(|sandbox| plan(kind, sandbox, available, missing))
            .transpose();
        match plan {
            Ok(plan) => plans.push(plan.map(std::sync::Arc::new)),
            Err((key, why)) => wrong.push(PlanError {
                kind: kind.name.clone(),
                key,
                why,
            }),
        }
    }
    match wrong.is_empty() {
        true => Ok(plans),
        false => Err(wrong),
    }
}

fn plan(
    kind: &Kind,
    sandbox: &Sandbox,
    available: Controllers,
    missing: &[crate::sandbox::cgroup::Unavailable],
) -> Result<Plan, (Option<&'static str>, PlanErrorKind)> {
    fn at<E: Into<PlanErrorKind>>(key: &'static str) -> impl Fn(E) -> (Option<&'static str>, PlanErrorKind) {
        move |e| (Some(key), e.into())
    }
    let (root, env, cwd, bundle_user) = match &sandbox.root {
        Root::Host => (PlannedRoot::Host, Vec::new(), None, None),
        Root::Bundle(dir) => {
            let bundle = bundle::open(dir).map_err(at("bundle"))?;
            if let Some(program) = kind.cmd.first().and_then(|program| program.text())
                && program != OWN_NAME
                && !(program.contains('/') && is_mounted(sandbox, &bundle.cwd.join(program)))
            {
                bundle.check_program(program).map_err(at("bundle"))?;
            }
            let env = bundle
                .env
                .iter()
                .filter_map(|entry| entry.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let rootfs = fs::canonicalize(&bundle.rootfs).map_err(|source| {
                let path = bundle.rootfs.clone();
                (Some("bundle"), PlanErrorKind::Mount { path, source })
            })?;
            let meta = fs::metadata(&rootfs).map_err(|source| {
                let path = rootfs.clone();
                (Some("bundle"), PlanErrorKind::Mount { path, source })
            })?;
            let cwd = bundle.cwd.to_str().map(str::to_owned);
            (
                PlannedRoot::Bundle {
                    rootfs,
                    inode: (meta.dev(), meta.ino()),
                },
                env,
                cwd,
                Some(bundle.user.uid).filter(|uid| (1..=65_533).contains(uid)),
            )
        }
    };
    let profile = match &sandbox.profile {
        Profile::Strict => seccomp::Profile::strict(),
        Profile::Browser => seccomp::Profile::browser(),
        Profile::File(path) => seccomp::Profile::load(path).map_err(at("profile"))?,
    };
    for note in profile.notes() {
        tracing::warn!(kind = kind.name, "{note}");
    }
    let filter = profile.compile().map_err(at("profile"))?;
    let mounts = sandbox
        .mounts
        .iter()
        .map(planned_mount)
        .collect::<Result<_, _>>()
        .map_err(|e| (Some("mounts"), e))?;
    let own_binary = match kind.cmd.first().and_then(|program| program.text()) {
        Some(OWN_NAME) => Some(process::own_binary().map_err(|source| {
            let path = PathBuf::from("/proc/self/exe");
            (None, PlanErrorKind::Mount { path, source })
        })?),
        _ => None,
    };
    let wanted = wanted(sandbox);
    let limits = wanted.only(available);
    let weaker = weaker(sandbox, wanted.needs(), available, missing)?;
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Ok(Plan {
        id: PlanId(NEXT.fetch_add(1, Ordering::Relaxed)),
        root,
        filter,
        network: sandbox.network,
        tmpfs: sandbox.tmpfs,
        inodes: (sandbox.tmpfs / BYTES_PER_INODE).max(1024),
        mounts,
        user: sandbox.user.or(bundle_user).unwrap_or(DEFAULT_USER),
        limits,
        most_processes: counts_by_namespace().then_some(sandbox.limits.pids),
        own_binary,
        env,
        cwd,
        weaker,
    })
}

/// Whether the bundle is not the one to have this file.
fn is_mounted(sandbox: &Sandbox, file: &Path) -> bool {
    let mut mounts = sandbox.mounts.iter();
    mounts.any(|mount| file.starts_with(&mount.target))
}

/// What cannot be enforced, a sentence each; an error where that is not accepted.
///
/// The number of processes is limited by RLIMIT_NPROC as well, which a user namespace counts on its own.
fn weaker(
    sandbox: &Sandbox,
    needed: Controllers,
    available: Controllers,
    missing: &[crate::sandbox::cgroup::Unavailable],
) -> Result<Vec<String>, (Option<&'static str>, PlanErrorKind)> {
    let mut weaker = Vec::new();
    for why in missing {
        let lacks = needed.contains(why.controller) && !available.contains(why.controller);
        if !lacks || why.controller == Controller::Pids {
            continue;
        }
        let key = key(why.controller);
        match sandbox.require {
            Require::Strict => return Err((Some(key), PlanErrorKind::Limit { why: why.to_string() })),
            Require::BestEffort => weaker.push(why.to_string()),
        }
    }
    Ok(weaker)
}

fn planned_mount(mount: &Mount) -> Result<PlannedMount, PlanErrorKind> {
    let failed = |source| PlanErrorKind::Mount {
        path: mount.source.clone(),
        source,
    };
    let source = fs::canonicalize(&mount.source).map_err(failed)?;
    let meta = fs::metadata(&source).map_err(failed)?;
    // Without root's rights nothing that belongs to root can be written anyway.
    if mount.writable && meta.uid() == 0 && nix::unistd::geteuid().is_root() {
        return Err(PlanErrorKind::WritableRoot { path: source });
    }
    Ok(PlannedMount {
        kind: match meta.is_dir() {
            true => mounts::Kind::Directory,
            false => mounts::Kind::File,
        },
        source,
        target: mount.target.clone(),
        writable: mount.writable,
        owner: (meta.uid(), meta.gid()),
    })
}
