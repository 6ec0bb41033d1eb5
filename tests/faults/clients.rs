//! Clients that leave, in each way that TCP knows.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::matrix::{Case, Fault, State};
use crate::random::Random;
use crate::report::Observed;
use crate::scene::Scene;
use crate::settings::Settings;

const EVERYBODY_LIVES: &str = "herd, the neighbour, the worker";
const HERD_LIVES: &str = "herd, the neighbour";

pub(crate) fn run(case: Case, random: Random) -> Observed {
    let mut scene = Scene::set(case, &Settings::default(), random);
    let mut session = scene.bring();
    let stream = session.stream.take().unwrap();
    let since = Instant::now();
    // Kept until the end where the client has left only half.
    let _half = leave(case.fault, stream);
    let observed = match case.state {
        // A disconnect: the whole tree, at once.
        State::WebSocket => {
            let gone = scene.gone(&session.tree, since);
            Observed::new(case, "it left", &["it left"], HERD_LIVES).in_time(gone)
        }
        State::Queued => {
            scene.until_pool("its place in the queue is free", "queued", 0);
            session.tree.assert_all_live();
            Observed::new(case, "it left", &["it left"], EVERYBODY_LIVES)
        }
        // Nobody waits for the worker any more.
        State::Starting => {
            let gone = scene.gone(&session.tree, since);
            Observed::new(case, "it left", &["it left"], HERD_LIVES).in_time(gone)
        }
        // The worker's connection is closed, so that it can stop what it does; ttl counts from here.
        _ => {
            scene.until_seen("left", 1);
            session.tree.assert_all_live();
            let next = format!("it left; next: {}", scene.next());
            Observed::new(case, next, &["it left; next: 200"], EVERYBODY_LIVES)
        }
    };
    drop(session);
    scene.assert_as_before();
    observed
}

fn leave(fault: Fault, stream: TcpStream) -> Option<TcpStream> {
    match fault {
        Fault::ClientReset => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            None
        }
        Fault::ClientFin => None,
        _ => {
            stream.shutdown(Shutdown::Write).unwrap();
            Some(stream)
        }
    }
}
