//! Every fault that must leave nothing behind, injected into a real herd at every state of a session that can be
//! reached, bare and sandboxed, as root and as a user: see `matrix`.
//!
//! ```text
//! cargo test --test faults                               every fault bare and sandboxed; state and user by chance
//! HERD_FAULTS=all cargo test --test faults               in every state, as every user
//! HERD_FAULTS_SEED=7 cargo test --test faults -- NAME    the same again
//! HERD_FAULTS=render cargo test --test faults            docs/reliability.md from the latest results
//! ```
//!
//! Each case starts a herd with a neighbour beside the session that suffers, waits until the state is seen, injects
//! the fault, and asks: who lives, what did the client see, is anything of the session or of herd left (`leak`), and
//! how long did it take beside a bare kill in the same minute. The results are in target/faults.json.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says what it does"
)]

#[path = "../support/client.rs"]
#[allow(dead_code, reason = "the integration tests use more of it")]
mod client;
#[path = "../support/leak.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod leak;
#[path = "../support/random.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod random;
#[path = "../support/running.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod running;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/supervised.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod supervised;

mod beside;
mod clients;
mod exhaustion;
mod far;
mod floods;
mod frozen;
mod kills;
mod leftovers;
mod matrix;
mod report;
mod scene;
mod settings;
mod time;
mod view;
mod watch;
mod workers;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};

use matrix::{Case, Fault, State};
use random::Random;
use report::{Observed, Results};

/// Further cases of the short form, by chance.
const SAMPLE: usize = 40;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let form = std::env::var("HERD_FAULTS").unwrap_or_default();
    if form == "render" {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
        std::fs::write(&page, report::render()).unwrap();
        println!("written: {}", page.display());
        return ExitCode::SUCCESS;
    }
    let seed = match std::env::var("HERD_FAULTS_SEED") {
        Ok(text) => text.parse().expect("HERD_FAULTS_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    let form = match form.as_str() {
        "" => "short",
        "all" => "all",
        other => panic!("HERD_FAULTS is `all` or `render`, not {other:?}"),
    };
    println!("HERD_FAULTS_SEED={seed}");
    let results = Arc::new(Results::new(seed, form));
    let named = arguments.filter.is_some();
    let trials = cases(form, named, &mut Random::seeded(seed))
        .into_iter()
        .map(|case| trial(case, seed, &results))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        println!("results: {}", results.write(conclusion.num_failed).display());
    }
    conclusion.exit_code()
}

/// Who names a case gets it, whatever chance says.
fn cases(form: &str, named: bool, random: &mut Random) -> Vec<Case> {
    let mut all = Case::all();
    if frozen::freezer().is_none() {
        skip::skipped("not root, or no freezer of control groups version 1, so no dying session is tested");
        all.retain(|case| case.state != State::Dying);
    }
    if form == "all" || named {
        return all;
    }
    let mut groups: BTreeMap<(Fault, matrix::Shape), Vec<Case>> = BTreeMap::new();
    for case in &all {
        groups.entry((case.fault, case.shape)).or_default().push(*case);
    }
    let mut chosen: Vec<Case> = groups.values().map(|group| *random.one_of(group)).collect();
    chosen.extend((0..SAMPLE).map(|_| *random.one_of(&all)));
    all.retain(|case| chosen.contains(case));
    all
}

fn trial(case: Case, seed: u64, results: &Arc<Results>) -> Trial {
    let results = Arc::clone(results);
    Trial::test(case.name(), move || {
        let started = Instant::now();
        let observed = inject(case, Random::seeded(seed ^ hash(&case.name())));
        results.add(&observed, started.elapsed());
        Ok(())
    })
}

/// The same case has the same chances whichever others run: FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn inject(case: Case, random: Random) -> Observed {
    match case.fault {
        Fault::KillHerd | Fault::KillLauncher | Fault::KillKeeper | Fault::KillInit | Fault::KillWorker => {
            kills::run(case, random)
        }
        Fault::SetuidWorker
        | Fault::IgnoresTerm
        | Fault::DoubleForks
        | Fault::ClosesListener
        | Fault::NeverHealthy
        | Fault::BindsLate
        | Fault::HangsMidResponse
        | Fault::SendsTooLittle
        | Fault::SendsTooMuch => workers::run(case, random),
        Fault::ClientReset | Fault::ClientFin | Fault::ClientHalfClose | Fault::ClientVanishes => {
            clients::run(case, random)
        }
        Fault::ForkBombDuringKill
        | Fault::MemoryBomb
        | Fault::DiskFlood
        | Fault::InodeFlood
        | Fault::LogFlood => floods::run(case, random),
        Fault::StateDirFull | Fault::OutOfDescriptors => exhaustion::run(case, random),
        Fault::StopAndContinue => time::run(case, random),
        Fault::CgroupBusy | Fault::ReusedPids | Fault::RestartUnderLoad => leftovers::run(case, random),
    }
}
