//! A seeded simulation of the whole driver: the real mailbox, attention list, broadcast of endings and deadline under
//! paused time, with a crew that starts nothing and clients that come, hold and leave in every order. The core's own
//! simulation is `tests/simulation/`; here the subject is what lies between the core and its callers.
//!
//! `HERD_SIM_SEEDS=N` runs N seeds (default 200); `HERD_SIM_SEED=S` replays one and prints every step. Where the core
//! walks a hash map, the order of equal deeds differs from run to run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use herd::config::{Admission, Config, Kind, MemoryAdmission};
use herd::core::{Exit, HolderKind, KindId, Lack, Memory, Refusal, Reuse, SessionId, SessionRef, WorkerId};
use herd::core::{StartFailure, StartFailureKind};
use herd::driver::{
    Attached, Cause, Crew, Driver, Handle, Hold, KindChoice, Next, NotAttached, Remains, Request, Session,
    Shutdown, Wait,
};
use herd::worker::{Death, Endpoint, Event, KillSwitch, Logs, Make, Plan, Plans};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, LocalSet, yield_now};
use tokio::time::{Instant, advance};

#[path = "support/random.rs"]
#[allow(dead_code)]
mod random;
use random::Random;

const STEPS: usize = 250;
const MIB: u64 = 1 << 20;
/// What the host has.
const TOTAL: u64 = 1024 * MIB;
/// A reading of memory is good for so long, as a real crew's is.
const READING: Duration = Duration::from_millis(100);
/// As long as `disconnect_grace` below, and a little more.
const GRACE: Duration = Duration::from_millis(2100);

const ONCE: &str = r#"
  once:
    cmd: [CMD]
    min: 1
    max: MAX
    ttl: "12s"
    sandbox: {rootfs: host, memory: MEMORY}
    queue: {max: 4, timeout: "5s"}"#;
const AGAIN: &str = r#"
  again:
    cmd: [CMD]
    max: MAX
    max_starting: 1
    reuse: true
    ttl: "6s"
    sandbox: {rootfs: host, memory: MEMORY}
    queue: {max: 3, timeout: "8s"}"#;
const GRACEFUL: &str = r#"
  graceful:
    cmd: [CMD]
    max: MAX
    disconnect_grace: "2s"
    max_lifetime: "30s"
    on_crash: respawn"#;

/// The file that herd starts with.
fn first_file() -> String {
    let kinds = [ONCE, AGAIN, GRACEFUL].concat();
    format!("drain_timeout: 10s\nworkers:{kinds}")
        .replace("CMD", "x")
        .replace("MAX", "3")
        .replace("MEMORY", "64M")
}

/// One with any of the kinds, in any order, and with workers that may be others than before.
fn any_file(random: &mut Random) -> String {
    let mut kinds = vec![ONCE, AGAIN, GRACEFUL];
    let admission = random.one_of(&[
        "{reserve: 0}",
        "{reserve: 128M}",
        "{reserve: 128M}",
        "{reserve: 128M}",
        "{reserve: 896M}",
        "{memory: off}",
    ]);
    let mut text = format!("drain_timeout: 10s\nadmission: {admission}\nworkers:");
    loop {
        let kind = kinds.swap_remove(random.below(kinds.len() as u64) as usize);
        let max = 1 + random.below(4);
        let cmd = random.one_of(&["x", "x", "y"]);
        let memory = random.one_of(&["64M", "64M", "64M", "256M", "256M", "256M", "2G"]);
        let kind = kind.replace("CMD", cmd).replace("MAX", &max.to_string());
        text.push_str(&kind.replace("MEMORY", memory));
        if kinds.is_empty() || random.below(4) == 0 {
            return text;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    Ready,
    Killed,
}

/// The host's memory, and what was said of it. Bytes.
#[derive(Debug)]
struct Host {
    /// That is nobody's of herd.
    others: u64,
    admission: Admission,
    /// From the next renewal on.
    next: Admission,
    /// When it was read, and what was left then; less what was started since.
    reading: Option<(Instant, u64)>,
}

/// The crew's side: workers that exist until the simulation has them die.
#[derive(Debug)]
struct Trees {
    host: Host,
    alive: BTreeMap<WorkerId, (String, Life)>,
    /// What each was started as.
    made: HashMap<WorkerId, Arc<Kind>>,
    /// The driver has been told of their end, and has heard.
    forgotten: HashSet<WorkerId>,
}

impl Trees {
    fn of(admission: Admission) -> Self {
        let host = Host {
            others: 0,
            admission,
            next: admission,
            reading: None,
        };
        Self {
            host,
            alive: BTreeMap::new(),
            made: HashMap::new(),
            forgotten: HashSet::new(),
        }
    }

    /// What neither is in use nor was promised to a tree that is there.
    fn left(&self) -> u64 {
        let promised = self.alive.keys().filter_map(|worker| need(&self.made[worker]));
        TOTAL.saturating_sub(self.host.others + promised.sum::<u64>())
    }

    fn admit(&mut self, kind: &Kind) {
        let Some(need) = need(kind) else { return };
        let Admission { memory, reserve } = self.host.admission;
        let left = match &mut self.host.reading {
            Some((_, left)) => std::mem::replace(left, left.saturating_sub(need)),
            None => 0,
        };
        assert!(
            memory == MemoryAdmission::Off || need + reserve <= left,
            "a worker of {} may need {need}, and of {left} left {reserve} are for none",
            kind.name
        );
    }
}

/// What a worker of the kind may use.
fn need(kind: &Kind) -> Option<u64> {
    kind.sandbox.on()?.limits.memory
}

struct Pretended(Rc<RefCell<Trees>>);

impl Crew for Pretended {
    fn start(&mut self, worker: WorkerId, make: &Make, _: Option<&SessionId>) {
        let kind = &make.kind;
        let mut trees = self.0.borrow_mut();
        trees.admit(kind);
        trees.made.insert(worker, Arc::clone(kind));
        let before = trees.alive.insert(worker, (kind.name.clone(), Life::Starting));
        assert!(before.is_none(), "{worker} was started twice");
        let alive = trees
            .alive
            .values()
            .filter(|(name, _)| *name == kind.name)
            .count();
        let starting = trees.alive.values();
        let starting = starting.filter(|(name, life)| *name == kind.name && *life == Life::Starting);
        let starting = starting.count();
        assert!(
            kind.max_starting.is_none_or(|most| starting <= most),
            "{starting} of {} start at a time",
            kind.name
        );
        assert!(
            alive <= kind.max,
            "{alive} trees of {}: a slot was freed before its reaping",
            kind.name
        );
    }

    fn memory(&mut self) -> Option<Memory> {
        let mut trees = self.0.borrow_mut();
        let now = Instant::now();
        if trees.host.reading.is_some_and(|(read, _)| now < read + READING) {
            return None;
        }
        let left = trees.left();
        trees.host.reading = Some((now, left));
        Some(Memory { left, total: TOTAL })
    }

    fn watch(&mut self, _: WorkerId, _: Option<herd::worker::Probes>) {}

    fn terminate(&mut self, worker: WorkerId) {
        self.kill(worker);
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some((_, life)) = self.0.borrow_mut().alive.get_mut(&worker) {
            *life = Life::Killed;
        }
    }

    fn kill_switch(&self, _: WorkerId) -> Option<Arc<KillSwitch>> {
        None
    }

    fn pid(&self, _: WorkerId) -> Option<i32> {
        None
    }

    fn logs(&self, _: WorkerId) -> Option<Arc<Logs>> {
        None
    }

    fn plans(&self) -> Plans {
        Plans::new()
    }

    fn renew(&mut self, _: &[Arc<Plan>], _: &BTreeSet<&str>) {
        let host = &mut self.0.borrow_mut().host;
        host.admission = host.next;
        host.reading = None;
    }

    fn forget(&mut self, worker: WorkerId) {
        assert!(
            self.0.borrow_mut().forgotten.insert(worker),
            "{worker} ended twice"
        );
    }
}

/// What a data-plane thread remembers.
struct Cache {
    endings: broadcast::Receiver<SessionRef>,
    sessions: BTreeMap<SessionId, Arc<Session>>,
}

/// A client that waits for its answer.
type Asking = JoinHandle<Result<(HolderKind, Attached), NotAttached>>;

struct World {
    random: Random,
    trace: bool,
    config: Arc<Config>,
    handle: Handle,
    trees: Rc<RefCell<Trees>>,
    events: mpsc::Sender<Event>,
    asking: Vec<(SessionId, Asking)>,
    holds: Vec<(HolderKind, Hold)>,
    /// Every session that a client was given.
    known: BTreeMap<SessionRef, Arc<Session>>,
    /// Of those, the ones that a stream or a hold of the control API has held.
    streamed: BTreeSet<SessionRef>,
    served: HashMap<WorkerId, SessionRef>,
    cache: Cache,
    generation: u64,
    /// By kind, of those that there are.
    needs: BTreeMap<String, Option<u64>>,
    draining: bool,
    seen: BTreeMap<String, usize>,
}

impl World {
    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", what());
        }
    }

    fn count(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    fn holder(&mut self) -> HolderKind {
        let kinds = [
            HolderKind::Request,
            HolderKind::Request,
            HolderKind::Stream,
            HolderKind::Hold,
        ];
        *self.random.one_of(&kinds)
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..25 => self.ask(),
            25..32 => self.stop_asking(),
            32..55 => self.leave(),
            55..65 => self.hold_what_is_known(),
            65..82 => self.worker_tells(),
            82..85 => self.stop_a_session(),
            85..92 => {
                let passes = Duration::from_millis(self.random.below(3000));
                self.say(|| format!("{passes:?} pass"));
                advance(passes).await;
            }
            92..95 => self.settle().await,
            95..97 => self.reload().await,
            97..99 => self.others_use_memory(),
            _ => {}
        }
        // The driver gets as far as chance lets it before the next step.
        for _ in 0..self.random.below(4) {
            yield_now().await;
        }
        self.collect().await;
        self.listen();
    }

    async fn reload(&mut self) {
        let file = any_file(&mut self.random);
        let config = herd::config::parse(&file, "herd.yaml").expect("a valid file");
        self.say(|| format!("reload: {file}"));
        self.trees.borrow_mut().host.next = config.admission;
        let needs = config.kinds.iter().map(|kind| (kind.name.clone(), need(kind)));
        let needs = needs.collect();
        let next = Next {
            config,
            secrets: None,
            plans: Plans::new(),
        };
        let draining = self.draining;
        match self.handle.reconfigure(next, Cause::Signal).await {
            Ok(reloaded) => {
                assert!(!draining, "reloaded while draining");
                self.generation += 1;
                self.needs = needs;
                assert_eq!(reloaded.generation.0, self.generation);
                self.count("reloaded");
            }
            Err(not) => assert!(draining, "{not:?}"),
        }
    }

    fn others_use_memory(&mut self) {
        let others = self.random.below(TOTAL);
        self.say(|| format!("others use {others}"));
        self.trees.borrow_mut().host.others = others;
    }

    fn ask(&mut self) {
        let id = SessionId::parse(format!("s{}", self.random.below(7)).as_bytes()).unwrap();
        let kind = KindId(self.random.below(3) as usize);
        let request = Request {
            id: id.clone(),
            kind: *self
                .random
                .one_of(&[KindChoice::Fallback(kind), KindChoice::Named(kind)]),
            holder: self.holder(),
            wait: *self.random.one_of(&[Wait::Queue, Wait::Queue, Wait::Refuse]),
            remains: *self.random.one_of(&[Remains::Respect, Remains::Discard]),
        };
        self.say(|| format!("asks: {request:?}"));
        let (handle, holder) = (self.handle.clone(), request.holder);
        let asking = tokio::task::spawn_local(async move { Ok((holder, handle.attach(request).await?)) });
        self.asking.push((id, asking));
    }

    /// The client leaves: before the driver has heard of it, while it waits, or with the grant on its way.
    fn stop_asking(&mut self) {
        if !self.asking.is_empty() {
            let index = self.random.below(self.asking.len() as u64) as usize;
            let (id, asking) = self.asking.swap_remove(index);
            self.say(|| format!("who asks for {id} leaves"));
            asking.abort();
            self.count("left the queue");
        }
    }

    fn leave(&mut self) {
        if !self.holds.is_empty() {
            let index = self.random.below(self.holds.len() as u64) as usize;
            let (kind, hold) = self.holds.swap_remove(index);
            self.say(|| format!("{kind:?} of {:?} leaves", hold.session().name));
        }
    }

    /// The data plane's fast path.
    fn hold_what_is_known(&mut self) {
        let cached: Vec<Arc<Session>> = self.cache.sessions.values().cloned().collect();
        if cached.is_empty() {
            return;
        }
        let (session, kind) = (Arc::clone(self.random.one_of(&cached)), self.holder());
        if let Some(hold) = session.hold(kind) {
            self.say(|| format!("{kind:?} of {:?} comes", hold.session().name));
            self.held(kind, hold);
            self.count("held without asking");
        }
    }

    fn held(&mut self, kind: HolderKind, hold: Hold) {
        if kind != HolderKind::Request {
            self.streamed.insert(hold.session().name.clone());
        }
        self.holds.push((kind, hold));
    }

    fn worker_tells(&mut self) {
        let workers: Vec<WorkerId> = self.trees.borrow().alive.keys().copied().collect();
        if workers.is_empty() {
            return;
        }
        let worker = *self.random.one_of(&workers);
        let life = self.trees.borrow().alive[&worker].1;
        match (life, self.random.below(10)) {
            (Life::Starting, 0) => {
                let kind = StartFailureKind::Exec {
                    message: "no".to_owned(),
                };
                let failure = StartFailure {
                    kind,
                    log_tail: Vec::new(),
                };
                // One start, one report.
                self.trees.borrow_mut().alive.get_mut(&worker).unwrap().1 = Life::Killed;
                self.tell(Event::StartFailed { worker, failure });
                self.count("failed starts");
            }
            (Life::Starting, _) => {
                self.trees.borrow_mut().alive.get_mut(&worker).unwrap().1 = Life::Ready;
                let endpoint = Endpoint::Unix(Arc::new(PathBuf::from("/nowhere")));
                self.tell(Event::Ready { worker, endpoint });
            }
            (Life::Killed, _) | (Life::Ready, 0) => self.reap(worker),
            (Life::Ready, 1) => {
                self.tell(Event::ProbeFailed {
                    worker,
                    strike: 3,
                    of: 3,
                    what: "silence".to_owned(),
                });
                self.count("unwell");
            }
            (Life::Ready, _) => {}
        }
    }

    fn reap(&mut self, worker: WorkerId) {
        self.trees.borrow_mut().alive.remove(&worker);
        let death = Death {
            pids: vec![],
            processes: 1,
            memory: 0,
            took: Duration::ZERO,
            survivors: 0,
            exit: Exit::Signal(9),
        };
        self.tell(Event::Gone { worker, death });
    }

    fn tell(&self, event: Event) {
        self.say(|| format!("{event:?}"));
        self.events.try_send(event).expect("room for every report");
    }

    fn stop_a_session(&mut self) {
        let id = SessionId::parse(format!("s{}", self.random.below(7)).as_bytes()).unwrap();
        self.say(|| format!("stop {id}"));
        let handle = self.handle.clone();
        // Resolves with the reaping, which is later steps' business.
        drop(tokio::task::spawn_local(
            async move { handle.stop(id, None).await },
        ));
    }

    /// Takes the answers that have arrived.
    async fn collect(&mut self) {
        let (done, asking) = std::mem::take(&mut self.asking)
            .into_iter()
            .partition(|(_, asking)| asking.is_finished());
        self.asking = asking;
        for (id, asking) in done {
            match asking.await.expect("nobody aborted it") {
                Ok((holder, attached)) => self.granted(&id, holder, attached),
                Err(refused) => {
                    self.count("refused");
                    if let Refusal::StartFailed(StartFailure {
                        kind: StartFailureKind::TooLarge { .. },
                        ..
                    }) = refused.refusal
                    {
                        self.count("would never fit");
                    }
                    if refused.refusal == Refusal::UnknownWorker {
                        self.count("of a kind that was removed");
                    }
                }
            }
        }
    }

    fn granted(&mut self, id: &SessionId, holder: HolderKind, attached: Attached) {
        let session = Arc::clone(attached.session());
        assert_eq!(session.name.id, *id, "granted somebody else's session");
        let gone = self.trees.borrow().forgotten.contains(&session.worker);
        assert!(
            !gone || session.is_closed(),
            "{id} was granted on {}, which is gone",
            session.worker
        );
        let before = self.served.insert(session.worker, session.name.clone());
        let made = Arc::clone(&self.trees.borrow().made[&session.worker]);
        assert!(
            made.has_the_workers_of(&session.kind),
            "{id} is served by a worker of another configuration"
        );
        let once = session.kind.reuse == Reuse::Never;
        assert!(
            !once || before.is_none_or(|before| before == session.name),
            "{} serves two sessions",
            session.worker
        );
        let rival = self
            .known
            .values()
            .find(|other| other.name.id == *id && other.name != session.name && !other.is_closed());
        assert!(
            rival.is_none() || session.is_closed(),
            "{id} is bound to two workers"
        );
        self.say(|| {
            format!(
                "{holder:?} of {:?} ({}) is granted",
                session.name, session.kind.name
            )
        });
        self.count("granted");
        self.known.insert(session.name.clone(), Arc::clone(&session));
        if !session.is_closed() {
            self.cache.sessions.insert(id.clone(), session);
        }
        self.held(holder, attached.hold);
    }

    /// What a data-plane thread does with endings.
    fn listen(&mut self) {
        while let Ok(name) = self.cache.endings.try_recv() {
            if let Some(session) = self.known.get(&name) {
                assert!(session.is_closed(), "{name:?} was announced before it was closed");
                let reason = session.ended().expect("an ending without a reason");
                self.count(reason.code());
            }
            if self.cache.sessions.get(&name.id).is_some_and(|s| s.name == name) {
                self.cache.sessions.remove(&name.id);
            }
        }
    }

    /// Lets the driver run until it has nothing to do; then nothing may be left undone.
    async fn settle(&mut self) {
        self.say(|| "settles".to_owned());
        for _ in 0..2 {
            for _ in 0..40 {
                yield_now().await;
            }
            advance(GRACE).await;
        }
        for _ in 0..40 {
            yield_now().await;
        }
        self.collect().await;
        self.listen();
        for session in self.cache.sessions.values() {
            assert!(!session.is_closed(), "the cache keeps {:?}", session.name);
        }
        for name in &self.streamed {
            let held = self.holds.iter().any(|(_, hold)| hold.session().name == *name);
            let session = &self.known[name];
            if !held && !session.is_closed() {
                let view = self.handle.show(name.id.clone()).await;
                self.say(|| format!("{view:#?}"));
            }
            assert!(
                held || session.is_closed(),
                "{name:?} lives although its last stream has left: the owner has not looked"
            );
            assert_eq!(session.is_closed(), session.ended().is_some(), "{name:?}");
        }
        self.nobody_waits_in_vain().await;
        self.count("settled");
    }

    /// Whoever waits lacks something; and who lacks memory is not kept waiting by what those had who are gone.
    async fn nobody_waits_in_vain(&mut self) {
        let Ok(pools) = self.handle.pools().await else {
            return;
        };
        for pool in pools.kinds.iter().filter(|pool| pool.queued > 0) {
            let lack = pool.waits_for;
            assert!(
                lack.is_some() || pool.backoff.is_some(),
                "somebody waits for nothing: {pool:?}"
            );
            if lack != Some(Lack::Memory) {
                continue;
            }
            self.count("waited for memory");
            let need = self.needs[&pool.kind].expect("only those with a limit wait for memory");
            let trees = self.trees.borrow();
            let (left, reserve) = (trees.left(), trees.host.admission.reserve);
            assert!(
                left < need + reserve,
                "{left} are left, of which {reserve} are for none, and {need} are waited for"
            );
            assert!(
                need + reserve <= TOTAL,
                "what would never fit is waited for: {pool:?}"
            );
        }
    }
}

async fn run(seed: u64, trace: bool) -> BTreeMap<String, usize> {
    let config = Arc::new(herd::config::parse(&first_file(), "herd.yaml").expect("a valid file"));
    let trees = Rc::new(RefCell::new(Trees::of(config.admission)));
    let needs = config.kinds.iter().map(|kind| (kind.name.clone(), need(kind)));
    let needs = needs.collect();
    let (mut driver, handle) = Driver::new(Arc::clone(&config), Pretended(Rc::clone(&trees)));
    let (events, reports) = mpsc::channel(1024);
    let (signals, shutdown) = mpsc::channel(2);
    let driver = tokio::task::spawn_local(async move { driver.run(reports, shutdown).await });
    let mut world = World {
        random: Random::seeded(seed),
        trace,
        config,
        cache: Cache {
            endings: handle.endings(),
            sessions: BTreeMap::new(),
        },
        handle,
        trees,
        events,
        asking: Vec::new(),
        holds: Vec::new(),
        known: BTreeMap::new(),
        streamed: BTreeSet::new(),
        served: HashMap::new(),
        generation: 1,
        needs,
        draining: false,
        seen: BTreeMap::new(),
    };
    for _ in 0..STEPS {
        world.step().await;
    }
    world.say(|| "drain".to_owned());
    world.draining = true;
    signals.send(Shutdown::Drain).await.expect("the driver listens");
    for _ in 0..20 {
        world.step().await;
    }
    advance(world.config.drain_timeout).await;
    // Whoever is told to die dies, until none is left.
    for _ in 0..200 {
        yield_now().await;
        let dying: Vec<WorkerId> = world.trees.borrow().alive.keys().copied().collect();
        for worker in dying {
            if world.trees.borrow().alive[&worker].1 == Life::Killed {
                world.reap(worker);
            }
        }
        world.collect().await;
        world.listen();
    }
    assert!(driver.is_finished(), "the drain has not ended the driver");
    driver.await.expect("the driver does not panic");
    assert!(
        world.trees.borrow().alive.is_empty(),
        "drained, and workers are left"
    );
    assert!(
        world.asking.is_empty(),
        "{} requests were never answered",
        world.asking.len()
    );
    for session in world.known.values() {
        assert!(session.ended().is_some(), "{:?} outlived the drain", session.name);
    }
    world.seen
}

fn simulate(seed: u64, trace: bool) -> BTreeMap<String, usize> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // Timers are looked at after every poll, so that a deadline is served as soon as its time has come.
        .event_interval(1)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, run(seed, trace))
}

#[test]
fn the_driver_keeps_its_promises_under_every_seed() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|v| v.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("HERD_SIM_SEED") {
        println!("{:?}", simulate(seed, true));
        return;
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..number("HERD_SIM_SEEDS").unwrap_or(200) {
        let Ok(counts) = std::panic::catch_unwind(|| simulate(seed, false)) else {
            panic!(
                "seed {seed} failed; replay it: HERD_SIM_SEED={seed} cargo test --test driver_simulation -- --nocapture"
            );
        };
        counts
            .into_iter()
            .for_each(|(what, n)| *seen.entry(what).or_default() += n);
    }
    println!("{seen:#?}");
    for what in [
        "granted",
        "refused",
        "left the queue",
        "held without asking",
        "failed starts",
        "settled",
        "stopped",
        "disconnected",
        "ttl",
        "crashed",
        "drained",
        "max_lifetime",
        "reloaded",
        "of a kind that was removed",
        "waited for memory",
        "would never fit",
    ] {
        assert!(
            seen.contains_key(what),
            "no seed ever saw {what:?}: nothing is tested there"
        );
    }
}
