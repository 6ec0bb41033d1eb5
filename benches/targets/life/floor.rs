//! What no start can be faster than: one `clone3` with every namespace, the mounts, the control groups, `execve`.
//! No library, no supervision, no system call filter.

#![allow(unsafe_code, reason = "clone3 and fork have no safe form")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chdir, execv, pivot_root, setresgid, setresuid};

use super::wire::Sandbox;

/// Forks into new namespaces. The process must have one thread.
///
/// # Safety
/// As for fork: in the child of a threaded process a lock may be held by a thread that does not exist.
unsafe fn clone3(flags: i32) -> io::Result<Option<Pid>> {
    let mut pidfd: i32 = -1;
    // SAFETY: `clone_args` is plain integers, for which zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: `args` is valid for its size, `pidfd` outlives the call; without CLONE_VM the child goes on here.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => {
            // SAFETY: the kernel stored a new descriptor there. It was asked for because a supervisor would.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(pidfd) });
            Ok(Some(Pid::from_raw(pid as i32)))
        }
    }
}

/// A first process with one child, as herd's keeper and a bare worker.
///
/// # Safety
/// The process has one thread.
pub(super) unsafe fn tree(argv: &[String]) -> anyhow::Result<Pid> {
    let own = (!Uid::effective().is_root()).then(|| (Uid::effective(), Gid::effective()));
    let user = if own.is_some() { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: the caller's.
    if let Some(pid) = unsafe { clone3(user | libc::CLONE_NEWPID | libc::CLONE_NEWNS) }? {
        return Ok(pid);
    }
    end_with((|| {
        if let Some((uid, gid)) = own {
            map_own(uid, gid)?;
        }
        mount_proc(Path::new("/proc"))?;
        // SAFETY: the child of a process with one thread has one, too.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => exec(argv),
            ForkResult::Parent { .. } => {
                while nix::sys::wait::waitpid(None, None).is_ok() {}
                Ok(())
            }
        }
    })())
}

/// Everything that herd's sandbox has around it, around the worker itself.
///
/// # Safety
/// The process has one thread.
pub(super) unsafe fn sandbox(order: &Sandbox) -> anyhow::Result<Pid> {
    for (group, limits) in &order.groups {
        fs::create_dir(group).with_context(|| format!("cannot make {}", group.display()))?;
        for (file, value) in limits {
            fs::write(group.join(file), value).with_context(|| format!("cannot write {file}"))?;
        }
    }
    let (go, told) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let own = (Uid::effective(), Gid::effective());
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    // SAFETY: the caller's.
    let Some(pid) = (unsafe { clone3(namespaces) })? else {
        drop(told);
        end_with((|| {
            let told = nix::unistd::read(&go, &mut [0; 1])?;
            anyhow::ensure!(told == 1, "the ids were not mapped");
            match order.first_id {
                None => map_own(own.0, own.1)?,
                Some(_) => {
                    setresgid(0.into(), 0.into(), 0.into())?;
                    setresuid(0.into(), 0.into(), 0.into())?;
                }
            }
            ::herd::sys::network::bring_loopback_up()?;
            files(order)?;
            exec(&order.argv)
        })())
    };
    if let Some(first) = order.first_id {
        let map = format!("0 {first} 65536\n");
        fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        fs::write(format!("/proc/{pid}/gid_map"), &map)?;
    }
    for (group, _) in &order.groups {
        fs::write(group.join("cgroup.procs"), pid.to_string())?;
    }
    nix::unistd::write(&told, b"+")?;
    Ok(pid)
}

fn map_own(uid: Uid, gid: Gid) -> anyhow::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
    Ok(())
}

/// A tmpfs, an overlay in it, /proc and /dev; then nothing else.
fn files(order: &Sandbox) -> anyhow::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // The tmpfs hides where they are, if that is in /tmp; a descriptor does not mind.
    let (rootfs, sockets) = (place(&order.rootfs)?, place(&order.sockets)?);
    let nodev = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("floor"),
        "/tmp",
        Some("tmpfs"),
        nodev,
        Some("mode=0755,size=64m"),
    )?;
    for dir in ["upper", "work", "root", "old"] {
        fs::create_dir(Path::new("/tmp").join(dir))?;
    }
    let options = format!(
        "lowerdir={},upperdir=/tmp/upper,workdir=/tmp/work{}",
        by_descriptor(&rootfs),
        if order.first_id.is_some() {
            ""
        } else {
            ",userxattr"
        }
    );
    let root = Path::new("/tmp/root");
    mount(
        Some("overlay"),
        root,
        Some("overlay"),
        nodev,
        Some(options.as_str()),
    )
    .context("overlay")?;
    mount_proc(&root.join("proc"))?;
    let dev = root.join("dev");
    mount(
        Some("dev"),
        &dev,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        Some("mode=755,size=64k"),
    )?;
    for name in ["null", "zero", "full", "random", "tty", "urandom"] {
        let node = dev.join(name);
        fs::File::create(&node)?;
        mount(
            Some(&Path::new("/dev").join(name)),
            &node,
            none,
            MsFlags::MS_BIND,
            none,
        )?;
    }
    for (dir, kind) in [("pts", "devpts"), ("shm", "tmpfs")] {
        let at = dev.join(dir);
        fs::create_dir(&at)?;
        mount(
            Some(kind),
            &at,
            Some(kind),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            none,
        )?;
    }
    let sockets = by_descriptor(&sockets);
    mount(
        Some(sockets.as_str()),
        &root.join("run/herd"),
        none,
        MsFlags::MS_BIND,
        none,
    )
    .context("sockets")?;
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    nix::unistd::sethostname("floor")?;
    Ok(())
}

fn place(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
}

fn by_descriptor(place: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", place.as_raw_fd())
}

fn mount_proc(at: &Path) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), at, Some("proc"), flags, None::<&str>).context("/proc")
}

fn exec(argv: &[String]) -> anyhow::Result<()> {
    let argv = argv
        .iter()
        .map(|word| CString::new(word.as_str()))
        .collect::<Result<Vec<_>, _>>()?;
    let program = argv.first().context("no program")?;
    match execv(program, &argv)? {}
}

/// Of the forked process, which must never return to the caller's loop.
fn end_with(result: anyhow::Result<()>) -> ! {
    if let Err(e) = &result {
        eprintln!("floor: {e:#}");
    }
    std::process::exit(i32::from(result.is_err()))
}
