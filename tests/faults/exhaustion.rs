//! herd itself has no room left: what begins is refused, what there is goes on, and all is well again when there is
//! room.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::matrix::Case;
use crate::random::Random;
use crate::report::Observed;
use crate::scene::{Scene, VICTIM};
use crate::settings::Settings;

const HERD_LIVES: &str = "herd, the neighbour";

/// The state directory is a file system of its own, in a mount namespace of herd's.
pub(crate) fn run(case: Case, random: Random) -> Observed {
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
        through: ["unshare", "--mount", "sh", "-c", &mount, "sh"]
            .map(str::to_owned)
            .to_vec(),
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
