//! What `/proc` says of a tree of processes, and small changes to this one.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

/// The processes below one root, itself included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// At most [`Census::LISTED`] of them, root first.
    pub pids: Vec<i32>,
    pub processes: usize,
    /// Resident memory that is not shared, bytes.
    pub memory: u64,
}

impl Census {
    /// Most pids listed.
    pub const LISTED: usize = 128;

    /// Counts the tree below `root`. It changes while it is counted; call it for reports, not decisions.
    pub fn take(root: i32) -> Self {
        let pids = tree(root);
        Self {
            processes: pids.len(),
            memory: pids.iter().filter_map(|pid| private_memory(*pid)).sum(),
            pids: pids.into_iter().take(Self::LISTED).collect(),
        }
    }
}

/// Most processes that are looked at, so that a fork bomb cannot hold the caller up.
const MOST: usize = 4096;

/// `root` and its descendants that exist now, breadth first.
pub fn tree(root: i32) -> Vec<i32> {
    let mut seen = HashSet::from([root]);
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() && found.len() < MOST {
        for child in children(found[next]) {
            if seen.insert(child) {
                found.push(child);
            }
        }
        next += 1;
    }
    if Path::new(&format!("/proc/{root}")).exists() {
        found
    } else {
        Vec::new()
    }
}

/// The children of all threads of `pid`; none if it is gone.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

fn private_memory(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = statm
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|n| n.parse::<u64>().ok());
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * page_size())
}

fn page_size() -> u64 {
    // SAFETY: `sysconf` reads a constant.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Whether a socket belongs to a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    Owned,
    NotOwned,
    /// Not found, but these many processes of the tree do not let themselves be looked into.
    Unreadable(usize),
}

/// Looks for the socket with `inode` among the descriptors of the tree below `root` (`root` excluded).
pub fn owns_socket(root: i32, inode: u32) -> Ownership {
    let wanted = format!("socket:[{inode}]");
    let mut unreadable = 0;
    for pid in tree(root).into_iter().skip(1) {
        match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(fds) => {
                let found = fds
                    .flatten()
                    .filter_map(|fd| fs::read_link(fd.path()).ok())
                    .any(|target| target.as_os_str() == wanted.as_str());
                if found {
                    return Ownership::Owned;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(_) => unreadable += 1,
        }
    }
    if unreadable == 0 {
        Ownership::NotOwned
    } else {
        Ownership::Unreadable(unreadable)
    }
}

/// How many threads this process has.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}
