//! What `/proc` says of a tree of processes, and small changes to this one.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

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
    ///
    /// A kill waits for this, on a thread that serves other sessions too: it asks for as little as it can, of at most
    /// 4096 processes.
    pub fn take(root: i32) -> Self {
        Self::of(tree(root))
    }

    /// The same without `root` itself.
    pub fn below(root: i32) -> Self {
        Self::of(tree(root).into_iter().skip(1).collect())
    }

    fn of(pids: Vec<i32>) -> Self {
        let mut buffer = Vec::new();
        let mut memory = |pid: &i32| private_memory(*pid, &mut buffer);
        Self {
            processes: pids.len(),
            memory: pids.iter().filter_map(&mut memory).sum(),
            pids: pids.into_iter().take(Self::LISTED).collect(),
        }
    }
}

/// Makes `/proc/self/cmdline` say this, and so that of every process forked from now on; as much of it as there is room
/// for.
///
/// # Safety
///
/// No other thread may run, and nobody may read the arguments afterwards.
pub unsafe fn set_command_line(text: &str) -> io::Result<()> {
    let stat = procfs::process::Process::myself()
        .and_then(|me| me.stat())
        .map_err(io::Error::other)?;
    let room = match (stat.arg_start, stat.arg_end) {
        (Some(start), Some(end)) if start != 0 && start < end => start as usize..end as usize,
        _ => return Err(io::Error::other("the kernel does not tell where it is")),
    };
    // SAFETY: the kernel put the arguments there, on this process's stack, which is writable and stays. It made no Rust
    // object of them, and by this function's contract nobody else reads them.
    let arguments = unsafe { std::slice::from_raw_parts_mut(room.start as *mut u8, room.len()) };
    arguments.fill(0);
    // The last byte stays 0: without it the kernel takes what comes after for more of it.
    for (byte, new) in arguments[..room.len() - 1].iter_mut().zip(text.bytes()) {
        *byte = new;
    }
    Ok(())
}

/// How many of these processes, which a kill at `since` was meant for, are alive still. A later process that was given
/// the number of one of them is younger than that.
pub fn survivors(pids: &[i32], since: Instant) -> usize {
    let alive = |pid: &&i32| {
        // Nearly always there is no such process, and this is all that it costs.
        if kill(Pid::from_raw(**pid), None) == Err(Errno::ESRCH) {
            return false;
        }
        let stat = procfs::process::Process::new(**pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X') && is_older(stat.starttime, since))
    };
    pids.iter().filter(alive).count()
}

/// Whether a process that was started at `ticks` after boot is older than `since`, by more than a tick's width.
fn is_older(ticks: u64, since: Instant) -> bool {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return false;
    };
    let started = Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64);
    Duration::from(now).saturating_sub(started) > since.elapsed() + Duration::from_millis(20)
}

/// This process's number where `/proc` is from: another one than its own if that is not its own namespace's.
pub fn id_in_proc() -> Option<i32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// Most processes that are looked at, so that a fork bomb cannot hold the caller up.
const MOST: usize = 4096;

/// `root` and its descendants that exist now, breadth first.
pub fn tree(root: i32) -> Vec<i32> {
    tree_of(MOST, root)
}

/// The same, `most` of them.
fn tree_of(most: usize, root: i32) -> Vec<i32> {
    let mut buffer = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() && found.len() < most {
        match children_into(found[next], &mut buffer) {
            Some(children) => found.extend(children.into_iter().filter(|child| seen.insert(*child))),
            None if next == 0 => return Vec::new(),
            None => {}
        }
        next += 1;
    }
    // One process may have all of them for its children.
    found.truncate(most);
    found
}

/// The children of all threads of `pid`; none if it is gone.
pub fn children(pid: i32) -> Vec<i32> {
    children_into(pid, &mut Vec::new()).unwrap_or_default()
}

fn children_into(pid: i32, buffer: &mut Vec<u8>) -> Option<Vec<i32>> {
    let task = format!("/proc/{pid}/task");
    // A directory has two links and one per directory in it: most processes have one thread, whose name is known.
    let threads = fs::metadata(&task).ok()?.nlink().saturating_sub(2);
    let mut found = Vec::new();
    let mut add = |thread: &Path| {
        if read(&thread.join("children"), buffer).is_some() {
            found.extend(numbers::<i32>(buffer));
        }
    };
    if threads == 1 {
        add(&Path::new(&task).join(pid.to_string()));
    } else {
        for thread in fs::read_dir(&task).ok()?.flatten() {
            add(&thread.path());
        }
    }
    Some(found)
}

/// Without asking for a size, which no file of `/proc` has.
fn read(path: &Path, buffer: &mut Vec<u8>) -> Option<()> {
    let mut file = fs::File::open(path).ok()?;
    let mut length = 0;
    loop {
        buffer.resize(length + 512, 0);
        match file.read(&mut buffer[length..]).ok()? {
            0 => break,
            more => length += more,
        }
    }
    buffer.truncate(length);
    Some(())
}

fn numbers<N: std::str::FromStr>(text: &[u8]) -> impl Iterator<Item = N> {
    text.split(u8::is_ascii_whitespace)
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

fn private_memory(pid: i32, buffer: &mut Vec<u8>) -> Option<u64> {
    read(Path::new(&format!("/proc/{pid}/statm")), buffer)?;
    let mut pages = numbers::<u64>(buffer).skip(1);
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * procfs::page_size())
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

/// Where this program is. Once it was replaced, by an upgrade for one, what stands there now.
pub fn own_binary() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // So the kernel marks a file that is gone (proc_pid_exe(5)).
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(replaced
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .unwrap_or(path))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Exited(i32),
    Signalled(i32),
}

/// Reaps one child that has ended; `None`: none has. An error means that there is no child at all.
///
/// nix has no name for real-time signals, and would take a child that died of one for an error, when it is reaped already.
pub fn reap() -> nix::Result<Option<(Pid, Ending)>> {
    let mut status = 0;
    let pid = super::fd::retry(|| {
        // SAFETY: the call writes one `int`, which outlives it.
        Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })
    })?;
    let ending = match libc::WIFSIGNALED(status) {
        true => Ending::Signalled(libc::WTERMSIG(status)),
        false => Ending::Exited(libc::WEXITSTATUS(status)),
    };
    Ok((pid > 0).then(|| (Pid::from_raw(pid), ending)))
}

/// How many threads this process has.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use nix::sys::signal::Signal;
    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own child, not herd's")]
    fn only_what_was_alive_before_the_kill_and_still_is_has_survived_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let born = Instant::now();
        // Its age has to differ by more than the kernel's ticks.
        while born.elapsed() < Duration::from_millis(60) {
            std::thread::yield_now();
        }
        let decided = Instant::now();
        assert_eq!(survivors(&[pid], decided), 1);
        // As if the number had been given to a process that came after the kill.
        assert_eq!(survivors(&[pid], born), 0);
        child.kill().unwrap();
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(pid)), flags).unwrap();
        assert_eq!(survivors(&[pid], decided), 0, "a zombie is dead");
        child.wait().unwrap();
        assert_eq!(survivors(&[pid], decided), 0);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own child, not herd's")]
    fn no_more_are_looked_at_than_may_be_also_of_one_processs_children() {
        let script = "for n in 1 2 3 4 5; do sleep 1000 & done; echo; wait";
        let mut shell = std::process::Command::new("sh");
        let mut shell = shell.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let begun = shell.stdout.as_mut().unwrap().read_exact(&mut [0]);
        let pid = i32::try_from(shell.id()).unwrap();
        let (all, some) = (tree(pid), tree_of(3, pid));
        for pid in all.iter().skip(1) {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        begun.unwrap();
        assert_eq!((all.len(), some.len()), (6, 3));
    }
}
