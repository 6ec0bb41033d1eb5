//! What a herd that was killed leaves to the next, and control groups that cannot be removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::leak;
use crate::matrix::{Case, Fault};
use crate::random::Random;
use crate::report::Observed;
use crate::running::{poll, spawn};
use crate::scene::Scene;
use crate::settings::Settings;
use crate::view;
use crate::watch::{Watched, signal, tree};

pub(crate) fn run(case: Case, random: Random) -> Observed {
    match case.fault {
        Fault::CgroupBusy => cgroup_busy(case, random),
        Fault::ReusedPids => reused_pids(case, random),
        _ => restart_under_load(case, random),
    }
}

/// A process in the session's group that is none of herd's: rmdir(2) says EBUSY until it is gone.
fn cgroup_busy(case: Case, random: Random) -> Observed {
    let mut scene = Scene::set(case, &Settings::default(), random);
    let mut session = scene.bring();
    let groups = groups_of(session.keeper);
    assert!(!groups.is_empty(), "the session has no group");
    let mut strays: Vec<Child> = groups.iter().map(|group| stray(group)).collect();
    let since = session.thaw().unwrap_or_else(Instant::now);
    let gone = scene.gone(&session.tree, since);
    session.until_stopped();
    // The slot is free, whatever becomes of the groups.
    let next = format!("next: {}", scene.next());
    // The launcher does not see a process that is not in its namespace, and tries until it is gone.
    assert!(groups.iter().all(|group| group.exists()), "{groups:?}");
    for stray in &mut strays {
        stray.kill().unwrap();
        stray.wait().unwrap();
    }
    poll("the groups are removed", || {
        let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    });
    let observed = Observed::new(case, next, &["next: 200"], "herd, the neighbour").in_time(gone);
    drop(session);
    scene.assert_as_before();
    observed
}

/// Where the tree of this keeper is limited, in every hierarchy.
fn groups_of(keeper: i32) -> Vec<PathBuf> {
    let last = *tree(keeper).last().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{last}/cgroup")).unwrap();
    let groups = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let first = path.rsplit('/').nth(1)?;
        let own = first.starts_with("herd-");
        own.then(|| PathBuf::from(format!("/sys/fs/cgroup/{controllers}{path}")))
    });
    groups.filter(|group| group.is_dir()).collect()
}

fn stray(group: &Path) -> Child {
    let child = spawn(Command::new("sleep").arg("60").stdin(Stdio::null()));
    std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    child
}

/// herd is killed, and what it left names pids, in as far as it names any, that strangers have by now.
fn reused_pids(case: Case, random: Random) -> Observed {
    let mut scene = Scene::set(case, &Settings::default(), random);
    let session = scene.bring();
    let everybody = scene.everybody();
    let pids = everybody.pids();
    let since = Instant::now();
    signal(scene.herd.pid(), Signal::SIGKILL);
    let gone = scene.gone(&everybody, since);
    scene.herd.wait();
    drop(session);
    // The kernel may have given one to somebody else by itself: all the better.
    let strangers: Vec<Stranger> = pids.iter().filter_map(|pid| Stranger::with(*pid)).collect();
    assert!(
        strangers.len() * 2 > pids.len(),
        "{} of {pids:?}",
        strangers.len()
    );
    let watched = Watched::new(strangers.iter().map(|stranger| stranger.0));
    scene.herd.assert_the_next_sweeps(case.mode);
    watched.assert_all_live();
    drop(strangers);
    Observed::new(case, "no client", &["no client"], "the strangers").in_time(gone)
}

/// A process with a pid of choice.
struct Stranger(i32);

impl Stranger {
    fn with(pid: i32) -> Option<Self> {
        #[repr(C)]
        #[derive(Default)]
        struct CloneArguments {
            flags: u64,
            pidfd: u64,
            child_tid: u64,
            parent_tid: u64,
            exit_signal: u64,
            stack: u64,
            stack_size: u64,
            tls: u64,
            set_tid: u64,
            set_tid_size: u64,
            cgroup: u64,
        }
        let wanted = [pid];
        let arguments = CloneArguments {
            exit_signal: libc::SIGCHLD as u64,
            set_tid: wanted.as_ptr() as u64,
            set_tid_size: 1,
            ..CloneArguments::default()
        };
        // SAFETY: as fork(2); the child calls nothing but system calls.
        unsafe {
            let size = std::mem::size_of::<CloneArguments>();
            match libc::syscall(libc::SYS_clone3, &raw const arguments, size) {
                0 => {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    loop {
                        libc::pause();
                    }
                }
                made => (made == i64::from(pid)).then_some(Self(pid)),
            }
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // SAFETY: takes numbers; the child is not reaped yet, so the number is its own.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Clients ask all the time while herd is killed and started again, thrice, at the same address.
fn restart_under_load(case: Case, random: Random) -> Observed {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let settings = Settings {
        // No other has this address of the loopback, so that nobody takes its port while herd is away.
        bind: Some(format!("127.{}.{low}.{number}:7070", 128 | high & 63)),
        // They would go on asking for as long as it takes.
        drain: Some("200ms"),
        ..Settings::default()
    };
    let mut scene = Scene::set(case, &settings, random);
    let mut session = scene.bring();
    let everybody = scene.everybody();
    let client = scene.client.clone();
    let over = AtomicBool::new(false);
    // Odd while a herd is known to serve.
    let epoch = AtomicU64::new(0);
    let since = Instant::now();
    let (gone, seen) = std::thread::scope(|scope| {
        let load = || {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::SeqCst) {
                let before = epoch.load(Ordering::SeqCst);
                let view = view::of(&client, "load");
                if before == epoch.load(Ordering::SeqCst) && before % 2 == 1 {
                    assert_eq!(view, "200", "herd is there");
                }
                seen.insert(view);
            }
            seen
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        signal(scene.herd.pid(), Signal::SIGKILL);
        let gone = scene.gone(&everybody, since);
        scene.herd.wait();
        for _ in 0..3 {
            scene.herd.assert_the_next_sweeps_and(case.mode, || {
                epoch.fetch_add(1, Ordering::SeqCst);
                for _ in 0..4 {
                    assert_eq!(view::of(&client, "load"), "200", "herd is back");
                }
                epoch.fetch_add(1, Ordering::SeqCst);
            });
        }
        over.store(true, Ordering::SeqCst);
        let seen: BTreeSet<String> = clients
            .into_iter()
            .flat_map(|client| {
                client
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        (gone, seen)
    });
    assert_eq!(session.view().as_deref(), Some("200, broken off"));
    assert!(leak::processes(scene.herd.tag()).is_empty());
    // With the herd that drains its session ends, and requests that came before that with it. A kill may come in the
    // middle of an answer.
    let allowed = [
        "200",
        "200, broken off",
        "closed",
        "refused",
        "reset",
        "503 draining",
        "503 session_ended",
    ];
    Observed::of_all(case, &seen, &allowed, "nobody").in_time(gone)
}
