//! herd itself has no room or no descriptors left: what begins is refused, what there is goes on, and all is well
//! again when there is room.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::leak;
use crate::matrix::{Case, Fault};
use crate::random::Random;
use crate::report::Observed;
use crate::running::poll;
use crate::scene::{Scene, Settings, VICTIM};
use crate::view::{self, Phase};

const HERD_LIVES: &str = "herd, the neighbour";

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
        // For a directory of its own, it has to name it.
        arguments: ", \"dir={{.Dir}}\"".to_owned(),
        through: ["unshare", "--mount", "sh", "-c", &mount, "sh"].map(str::to_owned).to_vec(),
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
    let seen = scene.next();
    scene.assert_neighbour_lives();
    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    let _ = scene.client.stop(VICTIM);
    assert_eq!(scene.next(), "200", "there is room again");
    let observed = Observed::new(case, seen, &["502 worker_start_failed", "200"], HERD_LIVES);
    scene.assert_as_before();
    observed
}

/// The limit of the running herd is put to what it has open.
fn out_of_descriptors(case: Case, random: Random) -> Observed {
    let settings = Settings {
        // It becomes ready by itself.
        arguments: ", health=ok".to_owned(),
        ..Settings::default()
    };
    let mut scene = Scene::set(case, &settings, random);
    let herd = scene.herd.pid();
    let open: usize = leak::descriptors(herd).values().sum();
    let before = limit(herd, open as u64);
    let mut waiting = scene.request_of(VICTIM, "/");
    // It is turned away, or let in and not served: never left without a word.
    let seen = view::to_the_end(&mut waiting, Phase::Head);
    limit(herd, before);
    // Its answer may have needed a new connection to its worker: its worker lives all the same.
    scene.assert_neighbour_lives();
    poll("herd begins sessions again", || {
        let _ = scene.client.stop(VICTIM);
        let seen = scene.next();
        (seen == "200").then_some(()).ok_or(seen)
    });
    let allowed = ["closed", "reset", "502 worker_start_failed"];
    let observed = Observed::new(case, seen, &allowed, HERD_LIVES);
    scene.assert_as_before();
    observed
}

/// Sets the soft limit of open files; what it was.
fn limit(pid: i32, soft: u64) -> u64 {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both pointers are to values that live through the call, or null.
    unsafe {
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut old), 0);
        let new = libc::rlimit { rlim_cur: soft, rlim_max: old.rlim_max };
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const new, std::ptr::null_mut()), 0);
    }
    old.rlim_cur
}
