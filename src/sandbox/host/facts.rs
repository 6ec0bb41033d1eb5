//! What the files of a host say about it. Nothing is tried here.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroups::Cgroups;
use crate::sandbox::cgroup::{self, Survey};

/// What is written about a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Who asks.
    pub uid: u32,
    /// Their name, or the number where there is none.
    pub user: String,
    /// Like `6.1.0-18-amd64`.
    pub release: String,
    /// `user.max_user_namespaces`; `None` where the kernel has no user namespaces.
    pub max_user_namespaces: Option<u64>,
    /// `user.max_pid_namespaces`.
    pub max_pid_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, a switch that Debian's and Arch's kernels have.
    pub unprivileged_userns_clone: Option<bool>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, a switch that Ubuntu's kernels have.
    pub apparmor_restricts: Option<bool>,
    /// How many subordinate user ids this user may map.
    pub subuids: u64,
    pub subgids: u64,
    /// The setuid programs that map subordinate ids are there.
    pub newuidmap: bool,
    pub newgidmap: bool,
    /// What a filter may answer; empty where the kernel has no filters.
    pub seccomp_actions: Vec<String>,
    /// A system call filter holds this process already.
    pub filtered: bool,
    /// This is inside a container.
    pub container: bool,
    pub distribution: Distribution,
    pub cgroups: Cgroups,
}

/// Whose commands a remedy should use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    Debian,
    Fedora,
    Arch,
    Alpine,
    Suse,
    Other,
}

impl Facts {
    /// This host, as the user who asks.
    pub fn here() -> Self {
        Self::read(
            Path::new("/"),
            nix::unistd::geteuid().as_raw(),
            crate::sys::kernel::release(),
            cgroup::survey(cgroup::Host::current()),
        )
    }

    /// What the files below `root` say to `uid`. What cannot be read counts as absent.
    pub fn read(root: &Path, uid: u32, release: String, limits: Survey) -> Self {
        let view = View { root };
        let number = |path: &str| view.text(path).and_then(|text| text.trim().parse::<u64>().ok());
        let switch = |path: &str| number(path).map(|number| number != 0);
        let user = user(&view.text("etc/passwd").unwrap_or_default(), uid);
        let ids = |path: &str| subordinate(&view.text(path).unwrap_or_default(), &user, uid);
        let status = view.text("proc/self/status").unwrap_or_default();
        Self {
            uid,
            release,
            max_user_namespaces: number("proc/sys/user/max_user_namespaces"),
            max_pid_namespaces: number("proc/sys/user/max_pid_namespaces"),
            unprivileged_userns_clone: switch("proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: switch("proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            subuids: ids("etc/subuid"),
            subgids: ids("etc/subgid"),
            newuidmap: view.program("newuidmap"),
            newgidmap: view.program("newgidmap"),
            seccomp_actions: view
                .text("proc/sys/kernel/seccomp/actions_avail")
                .map(|text| text.split_ascii_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            filtered: status
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp:"))
                .is_some_and(|mode| mode.trim() != "0"),
            container: view.exists(".dockerenv") || view.exists("run/.containerenv"),
            distribution: distribution(&view.text("etc/os-release").unwrap_or_default()),
            cgroups: Cgroups::read(&view, limits),
            user,
        }
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// The files below a root.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    root: &'a Path,
}

impl View<'_> {
    /// `path` is relative to the root, or absolute as the host itself would write it.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    fn program(&self, name: &str) -> bool {
        ["usr/bin", "bin", "usr/sbin", "usr/local/bin", "run/wrappers/bin"]
            .into_iter()
            .any(|directory| self.exists(&format!("{directory}/{name}")))
    }
}

/// passwd(5): `name:password:uid:…`
fn user(passwd: &str, uid: u32) -> String {
    let number = uid.to_string();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    named.unwrap_or(number)
}

/// subuid(5): `name or uid:first:count`, any number of lines for a user.
fn subordinate(file: &str, user: &str, uid: u32) -> u64 {
    let number = uid.to_string();
    file.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            let count = fields.nth(1)?.parse::<u64>().ok()?;
            (owner == user || owner == number).then_some(count)
        })
        .fold(0, u64::saturating_add)
}

/// os-release(5): `ID`, and what it is like.
fn distribution(file: &str) -> Distribution {
    let words = file
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches(['"', '\'']).split(' '));
    for word in words {
        match word {
            "debian" | "ubuntu" => return Distribution::Debian,
            "fedora" | "rhel" | "centos" => return Distribution::Fedora,
            "arch" => return Distribution::Arch,
            "alpine" => return Distribution::Alpine,
            "suse" | "opensuse" => return Distribution::Suse,
            _ => {}
        }
    }
    Distribution::Other
}
