//! What one herd could leave behind: taken before and after, the same must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Whose traces are looked for. Tests run side by side, so processes are told apart by a tag that stands in the
/// command line or the environment of everything the herd under test starts.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) tag: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) ports: RangeInclusive<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    processes: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    mounts: BTreeSet<String>,
    network_namespaces: BTreeSet<String>,
    sockets: BTreeSet<String>,
    state_files: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take(scope: &Scope) -> Self {
        Self {
            processes: processes(&scope.tag),
            cgroups: cgroups(&scope.state_dir),
            mounts: mounts(scope),
            network_namespaces: network_namespaces(&scope.tag),
            sockets: sockets(scope),
            state_files: state_files(&scope.state_dir),
        }
    }

    /// What is there now and was not before, one a line; empty if nothing is.
    pub(crate) fn added_since(&self, before: &Self) -> String {
        let mut text = String::new();
        for (what, now, then) in [
            ("process", &self.processes, &before.processes),
            ("cgroup", &self.cgroups, &before.cgroups),
            ("mount", &self.mounts, &before.mounts),
            (
                "network namespace",
                &self.network_namespaces,
                &before.network_namespaces,
            ),
            ("socket", &self.sockets, &before.sockets),
            ("state file", &self.state_files, &before.state_files),
        ] {
            for item in now.difference(then) {
                writeln!(text, "  + {what}: {item}").expect("writing to a string");
            }
        }
        text
    }

    /// Polls until nothing is left that was not there before. The kernel's own work after a kill takes a
    /// moment; the cap is long so that only a real leak reaches it.
    pub(crate) fn assert_nothing_added(before: &Self, scope: &Scope) {
        let cap = Instant::now() + Duration::from_secs(20);
        loop {
            let added = Self::take(scope).added_since(before);
            if added.is_empty() {
                return;
            }
            assert!(Instant::now() < cap, "left behind:\n{added}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Living processes with the tag, zombies not counted: those wait for somebody else's parent.
pub(crate) fn processes(tag: &str) -> BTreeSet<String> {
    pids()
        .filter(|pid| tagged(*pid, tag))
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            (!matches!(rest.trim_start().chars().next(), Some('Z' | 'X'))).then(|| format!("{pid} {name}"))
        })
        .collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let own = std::process::id() as i32;
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}

fn tagged(pid: i32, tag: &str) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| bytes.windows(tag.len()).any(|window| window == tag.as_bytes()))
    })
}

/// Groups of the herd with this state directory and below them, in every hierarchy.
pub(crate) fn cgroups(state_dir: &Path) -> BTreeSet<String> {
    fn walk(dir: &Path, name: &str, found: &mut BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        {
            let path = entry.path().display().to_string();
            if path.contains(name) {
                // The number tells one that was removed and made again from one that is left.
                let number = entry.metadata().map_or(0, |meta| meta.ino());
                found.insert(format!("{path} {number}"));
            }
            walk(&entry.path(), name, found);
        }
    }
    // As `sandbox::cgroup` names them. A directory that is gone by now was in no linked place, in these tests.
    let resolved = state_dir.parent().and_then(|parent| parent.canonicalize().ok());
    let path = match (resolved, state_dir.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => state_dir.to_owned(),
    };
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), &format!("/herd-{hash}"), &mut found);
    found
}

fn mounts(scope: &Scope) -> BTreeSet<String> {
    let state = scope.state_dir.display().to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    table
        .lines()
        .filter(|line| line.contains(&state) || line.split(' ').nth(4) == Some("/proc"))
        .map(str::to_owned)
        .collect()
}

fn network_namespaces(tag: &str) -> BTreeSet<String> {
    pids()
        .filter(|pid| tagged(*pid, tag))
        .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .map(|link| link.display().to_string())
        .collect()
}

/// Every namespace of processes with the tag, except those of this test.
pub(crate) fn namespaces_held(tag: &str) -> BTreeSet<String> {
    let own: BTreeSet<String> = namespaces(std::process::id() as i32).collect();
    pids()
        .filter(|pid| tagged(*pid, tag))
        .flat_map(namespaces)
        .filter(|namespace| !own.contains(namespace))
        .collect()
}

/// What keeps any of them: a process, a descriptor, a mount. The kernel soon gives their numbers to new ones, which another
/// herd on this machine may have.
pub(crate) fn namespaces_kept(held: &BTreeSet<String>) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    for pid in pids().filter(|pid| !has_a_living_herd(*pid)) {
        let found = namespaces(pid)
            .chain(targets(pid))
            .filter(|name| held.contains(name));
        kept.extend(found.map(|name| format!("{name} by process {pid}")));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(3));
    kept.extend(
        mounted
            .filter(|root| held.contains(*root))
            .map(|root| format!("{root} by a mount")),
    );
    kept
}

/// Whether the process descends from a launcher whose herd has not died.
fn has_a_living_herd(pid: i32) -> bool {
    // `1234 (herd-launcher) S 1233 …`
    let stat = |pid: i32| -> Option<(String, i32)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        Some((name.to_owned(), rest.split(' ').nth(1)?.parse().ok()?))
    };
    let mut at = stat(pid);
    while let Some((name, parent)) = at {
        at = stat(parent);
        if name == "herd-launcher" && at.as_ref().is_some_and(|(name, _)| name == "herd") {
            return true;
        }
    }
    false
}

fn namespaces(pid: i32) -> impl Iterator<Item = String> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let links = kinds
        .into_iter()
        .filter_map(move |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
    links.map(|link| link.display().to_string())
}

/// TCP listeners in the scope's ports and UNIX sockets in its directory.
fn sockets(scope: &Scope) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/net/{table}")) else {
            continue;
        };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&"0A")) = (fields.get(1), fields.get(3)) else {
                continue;
            };
            let port = local
                .rsplit(':')
                .next()
                .and_then(|hex| u16::from_str_radix(hex, 16).ok());
            if port.is_some_and(|port| scope.ports.contains(&port)) {
                found.insert(format!("{table} {local}"));
            }
        }
    }
    let state = scope.state_dir.display().to_string();
    let unix = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    found.extend(
        unix.lines()
            .filter_map(|line| line.split_whitespace().nth(7))
            .filter(|p| p.contains(&state))
            .map(str::to_owned),
    );
    found
}

/// The sockets that processes with the tag hold, by the number that the kernel never gives to two living ones.
pub(crate) fn sockets_held(tag: &str) -> BTreeSet<String> {
    pids()
        .filter(|pid| tagged(*pid, tag))
        .flat_map(targets)
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect()
}

/// Those of them that are open still.
pub(crate) fn sockets_open(held: &BTreeSet<String>) -> BTreeSet<String> {
    [("tcp", 9), ("tcp6", 9), ("unix", 6)]
        .iter()
        .flat_map(|(table, inode)| {
            let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
            text.lines()
                .filter(|line| {
                    line.split_whitespace()
                        .nth(*inode)
                        .is_some_and(|n| held.contains(n))
                })
                .map(|line| format!("{table} {line}"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Everything in the state directory but the lock file, which stays by design.
fn state_files(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        // What is meant to outlive it.
        .filter(|n| n != "lock" && !n.starts_with("history."))
        .collect()
}

/// What a process's descriptors lead to, counted by kind: numbers are left out.
pub(crate) fn descriptors(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in targets(pid) {
        let kind = target.split('[').next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

fn targets(pid: i32) -> Vec<String> {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    open.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|target| target.display().to_string())
        .collect()
}
