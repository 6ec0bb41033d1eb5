//! Clients that leave, in each way that TCP knows, and in the one that it has to guess.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::far::Far;
use crate::matrix::{Case, Fault, State};
use crate::random::Random;
use crate::report::Observed;
use crate::scene::Scene;
use crate::settings::Settings;

const EVERYBODY_LIVES: &str = "herd, the neighbour, the worker";
const HERD_LIVES: &str = "herd, the neighbour";

pub(crate) fn run(case: Case, random: Random) -> Observed {
    let far = (case.fault == Fault::ClientVanishes).then(Far::new);
    let mut settings = Settings::default();
    if let Some(far) = &far {
        settings.bind = Some(format!("{}:0", far.near_address()));
        settings.network = ", dead_peer_timeout: 2s".to_owned();
    }
    let mut scene = Scene::set(case, &settings, random);
    let mut session = match &far {
        Some(far) => far.inside(|| scene.bring()),
        None => scene.bring(),
    };
    let stream = session.stream.take().unwrap();
    let since = Instant::now();
    // Kept until the end where the client has left only half, or is not heard.
    let _rest = leave(case.fault, stream, far.as_ref());
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

fn leave(fault: Fault, stream: TcpStream, far: Option<&Far>) -> Option<TcpStream> {
    match fault {
        Fault::ClientReset => {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            None
        }
        Fault::ClientVanishes => {
            far.unwrap().vanish();
            // Nobody would answer its last packets, and the kernel would keep it, and its network, for minutes.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            Some(stream)
        }
        Fault::ClientFin => None,
        _ => {
            stream.shutdown(Shutdown::Write).unwrap();
            Some(stream)
        }
    }
}
