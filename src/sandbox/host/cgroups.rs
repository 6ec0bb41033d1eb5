//! Which control groups there are, and whether this user could make one with limits below its own.

use super::facts::View;
use crate::sandbox::cgroup::Controller;

/// Which hierarchies are mounted (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    None,
    /// Version 1 only.
    V1,
    /// Controllers in version 1, and an empty hierarchy of version 2 beside them.
    Hybrid,
    V2,
}

/// Whether limits by one controller are possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limits {
    /// Below this directory.
    Possible { directory: String },
    /// The kernel does not have it, or nobody mounted it.
    Absent,
    /// It exists, but whoever manages the groups above did not hand it down to this one.
    NotHandedDown { directory: String },
    /// It belongs to somebody else.
    NotOurs { directory: String },
    /// It is mounted read-only, as containers do.
    ReadOnly { directory: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    pub version: Version,
    pub memory: Limits,
    pub cpu: Limits,
    pub pids: Limits,
    /// This process's group has `cgroup.kill`. The root of a hierarchy never has, whatever the kernel.
    pub kill: bool,
}

impl Cgroups {
    pub fn limits(&self, controller: Controller) -> &Limits {
        match controller {
            Controller::Memory => &self.memory,
            Controller::Cpu => &self.cpu,
            Controller::Pids => &self.pids,
        }
    }

    pub(super) fn read(view: &View<'_>) -> Self {
        let mounts = mounts(&view.text("proc/self/mountinfo").unwrap_or_default());
        let own = view.text("proc/self/cgroup").unwrap_or_default();
        let v2 = mounts.iter().find(|mount| mount.v2);
        let with_controllers = mounts.iter().any(|mount| {
            let has = |controller: Controller| mount.has(controller);
            !mount.v2 && Controller::ALL.into_iter().any(has)
        });
        let limits = |controller: Controller| {
            let v1 = mounts.iter().find(|mount| !mount.v2 && mount.has(controller));
            match (v1, v2) {
                (Some(mount), _) => limits_v1(view, mount, &own, controller),
                (None, Some(mount)) => limits_v2(view, mount, &own, controller),
                (None, None) => Limits::Absent,
            }
        };
        Self {
            version: match (v2, with_controllers) {
                (None, false) => Version::None,
                (None, true) => Version::V1,
                (Some(_), true) => Version::Hybrid,
                (Some(_), false) => Version::V2,
            },
            memory: limits(Controller::Memory),
            cpu: limits(Controller::Cpu),
            pids: limits(Controller::Pids),
            kill: v2.is_some_and(|mount| {
                let own = mount.directory(own_path(&own, "").unwrap_or("/"));
                view.exists(&format!("{own}/cgroup.kill"))
            }),
        }
    }
}

fn limits_v1(view: &View<'_>, mount: &Mount, own: &str, controller: Controller) -> Limits {
    let directory = mount.directory(own_path(own, controller.name()).unwrap_or("/"));
    if mount.read_only {
        Limits::ReadOnly { directory }
    } else if view.writable(&directory) {
        Limits::Possible { directory }
    } else {
        Limits::NotOurs { directory }
    }
}

/// Who limits a group needs its controller handed down, and the files by which it is handed on and processes are
/// moved (kernel documentation, cgroup-v2, "Delegation").
fn limits_v2(view: &View<'_>, mount: &Mount, own: &str, controller: Controller) -> Limits {
    let directory = mount.directory(own_path(own, "").unwrap_or("/"));
    let offers = |directory: &str| {
        let list = view
            .text(&format!("{directory}/cgroup.controllers"))
            .unwrap_or_default();
        list.split_ascii_whitespace()
            .any(|name| name == controller.name())
    };
    let ours = ["", "/cgroup.procs", "/cgroup.subtree_control"]
        .iter()
        .all(|file| view.writable(&format!("{directory}{file}")));
    if !offers(&mount.point) && !offers(&directory) {
        Limits::Absent
    } else if mount.read_only {
        Limits::ReadOnly { directory }
    } else if !ours {
        Limits::NotOurs { directory }
    } else if !offers(&directory) {
        Limits::NotHandedDown { directory }
    } else {
        Limits::Possible { directory }
    }
}

/// One hierarchy, where it is mounted.
#[derive(Debug)]
struct Mount {
    v2: bool,
    point: String,
    /// The group that is visible at `point`.
    root: String,
    read_only: bool,
    options: String,
}

impl Mount {
    fn has(&self, controller: Controller) -> bool {
        self.options.split(',').any(|option| option == controller.name())
    }

    /// Where the group `path` is visible.
    fn directory(&self, path: &str) -> String {
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(path);
        let below = below.trim_matches('/');
        match below {
            "" => self.point.clone(),
            below => format!("{}/{below}", self.point),
        }
    }
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /point rw,noatime master:1 - cgroup2 source rw,options`
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<_> = before.split(' ').collect();
        let mut after = after.split(' ');
        let v2 = match after.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        Some(Mount {
            v2,
            root: (*before.get(3)?).to_owned(),
            point: (*before.get(4)?).to_owned(),
            read_only: before.get(5)?.split(',').any(|option| option == "ro"),
            options: after.nth(1).unwrap_or_default().to_owned(),
        })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// cgroups(7), /proc/pid/cgroup: `4:cpu,cpuacct:/path` for version 1, `0::/path` for version 2.
fn own_path<'a>(file: &'a str, controller: &str) -> Option<&'a str> {
    file.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    })
}
