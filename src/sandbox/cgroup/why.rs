//! Why a limit cannot be enforced here, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::Version;
use super::limits::Controller;

/// A controller that herd cannot use on this host. Its text names the cause and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{controller} cannot be limited: {reason}; {fix}")]
pub struct Unavailable {
    pub controller: Controller,
    pub reason: Reason,
    /// What the user can do, a command where there is one.
    pub fix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("this kernel offers no such control group controller")]
    Nowhere,
    #[error("the control groups of version {} are not mounted here", number(*version))]
    NotMounted { version: Version },
    #[error(
        "herd's own control group {path} cannot be found: {} shows only what is below {root}",
        mount.display()
    )]
    Hidden {
        path: String,
        mount: PathBuf,
        root: String,
    },
    #[error("the controller is not passed down to the control group {}", path.display())]
    NotPassedDown { path: PathBuf },
    #[error(
        "systemd has not delegated the control group {}, and passes the controller down to none that has not \
         asked for it",
        path.display()
    )]
    NotDelegated { path: PathBuf },
    #[error("herd may not change the control group {} ({})", path.display(), errno.desc())]
    NotOurs { path: PathBuf, errno: Errno },
    #[error(
        "the control group {} holds other processes than herd ({pids:?}), and it is not delegated",
        path.display()
    )]
    Shared { path: PathBuf, pids: Vec<i32> },
    #[error("another herd with the same state directory uses {}", path.display())]
    InUse { path: PathBuf },
    #[error("cannot {what} {}: {}", path.display(), source.desc())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: Errno,
    },
}

fn number(version: Version) -> u8 {
    match version {
        Version::V1 => 1,
        Version::V2 => 2,
    }
}

/// What of this host decides where herd's groups may be, and what helps if nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Whether this process has root's rights over control groups.
    pub root: bool,
    /// Whether systemd manages the control groups (sd_booted(3)).
    pub systemd: bool,
}

impl Host {
    pub fn current() -> Self {
        Self {
            root: geteuid().is_root(),
            systemd: Path::new("/run/systemd/system").is_dir(),
        }
    }
}

impl Reason {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io {
            what,
            path,
            // What is not the kernel's own error is a file that does not read as it should.
            source: error.raw_os_error().map_or(Errno::EBADMSG, Errno::from_raw),
        }
    }

    pub(super) fn of(self, controller: Controller, version: Option<Version>, host: Host) -> Unavailable {
        Unavailable {
            controller,
            fix: self.fix(controller, version, host),
            reason: self,
        }
    }

    /// Never empty: a refusal without a way out is only half an answer.
    fn fix(&self, controller: Controller, version: Option<Version>, host: Host) -> String {
        match self {
            Self::Nowhere if controller == Controller::Memory => {
                "boot with cgroup_enable=memory, or with a kernel that has it (CONFIG_MEMCG)".to_owned()
            }
            Self::Nowhere => format!("boot a kernel that has the {controller} controller"),
            Self::NotMounted { version: Version::V1 } => format!(
                "as root: `mkdir -p /sys/fs/cgroup/{controller} && mount -t cgroup -o {controller} cgroup \
                 /sys/fs/cgroup/{controller}`"
            ),
            Self::NotMounted { version: Version::V2 } => {
                "as root: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`".to_owned()
            }
            Self::Hidden { .. } => {
                "start the container with a control group namespace of its own (docker run --cgroupns=private)"
                    .to_owned()
            }
            Self::NotPassedDown { .. } if host.systemd && !host.root => {
                "let systemd pass it on: `sudo systemctl edit user@.service`, write \"[Service]\" and \
                 \"Delegate=cpu memory pids\" there, and log in again"
                    .to_owned()
            }
            Self::NotPassedDown { .. } if !host.systemd => {
                format!("as root: `echo +{controller} > cgroup.subtree_control` in each control group above it")
            }
            Self::NotOurs { errno: Errno::EROFS, .. } => {
                "start the container with writable control groups (docker run --privileged, or \
                 --security-opt writable-cgroups=true; podman run --security-opt unmask=/sys/fs/cgroup)"
                    .to_owned()
            }
            Self::NotPassedDown { .. }
            | Self::NotDelegated { .. }
            | Self::NotOurs { .. }
            | Self::Shared { .. } => {
                delegation(version, host)
            }
            Self::InUse { .. } => "give this herd a state directory of its own with --state-dir".to_owned(),
            Self::Io { .. } => "`herd doctor` shows what this host offers".to_owned(),
        }
    }
}

/// How to get a control group that herd may divide.
fn delegation(version: Option<Version>, host: Host) -> String {
    match (version, host) {
        // systemd does not delegate version 1 to users: a group there is not safe to give away.
        (Some(Version::V1), Host { root: false, .. }) => {
            "run herd as root, or boot with version 2 alone (systemd.unified_cgroup_hierarchy=1)".to_owned()
        }
        (_, Host { root: true, systemd: true }) => {
            "start herd with `systemd-run --scope -p Delegate=yes herd start`, or with Delegate=yes in its unit"
                .to_owned()
        }
        (_, Host { root: false, systemd: true }) => {
            "start herd with `systemd-run --user --scope -p Delegate=yes herd start`, with Delegate=yes in its \
             unit, or as root"
                .to_owned()
        }
        (_, Host { root: true, systemd: false }) => {
            "start herd in a control group of its own: `mkdir /sys/fs/cgroup/herd && echo $$ > \
             /sys/fs/cgroup/herd/cgroup.procs && herd start`"
                .to_owned()
        }
        (_, Host { root: false, systemd: false }) => {
            "run herd as root, or let root make a control group, give it to you with chown and move your shell \
             into it"
                .to_owned()
        }
    }
}
