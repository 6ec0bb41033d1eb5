//! A seeded simulation of the session core: random clients, workers and faults against a small model that
//! checks the invariants after every step.
//!
//! `HERD_SIM_SEEDS=N` runs N seeds (default 500); `HERD_SIM_SEED=S` replays one and prints every step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../support/random.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod random;

mod deeds;
mod lots;
mod model;
mod principals;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use herd::core::{
    Core, HolderKind, Holders, Memory, Moment, Rules, SessionId, SessionRef, TicketId, WorkerId,
};

use lots::Lots;
use model::{Life, ModelKind, ModelWorker};
use principals::Principals;

const STEPS: usize = 400;

fn secs(n: usize) -> Duration {
    Duration::from_secs(n as u64)
}

struct Held {
    session: SessionRef,
    holders: Arc<Holders>,
    holder: HolderKind,
}

struct World {
    lots: Lots,
    trace: bool,
    now: Moment,
    core: Core,
    rules: Vec<Rules>,
    kinds: Vec<ModelKind>,
    config: u64,
    /// `None`: sessions are nobody's.
    principals: Option<Principals>,
    /// That the core was told of, less what it has promised since.
    memory: Option<Memory>,
    /// Deeds that a lower `max` may not lead to.
    harm: usize,
    workers: BTreeMap<WorkerId, ModelWorker>,
    bound: BTreeMap<SessionRef, (WorkerId, Arc<Holders>)>,
    /// Which worker each session ever had.
    served_by: HashMap<SessionRef, WorkerId>,
    ended: Vec<SessionRef>,
    waiting: BTreeMap<TicketId, SessionId>,
    holder_of: HashMap<TicketId, HolderKind>,
    answered: HashSet<TicketId>,
    held: Vec<Held>,
    /// Notifications on their way to the owner.
    notices: Vec<SessionRef>,
    last_ticket: u64,
    drained: usize,
    draining: bool,
    seen: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut lots = Lots::of(seed);
        let rules = lots::rules(&mut lots);
        let mut core = Core::new(rules.clone());
        let principals = principals::any_principals(&mut lots);
        if let Some(principals) = &principals {
            core = core.with_principals(principals::allowances(principals));
        }
        core.start(Moment::default());
        let mut world = Self {
            lots,
            trace,
            now: Moment::default(),
            core,
            kinds: vec![ModelKind::new(0); rules.len()],
            config: 1,
            principals,
            memory: None,
            harm: 0,
            rules,
            workers: BTreeMap::new(),
            bound: BTreeMap::new(),
            served_by: HashMap::new(),
            ended: Vec::new(),
            waiting: BTreeMap::new(),
            holder_of: HashMap::new(),
            answered: HashSet::new(),
            held: Vec::new(),
            notices: Vec::new(),
            last_ticket: 0,
            drained: 0,
            draining: false,
            seen: BTreeMap::new(),
        };
        world.settle();
        world
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3?} {}", self.now.0, what());
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.lots.below(100) {
            0..30 => self.client_comes(),
            30..36 => self.client_leaves_the_queue(),
            36..58 => self.holder_leaves(),
            58..72 => self.worker_progresses(),
            72..74 => self.worker_dies(),
            74 => self.probes_fail(),
            75..79 => self.somebody_stops_a_session(),
            79..88 => self.deliver_notices(),
            88..91 => self.stale_input(),
            91..93 => self.holder_comes_without_asking(),
            93 => self.configuration_changes(),
            94 => self.max_changes(),
            95 => self.memory_changes(),
            96 => self.principals_change(),
            _ => self.time_passes(),
        }
        self.settle();
    }

    /// Everything that was started can be brought to an end, and that is told once.
    fn finish(&mut self) {
        self.draining = true;
        self.say(|| "drain".into());
        self.core.drain(self.now + secs(20), self.now);
        self.settle();
        assert!(
            self.waiting.is_empty(),
            "drain left {} requests waiting",
            self.waiting.len()
        );
        for _ in 0..30 {
            self.step();
        }
        // Past drain_timeout, then past stop_timeout.
        for _ in 0..2 {
            self.now = self.now + secs(60);
            self.core.advance(self.now);
            self.settle();
        }
        let left: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in left {
            let life = self.workers[&worker].life;
            assert_eq!(
                life,
                Life::Killed,
                "{worker} outlived drain_timeout and stop_timeout"
            );
            self.gone(worker);
            self.settle();
        }
        assert_eq!(
            self.drained, 1,
            "the end of the drain was told {} times",
            self.drained
        );
        assert_eq!(self.core.sessions().count(), 0);
    }
}

fn run(seed: u64, trace: bool) -> BTreeMap<&'static str, usize> {
    let mut world = World::new(seed, trace);
    for _ in 0..STEPS {
        world.step();
    }
    world.finish();
    world.seen
}

#[test]
fn the_invariants_hold_after_every_step_of_many_seeds() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|v| v.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("HERD_SIM_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 0..number("HERD_SIM_SEEDS").unwrap_or(500) {
        let Ok(counts) = std::panic::catch_unwind(|| run(seed, false)) else {
            panic!(
                "seed {seed} failed; replay it: HERD_SIM_SEED={seed} cargo test --test simulation -- --nocapture"
            );
        };
        counts
            .into_iter()
            .for_each(|(what, n)| *seen.entry(what).or_default() += n);
    }
    println!("{seen:#?}");
    let expected = [
        "bound",
        "created",
        "reused",
        "refused",
        "left the queue",
        "failed starts",
        "stopped",
        "disconnected",
        "ttl",
        "max_lifetime",
        "crashed",
        "probe_failed",
        "drained",
        "revoked",
        "over its sessions",
        "over its rate",
        "reloads",
        "other max",
        "waited for a start",
        "waited for memory",
        "served across a reload",
    ];
    for what in expected {
        assert!(
            seen.contains_key(what),
            "no seed ever saw {what:?}: nothing is tested there"
        );
    }
}
