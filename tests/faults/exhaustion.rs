//! herd itself has no room left: what begins is refused, what there is goes on, and all is well again when there is
//! room.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::matrix::{Case, Fault, Shape};
use crate::random::Random;
use crate::report::Observed;
use crate::running::{Running, poll, spawn};
use crate::scene::{Scene, VICTIM};
use crate::settings::Settings;
use crate::supervised::Mode;
use crate::view;

const HERD_LIVES: &str = "herd, the neighbour";
/// More than it takes to accept a connection and to start a worker.
const ENOUGH: u64 = 14;
/// So few that herd does not think the worker broken (`worker_backoff`).
const ROUNDS: usize = 3;
const TURNED_AWAY: [&str; 2] = ["closed", "reset"];
const SHORT: [&str; 5] = [
    TURNED_AWAY[0],
    TURNED_AWAY[1],
    "200",
    "502 worker_start_failed",
    "502 worker_connection_lost",
];

pub(crate) fn run(case: Case, random: Random) -> Observed {
    match case.fault {
        Fault::StateDirFull => state_dir_full(case, random),
        _ => out_of_descriptors(case, random),
    }
}

/// The state directory is a file system of its own, in a mount namespace of herd's.
fn state_dir_full(case: Case, random: Random) -> Observed {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let owner = case.mode.other_user().unwrap_or(0);
    let mount = format!(
        "mount -t tmpfs -o size=256k,nr_inodes=24,mode=700,uid={owner},gid={owner} none {} && exec \"$@\"",
        state.display()
    );
    let settings = Settings {
        through: ["unshare", "--mount", "sh", "-c", &mount, "sh"]
            .map(str::to_owned)
            .to_vec(),
        starts: true,
        ..Settings::default()
    };
    let mut scene = Scene::set_in(dir, case, &settings, random);
    let inside = PathBuf::from(format!("/proc/{}/root{}", scene.herd.pid(), state.display()));
    assert_ne!(inside.metadata().unwrap().dev(), state.metadata().unwrap().dev());
    let mut fillers = Vec::new();
    for number in 0.. {
        let filler = inside.join(format!("filler{number}"));
        match std::fs::write(&filler, "") {
            Ok(()) => fillers.push(filler),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC));
                break;
            }
        }
    }
    let expected: &[&str] = match case.shape {
        // No room for the worker's own directory.
        Shape::Bare => &["502 worker_start_failed"],
        // All of a sandbox's files are inside: there may have been one made ahead, but not two.
        Shape::Sandbox => &["200"],
    };
    let mut seen = String::new();
    for _ in 0..2 {
        seen = scene.next();
        assert_eq!([seen.as_str()], expected, "while the directory is full");
        let _ = scene.client.stop(VICTIM);
        scene.until_at_rest();
    }
    scene.assert_neighbour_lives();
    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    assert_eq!(scene.next(), "200", "there is room again");
    let observed = Observed::new(case, seen, expected, HERD_LIVES);
    scene.assert_as_before();
    observed
}

/// herd's limit is lowered to what it has open, and to a few more, by chance: the shortage comes at any step of a
/// start. No client waits for the start's time limit because of it.
fn out_of_descriptors(case: Case, random: Random) -> Observed {
    let settings = Settings {
        keys: vec!["start_timeout: 1m".to_owned()],
        starts: true,
        ..Settings::default()
    };
    let mut scene = Scene::set(case, &settings, random);
    let spare = spare(scene.herd.pid());
    let mut seen = BTreeSet::new();
    let few: Vec<u64> = (0..ROUNDS).map(|_| 1 + scene.random.below(ENOUGH)).collect();
    let turned_away = poll("a client comes while none is free", || {
        let (view, free) = ask_with(&mut scene, 0, spare);
        // Something that herd was about to close left room.
        (free == 0).then_some(view).ok_or(format!("{free} were free"))
    });
    assert!(TURNED_AWAY.contains(&turned_away.as_str()), "{turned_away}");
    seen.insert(turned_away);
    for free in few {
        seen.insert(ask_with(&mut scene, free as usize, spare).0);
    }
    assert_eq!(scene.next(), "200", "there are descriptors again");
    let observed = Observed::of_all(case, &seen, &SHORT, HERD_LIVES);
    scene.assert_as_before();
    observed
}

/// What a client sees while only so many are free, and how many were afterwards.
fn ask_with(scene: &mut Scene, free: usize, spare: usize) -> (String, usize) {
    // With a connection to its worker, if that is not closed in between.
    scene.neighbour.assert_lives();
    scene.until_nothing_is_open();
    // What it gave up in the last shortage it takes back a moment later. Without, it could turn nobody away.
    let herd = scene.herd.pid();
    poll("herd has its spare descriptors", || {
        let now = self::spare(herd);
        (now >= spare).then_some(()).ok_or(format!("{now} of {spare}"))
    });
    let limit = Limit::leave(&scene.herd, scene.case.mode, free);
    let view = view::of(&scene.client, VICTIM);
    scene.neighbour.assert_lives_in_need();
    let left = limit.free();
    drop(limit);
    assert_ne!(
        view,
        "nothing",
        "{free} free; {:?}; herd said:\n{}",
        scene.client.look("/v1/workers"),
        scene.herd.said()
    );
    let _ = scene.client.stop(VICTIM);
    scene.until_pool("its worker is gone", "dying", 0);
    (view, left)
}

/// A lower limit of herd's descriptors, while this lives.
struct Limit<'a> {
    herd: &'a Running,
    mode: Mode,
    limit: u64,
    before: String,
}

impl<'a> Limit<'a> {
    /// So low that only so many are free.
    fn leave(herd: &'a Running, mode: Mode, free: usize) -> Self {
        let pid = herd.pid();
        let open = open(pid);
        let mut unused = (0..).filter(|number| !open.contains(number));
        let limit = unused.nth(free).unwrap();
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let before = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        let this = Self {
            herd,
            mode,
            limit,
            before: before.unwrap().to_owned(),
        };
        this.set(&limit.to_string());
        this
    }

    fn free(&self) -> usize {
        let open = open(self.herd.pid());
        (0..self.limit).filter(|number| !open.contains(number)).count()
    }

    /// By a process of herd's user: root of a container may have no right to.
    fn set(&self, soft: &str) {
        let mut command = self.mode.command(Path::new("prlimit"));
        command.args([
            "--pid",
            &self.herd.pid().to_string(),
            &format!("--nofile={soft}:"),
        ]);
        let status = spawn(&mut command).wait().unwrap();
        assert!(status.success(), "prlimit: {status}");
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        self.set(&self.before);
    }
}

/// How many of its descriptors lead nowhere: those that it can give up, and its standard input.
fn spare(pid: i32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target == Path::new("/dev/null")).count()
}

/// The numbers of its descriptors.
fn open(pid: i32) -> BTreeSet<u64> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
