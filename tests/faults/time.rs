//! herd does not run for a while.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::matrix::{Case, State};
use crate::random::Random;
use crate::report::Observed;
use crate::running::poll;
use crate::scene::Scene;
use crate::settings::Settings;
use crate::watch::signal;

const HERD_LIVES: &str = "herd, the neighbour";

/// While herd is stopped, the worker is killed: it has to notice when it goes on.
pub(crate) fn run(case: Case, random: Random) -> Observed {
    let mut scene = Scene::set(case, &Settings::default(), random);
    let mut session = scene.bring();
    let herd = scene.herd.pid();
    let worker = scene.worker_in(session.keeper).unwrap();
    signal(herd, Signal::SIGSTOP);
    poll("herd is stopped", || match state_of(herd) {
        'T' => Ok(()),
        other => Err(other.to_string()),
    });
    signal(worker, Signal::SIGKILL);
    // The kernel and the launcher need no herd for that.
    let gone = scene.gone(&session.tree, Instant::now());
    scene.random.pause();
    signal(herd, Signal::SIGCONT);
    let client = match session.view() {
        Some(seen) => seen,
        None => {
            scene.until_noticed(&session.tree);
            format!("next: {}", scene.next())
        }
    };
    let allowed: &[&str] = match case.state {
        State::Starting => &["502 worker_start_failed"],
        State::Idle => &["next: 410 session_lost"],
        State::Waiting => &["502 worker_crashed"],
        State::Streaming => &["200, broken off"],
        _ => &["close 1011"],
    };
    let observed = Observed::new(case, client, allowed, HERD_LIVES).in_time(gone);
    drop(session);
    scene.assert_as_before();
    observed
}

fn state_of(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.chars().next().unwrap()
}
