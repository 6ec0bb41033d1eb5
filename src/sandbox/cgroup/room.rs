//! How much memory the groups leave to whoever is in them (memory.stat and its neighbours, of either version).

use std::fs;
use std::path::{Path, PathBuf};

use super::limits::Controller;
use super::place::Places;
use super::{GroupId, Hierarchies, Version};

/// The groups that this process is in, from its own to the top of the hierarchy.
#[derive(Debug, Default)]
pub struct Own {
    groups: Vec<(Version, PathBuf)>,
}

/// Of a limit that holds for this process and all it starts; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub limit: u64,
    /// What is not in use. Files that were read and are not needed are not in use.
    pub free: u64,
}

impl Own {
    /// Where this process is now; nothing where the kernel does not count memory.
    pub fn find() -> Self {
        let (Ok(cgroup), Ok(mounts)) = (
            fs::read_to_string("/proc/self/cgroup"),
            fs::read_to_string("/proc/self/mountinfo"),
        ) else {
            return Self::default();
        };
        let Ok(place) = Places::parse(&cgroup, &mounts).of(Controller::Memory) else {
            return Self::default();
        };
        let above = place
            .own
            .ancestors()
            .take_while(|group| group.starts_with(&place.top));
        Self {
            groups: above.map(|group| (place.version, group.to_owned())).collect(),
        }
    }

    /// The least that any of them leaves. `None`: there is no limit.
    pub fn room(&self) -> Option<Room> {
        let rooms = self
            .groups
            .iter()
            .filter_map(|(version, group)| room(*version, group));
        rooms.reduce(|one, other| Room {
            limit: one.limit.min(other.limit),
            free: one.free.min(other.free),
        })
    }
}

impl Hierarchies {
    /// Bytes that a sandbox needs now; `None`: its group is not there, or nobody counts.
    pub fn needed_by(&self, id: GroupId) -> Option<u64> {
        let parent = self
            .parents
            .iter()
            .find(|parent| parent.controllers.contains(Controller::Memory))?;
        let dir = parent.dir.child(&id.name()).ok()?;
        in_use(parent.version, |file| dir.read(file).ok())
    }
}

fn room(version: Version, group: &Path) -> Option<Room> {
    let read = |file: &str| fs::read_to_string(group.join(file)).ok();
    let file = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    let limit = read(file)?
        .trim()
        .parse()
        .ok()
        .filter(|limit| *limit < NO_LIMIT)?;
    let free = u64::saturating_sub(limit, in_use(version, read)?);
    Some(Room { limit, free })
}

/// Version 1 has a number for that, which depends on the machine's page size.
const NO_LIMIT: u64 = 1 << 60;

fn in_use(version: Version, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let (used, spare) = match version {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file "),
        Version::V2 => ("memory.current", "inactive_file "),
    };
    let used: u64 = read(used)?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let spare = stat
        .lines()
        .find_map(|line| line.strip_prefix(spare)?.parse().ok());
    Some(used.saturating_sub(spare.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(at: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(at).unwrap();
        for (name, text) in files {
            fs::write(at.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_counts_and_files_that_nobody_needs_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (top, own) = (dir.path().to_owned(), dir.path().join("a"));
        let stat = ("memory.stat", "anon 5\ninactive_file 100\n");
        group(
            &top,
            &[("memory.max", "1000\n"), ("memory.current", "900\n"), stat],
        );
        group(
            &own,
            &[("memory.max", "500\n"), ("memory.current", "150\n"), stat],
        );
        let groups = vec![(Version::V2, own.clone()), (Version::V2, top)];
        let room = Own { groups }.room();
        assert_eq!(
            room,
            Some(Room {
                limit: 500,
                free: 200
            })
        );
        fs::write(own.join("memory.max"), "max\n").unwrap();
        let groups = vec![(Version::V2, own)];
        assert_eq!(Own { groups }.room(), None);
    }

    #[test]
    fn version_1_without_a_limit_has_a_number_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let usage = ("memory.usage_in_bytes", "7\n");
        group(
            dir.path(),
            &[("memory.limit_in_bytes", "9223372036854771712\n"), usage],
        );
        assert_eq!(room(Version::V1, dir.path()), None);
        group(dir.path(), &[("memory.limit_in_bytes", "9\n"), usage]);
        let found = room(Version::V1, dir.path());
        assert_eq!(found, Some(Room { limit: 9, free: 2 }));
    }

    #[test]
    fn this_process_is_somewhere_or_nobody_counts() {
        for (_, group) in Own::find().groups {
            assert!(group.is_dir(), "{}", group.display());
        }
    }
}
