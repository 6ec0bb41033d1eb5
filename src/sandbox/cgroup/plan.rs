//! Where herd may make its groups. Looks, and changes nothing.
//!
//! | herd runs | its groups are made | and the processes there |
//! |---|---|---|
//! | version 2, in the hierarchy's root | in the root | stay: the root may have both |
//! | version 2, in a delegated group, or the topmost that can be seen (a container's) | there | all move into a leaf |
//! | version 2, a user, in a group of that user | there | all move into a leaf |
//! | the same, under systemd | there | herd moves into a leaf; others are a refusal |
//! | version 2, root, in a group that is not delegated | at the top | stay where they are |
//! | version 1, root, under systemd without delegation | at the top | stay where they are |
//! | version 1, otherwise | in its own group | stay: version 1 allows both |
//!
//! A group that systemd has not delegated is systemd's: it may move what is in it, and cannot start anything in
//! it once it has children with controllers. At the top of the hierarchy systemd leaves what it did not make
//! alone, which is why LXC and the `cgroupfs` drivers of Docker and podman have their groups there. What is
//! lost: limits of herd's own unit do not hold for its sandboxes. `Delegate=yes` avoids that.

use std::path::{Path, PathBuf};

use super::Version;
use super::dir::Dir;
use super::limits::{Controller, Controllers};
use super::place::{Place, Places};
use super::why::{Host, Reason, Unavailable};

/// Where herd itself moves. What is called so is herd's: a herd that starts in it divides the group above.
pub(super) const LEAF: &str = "herd-supervisor";

/// Most pids that a refusal lists.
const LISTED: usize = 8;

/// Who has to move into the leaf before controllers can be passed down (cgroups(7), "no internal processes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moving {
    Nobody,
    OnlyHerd,
    Everybody,
}

/// One group that herd may divide.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) version: Version,
    pub(super) base: Dir,
    pub(super) moving: Moving,
    /// What can be limited there.
    pub(super) controllers: Controllers,
}

/// A controller that can be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub version: Version,
    /// The group that herd would divide.
    pub base: PathBuf,
}

/// For each controller, in their order, where it can be used, or why not.
pub type Survey = Vec<(Controller, Result<Offer, Unavailable>)>;

/// What could be limited if herd were started as this process was. Changes nothing.
pub fn survey(host: Host) -> Survey {
    let (plans, missing) = make(Controller::ALL.into_iter().collect(), host);
    let found = plans.iter().flat_map(|plan| {
        let offer = Offer {
            version: plan.version,
            base: plan.base.path().to_owned(),
        };
        plan.controllers.iter().map(move |c| (c, Ok(offer.clone())))
    });
    let mut all: Vec<_> = found
        .chain(missing.into_iter().map(|why| (why.controller, Err(why))))
        .collect();
    all.sort_by_key(|(controller, _)| *controller as u8);
    all
}

/// One plan per group, and what is in none of them.
pub(super) fn make(needs: Controllers, host: Host) -> (Vec<Plan>, Vec<Unavailable>) {
    let (mut plans, mut missing) = (Vec::<Plan>::new(), Vec::new());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cgroup, mountinfo) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
    let places = Places::parse(&cgroup, &mountinfo);
    let delegated = is_delegated(&places);
    for controller in needs.iter() {
        let place = match places.of(controller) {
            Ok(place) => place,
            Err(reason) => {
                missing.push(reason.of(controller, None, host));
                continue;
            }
        };
        match plan(&place, controller, delegated, host) {
            Ok(plan) => match plans.iter_mut().find(|p| p.base.path() == plan.base.path()) {
                Some(same) => same.controllers = same.controllers.union(plan.controllers),
                None => plans.push(plan),
            },
            Err(reason) => missing.push(reason.of(controller, Some(place.version), host)),
        }
    }
    (plans, missing)
}

/// systemd marks what it has delegated, for root and (since version 251) for everybody.
fn is_delegated(places: &Places<'_>) -> bool {
    let Some(Ok(own)) = places.of_systemd().map(|place| Dir::open(above_leaf(&place))) else {
        return false;
    };
    [c"trusted.delegate", c"user.delegate"]
        .into_iter()
        .any(|name| own.attribute(name).as_deref() == Some(b"1"))
}

/// This process's own group; the one above it if a former herd of this service or container moved us into its leaf.
fn above_leaf(place: &Place) -> &Path {
    match place.own.parent() {
        Some(above) if place.own.ends_with(LEAF) && place.own != place.top => above,
        _ => &place.own,
    }
}

fn plan(place: &Place, controller: Controller, delegated: bool, host: Host) -> Result<Plan, Reason> {
    let open = |path: &Path| Dir::open(path).map_err(Reason::io("open", path));
    let own = above_leaf(place);
    let at_top = own == place.top;
    let own = open(own)?;
    let standing = Standing {
        version: place.version,
        in_root: at_top && is_root(&own),
        in_leaf: own.path() != place.own,
        delegated,
        at_top,
    };
    let (base, moving) = match choose(standing, host) {
        Choice::Own(moving) => (own, moving),
        Choice::Top => {
            let top = open(&place.top)?;
            // Version 2 cannot divide a group with processes, unless it is the root.
            let pids = match place.version == Version::V2 && !is_root(&top) {
                true => top
                    .pids()
                    .map_err(Reason::io("read the processes in", top.path()))?,
                false => Vec::new(),
            };
            if !pids.is_empty() {
                return Err(shared(&top, pids));
            }
            (top, Moving::Nobody)
        }
    };
    for file in [".", "cgroup.procs", "cgroup.subtree_control"] {
        if file != "cgroup.subtree_control" || place.version == Version::V2 {
            base.writable(file).map_err(|errno| Reason::NotOurs {
                path: base.path().to_owned(),
                errno,
            })?;
        }
    }
    if place.version == Version::V2 {
        let offered = base
            .read("cgroup.controllers")
            .map_err(Reason::io("read the controllers of", base.path()))?;
        if !offered
            .split_ascii_whitespace()
            .any(|name| name == controller.name())
        {
            let path = base.path().to_owned();
            return Err(match is_root(&base) {
                true => Reason::Nowhere,
                false if host.systemd && !delegated => Reason::NotDelegated { path },
                false => Reason::NotPassedDown { path },
            });
        }
        if moving == Moving::OnlyHerd {
            let others = others(&base)?;
            if !others.is_empty() {
                return Err(shared(&base, others));
            }
        }
    }
    Ok(Plan {
        version: place.version,
        base,
        moving,
        controllers: controller.into(),
    })
}

/// Only the root of a version 2 hierarchy has no type.
fn is_root(dir: &Dir) -> bool {
    !dir.has("cgroup.type")
}

fn others(dir: &Dir) -> Result<Vec<i32>, Reason> {
    let mut pids = dir
        .pids()
        .map_err(Reason::io("read the processes in", dir.path()))?;
    let own = std::process::id().cast_signed();
    pids.retain(|pid| *pid != own);
    Ok(pids)
}

pub(super) fn shared(dir: &Dir, mut pids: Vec<i32>) -> Reason {
    pids.truncate(LISTED);
    Reason::Shared {
        path: dir.path().to_owned(),
        pids,
    }
}

/// What is known of herd's own group.
#[derive(Debug, Clone, Copy)]
struct Standing {
    version: Version,
    /// It is the root of the whole hierarchy.
    in_root: bool,
    /// A former herd moved us below it.
    in_leaf: bool,
    delegated: bool,
    /// It is the topmost that can be seen: a container's own, if it is not the root.
    at_top: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Own(Moving),
    Top,
}

/// The table above.
fn choose(own: Standing, host: Host) -> Choice {
    match own.version {
        Version::V1 if host.root && host.systemd && !own.delegated && !own.at_top => Choice::Top,
        Version::V1 => Choice::Own(Moving::Nobody),
        Version::V2 if own.in_root => Choice::Own(Moving::Nobody),
        Version::V2 if own.delegated || own.at_top || own.in_leaf => Choice::Own(Moving::Everybody),
        Version::V2 if host.root => Choice::Top,
        // A user's own systemd makes groups that are the user's and still not to be touched, a terminal's for one.
        Version::V2 if host.systemd => Choice::Own(Moving::OnlyHerd),
        // Otherwise, to be given a group is to have it delegated. If it is not the user's, that is seen next.
        Version::V2 => Choice::Own(Moving::Everybody),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: Standing = Standing {
        version: Version::V2,
        in_root: false,
        in_leaf: false,
        delegated: false,
        at_top: false,
    };
    const V1: Standing = Standing {
        version: Version::V1,
        ..V2
    };
    const ROOT: Host = Host {
        root: true,
        systemd: true,
    };
    const USER: Host = Host {
        root: false,
        systemd: true,
    };

    #[test]
    fn what_systemd_has_not_delegated_is_left_alone() {
        assert_eq!(choose(V2, ROOT), Choice::Top);
        assert_eq!(choose(V1, ROOT), Choice::Top);
        assert_eq!(choose(V2, USER), Choice::Own(Moving::OnlyHerd));
        let bare = Host {
            systemd: false,
            ..USER
        };
        assert_eq!(choose(V2, bare), Choice::Own(Moving::Everybody));
    }

    #[test]
    fn what_is_delegated_is_divided_where_it_is() {
        for host in [ROOT, USER] {
            let delegated = |own| Standing {
                delegated: true,
                ..own
            };
            assert_eq!(choose(delegated(V2), host), Choice::Own(Moving::Everybody));
            assert_eq!(choose(delegated(V1), host), Choice::Own(Moving::Nobody));
        }
    }

    #[test]
    fn a_container_divides_its_own_root_and_a_second_herd_finds_the_same_place() {
        let container = Standing { at_top: true, ..V2 };
        let bare = Host {
            systemd: false,
            ..ROOT
        };
        assert_eq!(choose(container, bare), Choice::Own(Moving::Everybody));
        let second = Standing { in_leaf: true, ..V2 };
        assert_eq!(choose(second, bare), Choice::Own(Moving::Everybody));
    }

    #[test]
    fn in_the_root_of_a_hierarchy_nobody_moves() {
        let root = Standing {
            in_root: true,
            at_top: true,
            ..V2
        };
        assert_eq!(choose(root, ROOT), Choice::Own(Moving::Nobody));
        assert_eq!(
            choose(
                Standing {
                    version: Version::V1,
                    ..root
                },
                ROOT
            ),
            Choice::Own(Moving::Nobody)
        );
    }

    #[test]
    fn version_1_without_systemd_stays_within_the_limits_herd_was_started_in() {
        let bare = Host {
            systemd: false,
            ..ROOT
        };
        assert_eq!(choose(V1, bare), Choice::Own(Moving::Nobody));
    }
}
