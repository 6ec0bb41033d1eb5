//! herd does not run for a while, or is told another time of day.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::matrix::{Case, Fault, State};
use crate::random::Random;
use crate::report::Observed;
use crate::running::poll;
use crate::scene::{Scene, Settings, VICTIM};
use crate::watch::signal;

const EVERYBODY_LIVES: &str = "herd, the neighbour, the worker";
const HERD_LIVES: &str = "herd, the neighbour";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

pub(crate) fn run(case: Case, random: Random) -> Observed {
    match case.fault {
        Fault::StopAndContinue => stop_and_continue(case, random),
        _ => clock_jump(case, random),
    }
}

/// While herd is stopped, the worker is killed: it has to notice when it goes on.
fn stop_and_continue(case: Case, random: Random) -> Observed {
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
            scene.until_noticed(session.keeper);
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

/// herd alone is lied to about the time of day, by a library that reads it from a file. No deadline of herd's may
/// move: a day forward ends no session, a day back keeps none alive.
fn clock_jump(case: Case, random: Random) -> Observed {
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let settings = Settings {
        keys: vec!["ttl: 1h".to_owned(), "max_lifetime: 2h".to_owned()],
        through: [
            "env",
            &format!("LD_PRELOAD={LIBRARY}"),
            &format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Settings::default()
    };
    assert!(
        std::path::Path::new(LIBRARY).exists(),
        "{LIBRARY} does not exist: install the Debian package faketime"
    );
    let mut scene = Scene::set_in(dir, case, &settings, random);
    let mut session = scene.bring();
    for (jump, seconds) in [("+86400", 86_400), ("-86400", -86_400)] {
        std::fs::write(&clock, jump).unwrap();
        // It took effect: what begins now, began on another day.
        let begun = created_for(&scene, jump);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let day = (now.as_secs() as i64 + seconds) / 86_400;
        assert!(begun.starts_with(&date(day)) || begun.starts_with(&date(day + 1)), "{jump}: {begun}");
        session.tree.assert_all_live();
        assert_eq!(scene.shown(VICTIM)["state"], "bound");
    }
    let since = Instant::now();
    scene.client.stop(VICTIM).unwrap();
    let gone = scene.gone(&session.tree, since);
    let client = session.view().unwrap_or_else(|| format!("next: {}", scene.next()));
    let allowed = ["200, broken off", "close 1001", "close 1011", "next: 200"];
    let observed = Observed::new(case, client, &allowed, EVERYBODY_LIVES).in_time(gone);
    assert!(gone.after < Duration::from_secs(5), "{gone:?}");
    drop(session);
    scene.assert_as_before();
    observed
}

/// When herd thinks that the neighbour's kind got a session that is queued now.
fn created_for(scene: &Scene, jump: &str) -> String {
    let id = format!("jump{}", &jump[1..2]);
    let id = format!("{id}{}", if jump.starts_with('+') { "f" } else { "b" });
    let waiting = scene.request_of(&id, "/");
    let shown = poll("it is queued", || {
        let shown = scene.shown(&id);
        (shown["state"] == "queued").then(|| shown.clone()).ok_or(shown.to_string())
    });
    drop(waiting);
    scene.until_pool("it has left the queue", "queued", 0);
    shown["created"].as_str().unwrap().to_owned()
}

/// YYYY-MM-DD of a day since 1970, by the civil calendar.
fn date(days: i64) -> String {
    let (mut year, mut left) = (1970, days);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", left + 1)
}
