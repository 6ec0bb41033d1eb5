//! SIGKILL for every process of herd's, in every state.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::matrix::{Case, Fault, State};
use crate::random::Random;
use crate::report::Observed;
use crate::scene::Scene;
use crate::settings::Settings;
use crate::watch::{Watched, signal};

/// So long herd waits for news of a worker's end before it tells a client of the lost connection only. On a machine
/// that has no time for the launcher that is what happens.
const NEWS: Duration = Duration::from_millis(250);

pub(crate) fn run(case: Case, random: Random) -> Observed {
    let mut scene = Scene::set(case, &Settings::default(), random);
    let mut session = scene.bring();
    let ends_herd = matches!(case.fault, Fault::KillHerd | Fault::KillLauncher);
    let victim = match case.fault {
        Fault::KillHerd => scene.herd.pid(),
        Fault::KillLauncher => scene.launcher(),
        Fault::KillKeeper => session.keeper,
        Fault::KillInit => scene.init_in(session.keeper),
        Fault::KillWorker => scene.worker_in(session.keeper).unwrap(),
        other => panic!("{other:?} kills nobody"),
    };
    let watched = match ends_herd {
        true => scene.everybody(),
        false => Watched::new(session.tree.pids()),
    };
    let mut since = Instant::now();
    signal(victim, Signal::SIGKILL);
    if let Some(thawed) = session.thaw() {
        since = thawed;
    }
    if ends_herd {
        let gone = scene.gone(&watched, since);
        let client = session.view().unwrap_or_else(|| "no client".to_owned());
        session.until_stopped();
        scene.assert_all_gone();
        return Observed::new(case, client, allowed(case, since.elapsed()), "nobody").in_time(gone);
    }
    let gone = scene.gone(&watched, since);
    let client = match session.view() {
        Some(seen) => seen,
        None => {
            scene.until_noticed(&session.tree);
            format!("next: {}", scene.next())
        }
    };
    let after = since.elapsed();
    session.until_stopped();
    let observed = Observed::new(case, client, allowed(case, after), "herd, the neighbour").in_time(gone);
    drop(session);
    scene.assert_as_before();
    observed
}

/// What the client may see so long after the fault: of its request, or, where none is under way, of its next.
fn allowed(case: Case, after: Duration) -> &'static [&'static str] {
    use State::{
        Drain, Dying, Idle, Queued, Recycled, Starting, Stopping, Streaming, Waiting, Warm, WebSocket,
    };
    match (case.fault, case.state) {
        (Fault::KillHerd | Fault::KillLauncher, Warm | Recycled | Idle | Stopping | Dying) => &["no client"],
        (_, Streaming | Drain) => &["200, broken off"],
        (Fault::KillHerd, Queued | Starting | Waiting | WebSocket) => &["reset", "closed"],
        // herd has to notice, and may say so before it ends.
        (Fault::KillLauncher, Queued | Starting | Waiting) => &[
            "reset",
            "closed",
            "502 worker_crashed",
            "502 worker_connection_lost",
            "502 worker_start_failed",
        ],
        (Fault::KillLauncher, WebSocket) => &["close 1011", "closed", "reset"],
        (_, WebSocket) if after >= NEWS => &["close 1011", "closed"],
        (_, WebSocket) => &["close 1011"],
        (_, Waiting) if after >= NEWS => &["502 worker_crashed", "502 worker_connection_lost"],
        (_, Waiting) => &["502 worker_crashed"],
        (_, Starting) => &["502 worker_start_failed"],
        // The place that became free is the next one's.
        (_, Queued) => &["200"],
        (_, Idle) => &["next: 410 session_lost"],
        (_, Warm | Recycled | Stopping | Dying) => &["next: 200"],
    }
}
