//! Where the kernel keeps each controller, and this process in it: `/proc/self/cgroup` and
//! `/proc/self/mountinfo`, as proc(5) and cgroups(7) describe them. Pure.

use std::path::{Path, PathBuf};

use super::Version;
use super::limits::Controller;
use super::why::Reason;

/// One line of `/proc/self/cgroup`: a hierarchy, and this process's group in it.
#[derive(Debug, PartialEq, Eq)]
struct Membership<'a> {
    /// Empty for version 2. `name=…` for a hierarchy without controllers.
    controllers: Vec<&'a str>,
    path: &'a str,
}

/// One mount of a hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group that is at the mount point.
    root: String,
    point: PathBuf,
    /// Options of the file system: the controllers, among others.
    options: Vec<String>,
}

/// A directory of cgroupfs that stands for this process's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    /// The mount point.
    pub(super) top: PathBuf,
    /// This process's own group, below `top` or equal to it.
    pub(super) own: PathBuf,
    /// The group's path as the kernel gives it, relative to the root of the control group namespace.
    pub(super) path: String,
}

/// Which hierarchies are mounted (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// None that could limit anything.
    Nothing,
    /// Version 1 only.
    V1,
    /// Controllers in version 1, and an empty hierarchy of version 2 beside them.
    Hybrid,
    V2,
}

/// The control groups of a host, as far as both files tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub mounted: Mounted,
    /// This process's own group of version 2, where it can be seen.
    pub unified: Option<PathBuf>,
}

impl Layout {
    /// From `/proc/self/cgroup` and `/proc/self/mountinfo`.
    pub fn parse(cgroup: &str, mountinfo: &str) -> Self {
        let places = Places::parse(cgroup, mountinfo);
        let unified = places.mounts.iter().any(|mount| mount.version == Version::V2);
        let controllers = places.mounts.iter().any(|mount| {
            let has = |controller: Controller| mount.options.iter().any(|o| o == controller.name());
            mount.version == Version::V1 && Controller::ALL.into_iter().any(has)
        });
        Self {
            mounted: match (unified, controllers) {
                (false, false) => Mounted::Nothing,
                (false, true) => Mounted::V1,
                (true, true) => Mounted::Hybrid,
                (true, false) => Mounted::V2,
            },
            unified: places.unified().and_then(Result::ok).map(|place| place.own),
        }
    }
}

/// What both files say.
#[derive(Debug)]
pub(super) struct Places<'a> {
    memberships: Vec<Membership<'a>>,
    mounts: Vec<Mount>,
}

impl<'a> Places<'a> {
    pub(super) fn parse(cgroup: &'a str, mountinfo: &str) -> Self {
        Self {
            memberships: cgroup.lines().filter_map(membership).collect(),
            mounts: mountinfo.lines().filter_map(mount).collect(),
        }
    }

    /// Where `controller` would be. For version 2 this does not yet say that it is there.
    pub(super) fn of(&self, controller: Controller) -> Result<Place, Reason> {
        match self.with(controller.name()) {
            Some(v1) => self.resolve(v1, Version::V1, Some(controller.name())),
            None => self.unified().ok_or(Reason::Nowhere)?,
        }
    }

    /// Where systemd says what it has delegated: its own hierarchy, with or without controllers.
    pub(super) fn of_systemd(&self) -> Option<Place> {
        const NAME: &str = "name=systemd";
        let named = self.with(NAME);
        let named = named.and_then(|line| self.resolve(line, Version::V1, Some(NAME)).ok());
        named.or_else(|| self.unified()?.ok())
    }

    fn with(&self, controller: &str) -> Option<&Membership<'a>> {
        self.memberships
            .iter()
            .find(|m| m.controllers.contains(&controller))
    }

    fn unified(&self) -> Option<Result<Place, Reason>> {
        let line = self.memberships.iter().find(|m| m.controllers.is_empty())?;
        match self.resolve(line, Version::V2, None) {
            // A line of version 2 is there on every kernel that knows it, mounted or not.
            Err(Reason::NotMounted { .. }) => None,
            result => Some(result),
        }
    }

    fn resolve(
        &self,
        line: &Membership<'_>,
        version: Version,
        option: Option<&str>,
    ) -> Result<Place, Reason> {
        let mut hidden = None;
        // The last mount hides earlier ones at the same place.
        for mount in self.mounts.iter().rev() {
            let fits = option.is_none_or(|wanted| mount.options.iter().any(|o| o == wanted));
            if mount.version != version || !fits {
                continue;
            }
            match below(&mount.root, line.path) {
                Some(rest) => {
                    return Ok(Place {
                        version,
                        own: if rest.is_empty() {
                            mount.point.clone()
                        } else {
                            mount.point.join(rest)
                        },
                        top: mount.point.clone(),
                        path: line.path.to_owned(),
                    });
                }
                None => hidden = Some(mount),
            }
        }
        Err(match hidden {
            Some(mount) => Reason::Hidden {
                path: line.path.to_owned(),
                mount: mount.point.clone(),
                root: mount.root.clone(),
            },
            None => Reason::NotMounted { version },
        })
    }
}

fn membership(line: &str) -> Option<Membership<'_>> {
    // A group's name may contain colons.
    let mut fields = line.splitn(3, ':');
    let (_hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Membership {
        controllers: controllers.split(',').filter(|name| !name.is_empty()).collect(),
        path,
    })
}

fn mount(line: &str) -> Option<Mount> {
    // 31 24 0:26 /root /mount/point rw,options optional:fields … - fstype source rw,options
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let mut after = after.split(' ');
    Some(Mount {
        version: match after.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        },
        root: unescape(before.next()?),
        point: PathBuf::from(unescape(before.next()?)),
        options: after.nth(1)?.split(',').map(str::to_owned).collect(),
    })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes
        .into_iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// `path` relative to `root`, if it is in there. Both may begin with `/..` in a control group namespace, where
/// they name groups outside of it: those names lead nowhere unless both begin with the same.
fn below<'a>(root: &str, path: &'a str) -> Option<&'a str> {
    let rest = match root {
        "/" => path,
        _ => path.strip_prefix(root)?,
    };
    let rest = match rest.strip_prefix('/') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        // "/docker/a" is not in "/dock".
        None => return None,
    };
    (!Path::new(rest).components().any(|c| c.as_os_str() == "..")).then_some(rest)
}
