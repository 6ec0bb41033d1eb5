//! Workers that take all there is of something, in bounds: where no limit holds, they stop by themselves.

use std::time::Instant;

use crate::matrix::{Case, Fault, Shape, State};
use crate::random::Random;
use crate::report::Observed;
use crate::running::stdout;
use crate::scene::{Scene, VICTIM};
use crate::settings::Settings;
use crate::watch::{Watched, tree};

const MEBIBYTE: u64 = 1 << 20;
const EVERYBODY_LIVES: &str = "herd, the neighbour, the worker";
const HERD_LIVES: &str = "herd, the neighbour";

pub(crate) fn run(case: Case, random: Random) -> Observed {
    let settings = Settings {
        keys: vec!["log_buffer: 64K".to_owned()],
        ..Settings::default()
    };
    let mut scene = Scene::set(case, &settings, random);
    let before = resident(scene.herd.pid());
    let mut session = scene.bring();
    let observed = match case.fault {
        Fault::ForkBombDuringKill => {
            let made = scene.ask("/do/fork-bomb");
            match case.shape {
                Shape::Bare => assert_eq!(made["made"], 100),
                Shape::Sandbox => assert_eq!(made["refusal"], libc::EAGAIN, "{made}"),
            }
            // Those that are there now; the children that they make all the time are the snapshot's to find.
            let watched = Watched::new(tree(session.keeper));
            assert!(
                !watched.pids().is_empty(),
                "the bomb ended before it was killed: {}; herd said:\n{}",
                scene.shown(VICTIM),
                scene.herd.said()
            );
            let since = Instant::now();
            match session.stream.take() {
                Some(socket) if case.state == State::WebSocket => drop(socket),
                stream => {
                    scene.client.stop(VICTIM).unwrap();
                    session.stream = stream;
                }
            }
            let gone = scene.gone(&watched, since);
            let client = session
                .view()
                .unwrap_or_else(|| "it left or asked nothing".to_owned());
            let allowed = ["200, broken off", "it left or asked nothing"];
            Observed::new(case, client, &allowed, HERD_LIVES).in_time(gone)
        }
        Fault::MemoryBomb => {
            let since = Instant::now();
            let answer = scene.client.ask(VICTIM, "POST /do/allocate", "").unwrap();
            let gone = scene.gone(&session.tree, since);
            let ended = scene.until_state("ended");
            let detail = ended["detail"].as_str().unwrap();
            assert!(
                detail.contains("it ran out of memory (sandbox.memory)"),
                "{ended}"
            );
            let client = crate::view::answer(answer.as_bytes());
            Observed::new(case, client, &["502 worker_crashed"], HERD_LIVES).in_time(gone)
        }
        Fault::DiskFlood | Fault::InodeFlood => {
            let path = match case.fault {
                Fault::DiskFlood => "/do/fill",
                _ => "/do/files",
            };
            let made = scene.ask(path);
            assert_eq!(made["refusal"], libc::ENOSPC, "{made}");
            Observed::new(case, scene.next(), &["200"], EVERYBODY_LIVES)
        }
        _ => {
            assert_eq!(scene.ask("/do/flood")["said"], 32 << 10);
            let kept = stdout(&scene.herd.herd(&["logs", VICTIM])).len();
            assert!(
                (1000..=80 << 10).contains(&kept),
                "{kept} bytes are kept of 32 MiB"
            );
            Observed::new(case, scene.next(), &["200"], EVERYBODY_LIVES)
        }
    };
    let after = resident(scene.herd.pid());
    assert!(
        after < before + 16 * MEBIBYTE,
        "herd grew from {before} to {after} bytes"
    );
    drop(session);
    scene.assert_as_before();
    observed
}

/// In bytes.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
