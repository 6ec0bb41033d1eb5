//! Workers that misbehave.

use std::net::TcpStream;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::matrix::{Case, Fault, Shape, State};
use crate::random::Random;
use crate::report::Observed;
use crate::running::poll;
use crate::scene::{Scene, Session, VICTIM};
use crate::settings::Settings;
use crate::view::{self, Phase};
use crate::watch::{Watched, signal, tree};

const HERD_LIVES: &str = "herd, the neighbour";

pub(crate) fn run(case: Case, random: Random) -> Observed {
    let (arguments, keys): (&str, &[&str]) = match case.fault {
        Fault::SetuidWorker => (", user=65534", &[]),
        Fault::IgnoresTerm => (", term=ignore", &["ttl: 50ms", "stop_timeout: 200ms"]),
        Fault::DoubleForks => (", orphans=1", &[]),
        Fault::NeverHealthy => (", bind=never", &["start_timeout: 1s"]),
        Fault::BindsLate => (", bind=signal", &[]),
        _ => ("", &[]),
    };
    let settings = Settings {
        arguments: arguments.to_owned(),
        keys: keys.iter().copied().map(str::to_owned).collect(),
        ..Settings::default()
    };
    let scene = Scene::set(case, &settings, random);
    match case.fault {
        Fault::SetuidWorker | Fault::DoubleForks => outlives_nothing(scene),
        Fault::IgnoresTerm => ignores_term(scene),
        Fault::ClosesListener => closes_listener(scene),
        Fault::NeverHealthy => never_healthy(scene),
        Fault::BindsLate => binds_late(scene),
        Fault::HangsMidResponse | Fault::SendsTooLittle | Fault::SendsTooMuch => lies(scene),
        other => panic!("{other:?} is no worker's"),
    }
}

/// Its session ends as sessions of this state do: nothing of the tree stays, whatever it did to get away.
fn outlives_nothing(mut scene: Scene) -> Observed {
    let case = scene.case;
    let mut session = scene.bring();
    let tree = Watched::new(tree(session.keeper));
    match case.fault {
        Fault::SetuidWorker => assert_user(&scene, session.keeper),
        // The keeper, perhaps an init, the worker, three orphans.
        _ => assert!(tree.pids().len() >= 5, "{tree:?}"),
    }
    let since = end(&scene, &mut session);
    let gone = scene.gone(&tree, since);
    let (client, allowed): (String, &[&str]) = match (case.state, session.view()) {
        (State::Streaming | State::Drain, Some(seen)) => (seen, &["200, broken off"]),
        (_, None) => (format!("next: {}", scene.next()), &["next: 200"]),
        (_, Some(seen)) => (seen, &["it left"]),
    };
    let observed = Observed::new(case, client, allowed, HERD_LIVES).in_time(gone);
    drop(session);
    scene.assert_as_before();
    observed
}

/// The end of a session that belongs to its state. When it was told.
fn end(scene: &Scene, session: &mut Session) -> Instant {
    let since = Instant::now();
    match scene.case.state {
        // SIGTERM was sent when it began to stop, and it is deaf: so its end is told by SIGKILL.
        State::Idle | State::Stopping | State::Streaming | State::Drain => {
            let client = scene.client.clone();
            client.stop(VICTIM).unwrap();
        }
        State::WebSocket => drop(session.stream.take()),
        other => panic!("{other:?} has no end of its own"),
    }
    since
}

fn assert_user(scene: &Scene, keeper: i32) {
    let logs = crate::running::stdout(&scene.herd.herd(&["logs", VICTIM]));
    let worker = scene.worker_in(keeper).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    match scene.case.shape {
        Shape::Bare => {
            assert!(logs.contains("setresuid: changed"), "{logs}");
            assert!(
                status.contains("\nUid:\t65534\t65534\t65534\t65534\n"),
                "{status}"
            );
        }
        // There is no other user in there.
        Shape::Sandbox => assert!(logs.contains("setresuid: refused"), "{logs}"),
    }
}

fn ignores_term(mut scene: Scene) -> Observed {
    let case = scene.case;
    let since = Instant::now();
    let mut session = scene.bring();
    let tree = Watched::new(session.tree.pids());
    let (client, allowed): (_, &[&str]) = match case.state {
        // Its ttl ends it.
        State::Idle => {
            let gone = scene.gone(&tree, since);
            let client = format!("next: {}", scene.next());
            let observed = Observed::new(case, client, &["next: 200"], HERD_LIVES).in_time(gone);
            scene.assert_as_before();
            return observed;
        }
        _ => ("200, broken off", &["200, broken off"]),
    };
    // A second signal ends the drain: politely, and then not.
    let everybody = scene.everybody();
    let since = Instant::now();
    signal(scene.herd.pid(), Signal::SIGTERM);
    let seen = session.view();
    assert_eq!(seen.as_deref(), Some(client));
    let gone = scene.gone(&everybody, since);
    scene.assert_all_gone();
    Observed::new(case, client, allowed, "nobody").in_time(gone)
}

/// Connections that there are go on; a new one is refused, and herd says so without taking the worker for dead.
fn closes_listener(mut scene: Scene) -> Observed {
    let case = scene.case;
    let session = scene.bring();
    assert_eq!(scene.ask("/do/close-listener"), "closed");
    // Enough at a time that at least one needs a new connection to the worker; which, is for the threads to settle.
    let mut waiting: Vec<_> = (0..8).map(|_| scene.request_of(VICTIM, "/silent")).collect();
    let refused = poll("one is answered", || {
        waiting
            .iter()
            .position(is_answered)
            .ok_or_else(|| "none is".to_owned())
    });
    let seen = view::to_the_end(&mut waiting[refused], Phase::Head);
    session.tree.assert_all_live();
    let observed = Observed::new(
        case,
        seen,
        &["502 worker_connection_lost"],
        "herd, the neighbour, the worker",
    );
    drop((waiting, session));
    scene.assert_as_before();
    observed
}

fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let answered = stream.peek(&mut [0]).is_ok();
    stream.set_nonblocking(false).unwrap();
    answered
}

fn never_healthy(mut scene: Scene) -> Observed {
    let case = scene.case;
    let mut session = scene.bring();
    let seen = session.view().unwrap();
    let since = Instant::now();
    let gone = scene.gone(&session.tree, since);
    let observed = Observed::new(case, seen, &["504 worker_start_timeout"], HERD_LIVES).in_time(gone);
    drop(session);
    scene.assert_as_before();
    observed
}

fn binds_late(mut scene: Scene) -> Observed {
    let case = scene.case;
    let mut session = scene.bring();
    let worker = scene.worker_in(session.keeper).unwrap();
    // Before it waits for it, the signal would end it.
    poll("the worker expects the signal", || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).map_err(|e| e.to_string())?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap_or_default().trim(), 16).unwrap_or(0);
        (caught >> (libc::SIGUSR1 - 1) & 1 == 1)
            .then_some(())
            .ok_or(status)
    });
    signal(worker, Signal::SIGUSR1);
    let seen = session.view().unwrap();
    session.tree.assert_all_live();
    let observed = Observed::new(case, seen, &["200"], "herd, the neighbour, the worker");
    drop(session);
    scene.assert_as_before();
    observed
}

/// An answer that is not what it says never looks whole, or is cut to what it said.
fn lies(mut scene: Scene) -> Observed {
    let case = scene.case;
    let session = scene.bring_to(State::Idle);
    let (seen, allowed): (String, &[&str]) = match case.fault {
        Fault::HangsMidResponse => {
            let mut stream = scene.streaming("/half", "0123456789");
            // herd waits with the client, and ends it with the session.
            scene.client.stop(VICTIM).unwrap();
            let seen = view::to_the_end(&mut stream, Phase::Body);
            (seen, &["200, broken off"])
        }
        Fault::SendsTooLittle => (whole(&scene, "/short"), &["200, broken off"]),
        _ => (whole(&scene, "/long"), &["200"]),
    };
    if case.fault != Fault::HangsMidResponse {
        session.tree.assert_all_live();
        assert_eq!(scene.next(), "200", "the connection after it begins anew");
    }
    let observed = Observed::new(case, seen, allowed, HERD_LIVES);
    drop(session);
    scene.assert_as_before();
    observed
}

fn whole(scene: &Scene, path: &str) -> String {
    view::to_the_end(&mut scene.request_of(VICTIM, path), Phase::Head)
}
