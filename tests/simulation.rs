//! A seeded simulation of the session core: random clients, workers and faults against a small model that
//! checks the invariants after every step.
//!
//! `HERD_SIM_SEEDS=N` runs N seeds (default 500); `HERD_SIM_SEED=S` replays one and prints every step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use herd::core::{
    Afterwards, Change, ConfigGeneration, Core, EndReason, Exit, HolderKind, Holders, KindChoice, KindId,
    Lack, Memory, Moment, OnCrash, OnDisconnect, Origin, Output, Release, Remains, Request, Reuse, Rules,
    SessionId, SessionRef, Stage, StartFailure, StartFailureKind, StartedFor, StopOutcome, TicketId, Unwell,
    Wait, WorkerId,
};

const STEPS: usize = 400;
const HOLDERS: [HolderKind; 4] = [
    HolderKind::Request,
    HolderKind::Stream,
    HolderKind::Connection,
    HolderKind::Hold,
];

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }

    fn session_id(&mut self) -> SessionId {
        SessionId::parse(format!("s{}", self.below(12)).as_bytes()).unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Starting,
    Ready,
    Terminated,
    Killed,
}

struct ModelWorker {
    kind: KindId,
    /// Under which configuration it was started.
    config: u64,
    life: Life,
    session: Option<SessionRef>,
    started_for: Option<SessionId>,
    bindings: usize,
}

/// What reloads have made of a kind.
#[derive(Clone)]
struct ModelKind {
    present: bool,
    /// Workers of an earlier configuration serve nobody new.
    current_since: u64,
    /// Workers there may be: `max`, or as many as there were when it was lowered below that.
    most: usize,
    /// The same of waiting sessions.
    most_waiting: usize,
}

impl ModelKind {
    fn new(current_since: u64) -> Self {
        Self {
            present: true,
            current_since,
            most: 0,
            most_waiting: 0,
        }
    }
}

struct Held {
    session: SessionRef,
    holders: Arc<Holders>,
    holder: HolderKind,
}

struct World {
    random: Random,
    trace: bool,
    now: Moment,
    core: Core,
    rules: Vec<Rules>,
    kinds: Vec<ModelKind>,
    config: u64,
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

fn secs(n: usize) -> Duration {
    Duration::from_secs(n as u64)
}

const SORTS: [(StartedFor, Reuse); 3] = [
    (StartedFor::Anyone, Reuse::Never),
    (StartedFor::Anyone, Reuse::AfterSession),
    (StartedFor::OneSession, Reuse::Never),
];

fn rules(random: &mut Random) -> Vec<Rules> {
    SORTS
        .into_iter()
        .map(|(started_for, reuse)| rules_of(random, started_for, reuse))
        .collect()
}

fn any_rules(random: &mut Random) -> Rules {
    let (started_for, reuse) = SORTS[random.below(SORTS.len())];
    rules_of(random, started_for, reuse)
}

fn rules_of(random: &mut Random, started_for: StartedFor, reuse: Reuse) -> Rules {
    let max = 1 + random.below(5);
    Rules {
        min: if started_for == StartedFor::OneSession {
            0
        } else {
            random.below(max + 1)
        },
        max,
        max_starting: random.chance(40).then(|| 1 + random.below(3)),
        memory: random.chance(60).then(|| 1 + random.below(5) as u64),
        started_for,
        ttl: random.chance(80).then(|| secs(5 + random.below(60))),
        max_lifetime: random.chance(30).then(|| secs(30 + random.below(100))),
        stop_timeout: secs(5),
        disconnect_grace: if random.chance(50) {
            Duration::ZERO
        } else {
            secs(random.below(10))
        },
        on_disconnect: if random.chance(70) {
            OnDisconnect::Kill
        } else {
            OnDisconnect::Ttl
        },
        on_crash: if random.chance(50) {
            OnCrash::Lost
        } else {
            OnCrash::Respawn
        },
        reuse,
        queue_max: random.below(6),
        queue_timeout: secs(1 + random.below(30)),
        lost_for: secs(60),
    }
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random(seed);
        let rules = rules(&mut random);
        let mut core = Core::new(rules.clone());
        core.start(Moment::default());
        let mut world = Self {
            random,
            trace,
            now: Moment::default(),
            core,
            kinds: vec![ModelKind::new(0); rules.len()],
            config: 1,
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
        match self.random.below(100) {
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
            _ => self.time_passes(),
        }
        self.settle();
    }

    fn client_comes(&mut self) {
        let kind = KindId(self.random.below(self.rules.len()));
        let holder = HOLDERS[self.random.below(HOLDERS.len())];
        let request = Request {
            id: self.random.session_id(),
            kind: if self.random.chance(50) {
                KindChoice::Named(kind)
            } else {
                KindChoice::Fallback(kind)
            },
            holder,
            wait: if self.random.chance(85) {
                Wait::Queue
            } else {
                Wait::Refuse
            },
            remains: if self.random.chance(80) {
                Remains::Respect
            } else {
                Remains::Discard
            },
        };
        self.last_ticket += 1;
        let ticket = TicketId(self.last_ticket);
        self.say(|| format!("{ticket} asks: {request:?}"));
        self.waiting.insert(ticket, request.id.clone());
        self.holder_of.insert(ticket, holder);
        self.core.attach(ticket, request, self.now);
    }

    fn client_leaves_the_queue(&mut self) {
        let waiting: Vec<TicketId> = self.waiting.keys().copied().collect();
        if let Some(ticket) = self.random.pick(&waiting) {
            self.say(|| format!("{ticket} leaves"));
            self.waiting.remove(&ticket);
            self.answered.insert(ticket);
            self.core.abandon(ticket, self.now);
            self.count("left the queue");
        }
    }

    fn holder_leaves(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len());
        let held = self.held.swap_remove(index);
        self.say(|| format!("{:?} of {:?} leaves", held.holder, held.session));
        if held.holders.release(held.holder, self.now) != Release::Quiet {
            self.notices.push(held.session);
            if self.random.chance(70) {
                self.deliver_notices();
            }
        }
    }

    /// The data plane's fast path: an established session is held without visiting the owner.
    fn holder_comes_without_asking(&mut self) {
        let sessions: Vec<SessionRef> = self.bound.keys().cloned().collect();
        let Some(session) = self.random.pick(&sessions) else {
            return;
        };
        let holders = Arc::clone(&self.bound[&session].1);
        let holder = HOLDERS[self.random.below(HOLDERS.len())];
        if holders.acquire(holder) {
            self.held.push(Held {
                session,
                holders,
                holder,
            });
        }
    }

    fn deliver_notices(&mut self) {
        for session in std::mem::take(&mut self.notices) {
            self.core.attention(&session, self.now);
        }
    }

    fn worker_progresses(&mut self) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        let Some(worker) = self.random.pick(&workers) else {
            return;
        };
        match self.workers[&worker].life {
            Life::Starting if self.random.chance(80) => {
                self.say(|| format!("{worker} ready"));
                if let Some(model) = self.workers.get_mut(&worker) {
                    model.life = Life::Ready;
                }
                self.core.worker_ready(worker, self.now);
            }
            Life::Starting if self.random.chance(50) => {
                self.say(|| format!("{worker} fails to start"));
                let kind = StartFailureKind::Timeout {
                    after: secs(1),
                    last: "refused".into(),
                };
                self.core.worker_failed(
                    worker,
                    StartFailure {
                        kind,
                        log_tail: Vec::new(),
                    },
                    self.now,
                );
                self.count("failed starts");
            }
            Life::Killed => self.gone(worker),
            Life::Terminated if self.random.chance(30) => self.gone(worker),
            _ => {}
        }
    }

    /// At any time, in any state, asked or not.
    fn worker_dies(&mut self) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        if let Some(worker) = self.random.pick(&workers) {
            self.gone(worker);
        }
    }

    /// What others use, and whether anybody asks.
    fn memory_changes(&mut self) {
        let total = 4 + self.random.below(30) as u64;
        let left = self.random.below(total as usize + 1) as u64;
        let memory = self.random.chance(70).then_some(Memory { left, total });
        self.say(|| format!("{memory:?}"));
        self.memory = memory;
        self.core.weigh(memory);
    }

    /// Also of workers that nobody would ask: such a report touches nothing.
    fn probes_fail(&mut self) {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        let Some(worker) = self.random.pick(&workers) else {
            return;
        };
        self.say(|| format!("{worker} is unwell"));
        let was_up = self.core.is_up(worker);
        let unwell = Unwell {
            failures: 3,
            last: String::new(),
        };
        self.core.worker_unwell(worker, unwell, self.now);
        self.settle();
        if was_up {
            let life = self.workers[&worker].life;
            assert_eq!(life, Life::Killed, "{worker} is unwell and goes on");
        }
    }

    fn gone(&mut self, worker: WorkerId) {
        self.say(|| format!("{worker} gone"));
        self.workers.remove(&worker);
        self.core.worker_gone(worker, Exit::Code(1), self.now);
    }

    fn somebody_stops_a_session(&mut self) {
        let id = self.random.session_id();
        self.say(|| format!("stop {id}"));
        let stage = self.core.session(&id).map(|s| s.stage);
        let outcome = self.core.stop(&id, self.now);
        let fits = matches!(
            (&stage, &outcome),
            (None, StopOutcome::Unknown)
                | (Some(Stage::Queued | Stage::Starting), StopOutcome::NeverStarted)
                | (Some(Stage::Bound { .. }), StopOutcome::Ending { .. })
                | (Some(Stage::Lost { .. }), StopOutcome::Forgotten)
        );
        assert!(fits, "stopping a session in {stage:?} answered {outcome:?}");
    }

    /// Late and repeated reports must touch nothing.
    fn stale_input(&mut self) {
        let worker = WorkerId(self.random.below(40) as u64);
        if !self.workers.contains_key(&worker) {
            self.core.worker_ready(worker, self.now);
            self.core.worker_gone(worker, Exit::Code(0), self.now);
        }
        let ended = std::mem::take(&mut self.ended);
        if let Some(session) = self.random.pick(&ended) {
            self.core.attention(&session, self.now);
        }
        self.ended = ended;
        self.core.abandon(TicketId(u64::MAX), self.now);
        self.core.advance(self.now);
    }

    /// Kinds stay, are renewed, go, come back and are added.
    fn configuration_changes(&mut self) {
        let mut changes = Vec::new();
        let mut next = (self.rules.clone(), self.kinds.clone());
        let config = self.config + 1;
        for (index, known) in self.kinds.clone().into_iter().enumerate() {
            let old = self.rules[index].clone();
            let (rules, change) = match (known.present, self.random.below(100)) {
                (true, 0..45) => {
                    let rules = rules_of(&mut self.random, old.started_for, old.reuse);
                    (Some(rules.clone()), Change::Kept(rules))
                }
                (true, 45..80) | (false, 0..40) => {
                    let rules = any_rules(&mut self.random);
                    next.1[index].current_since = config;
                    next.1[index].present = true;
                    (Some(rules.clone()), Change::Renewed(rules))
                }
                // One kind always stays.
                (true, _) if index > 0 => {
                    next.1[index].present = false;
                    next.1[index].current_since = config;
                    next.0[index].min = 0;
                    (None, Change::Removed)
                }
                (true, _) => (None, Change::Kept(old)),
                (false, _) => (None, Change::Removed),
            };
            if let Some(rules) = rules {
                next.0[index] = rules;
            }
            changes.push(change);
        }
        if self.kinds.len() < 5 && self.random.chance(20) {
            let rules = any_rules(&mut self.random);
            next.0.push(rules.clone());
            next.1.push(ModelKind::new(config));
            changes.push(Change::Renewed(rules));
        }
        self.reload(changes, next);
        self.count("reloads");
    }

    /// That alone ends nothing and nobody.
    fn max_changes(&mut self) {
        let mut rules = self.rules.clone();
        for rules in &mut rules {
            rules.max = rules.min.max(1) + self.random.below(5);
            rules.max_starting = self.random.chance(40).then(|| 1 + self.random.below(3));
        }
        let changes = rules
            .iter()
            .zip(&self.kinds)
            .map(|(rules, kind)| match kind.present {
                true => Change::Kept(rules.clone()),
                false => Change::Removed,
            });
        let changes = changes.collect();
        // What has been due for some time is not the reload's doing.
        self.core.advance(self.now);
        self.deliver_notices();
        self.settle();
        let before = self.harm;
        self.reload(changes, (rules, self.kinds.clone()));
        self.settle();
        assert_eq!(self.harm, before, "another max has ended something");
        self.count("other max");
    }

    fn reload(&mut self, changes: Vec<Change>, next: (Vec<Rules>, Vec<ModelKind>)) {
        self.say(|| format!("reload: {changes:?}"));
        let before: Vec<SessionRef> = self.bound.keys().cloned().collect();
        self.core.reload(changes, self.now);
        if self.draining {
            assert_eq!(self.core.config_generation(), ConfigGeneration(self.config));
            return;
        }
        self.config += 1;
        assert_eq!(self.core.config_generation(), ConfigGeneration(self.config));
        (self.rules, self.kinds) = next;
        for session in before {
            if let Some(seen) = self.core.session(&session.id)
                && seen.session == session
            {
                assert!(
                    matches!(seen.stage, Stage::Bound { .. }),
                    "{session:?} was unbound by a reload"
                );
            }
        }
    }

    fn time_passes(&mut self) {
        match self.core.next_deadline() {
            Some(at) if self.random.chance(60) => self.now = self.now.max(at),
            _ => self.now = self.now + Duration::from_millis(self.random.below(5000) as u64),
        }
        self.core.advance(self.now);
        if let Some(at) = self.core.next_deadline() {
            assert!(
                at > self.now,
                "a deadline in the past stays armed: {at:?} at {:?}",
                self.now
            );
        }
    }

    /// Carries the outputs out, then checks everything.
    fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.say(|| format!("    {output:?}"));
            self.carry_out(output);
        }
        self.check();
    }

    fn answer(&mut self, ticket: TicketId) -> SessionId {
        assert!(
            self.answered.insert(ticket),
            "{ticket} was answered twice, or after it left"
        );
        self.waiting
            .remove(&ticket)
            .unwrap_or_else(|| panic!("{ticket} was never asked"))
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Start {
                worker,
                kind,
                session,
            } => {
                let one_session = self.rules[kind.0].started_for == StartedFor::OneSession;
                assert_eq!(session.is_some(), one_session);
                assert!(!self.draining, "a worker was started while draining");
                assert!(
                    self.kinds[kind.0].present,
                    "a worker of {kind} was started, which was removed"
                );
                let life = Life::Starting;
                let model = ModelWorker {
                    kind,
                    config: self.config,
                    life,
                    session: None,
                    started_for: session,
                    bindings: 0,
                };
                let start = |w: &&ModelWorker| w.kind == kind && w.life == Life::Starting;
                let starting = 1 + self.workers.values().filter(start).count();
                if let Some(most) = self.rules[kind.0].max_starting {
                    assert!(
                        starting <= most,
                        "{starting} of {kind} start at a time, not {most}"
                    );
                }
                if let (Some(memory), Some(need)) = (&mut self.memory, self.rules[kind.0].memory) {
                    assert!(need <= memory.left, "{need} was promised of {memory:?}");
                    memory.left -= need;
                }
                assert!(
                    self.workers.insert(worker, model).is_none(),
                    "worker id {worker} was used twice"
                );
                self.count("starts");
            }
            Output::Terminate { worker } => {
                let model = self
                    .workers
                    .get_mut(&worker)
                    .expect("a worker that is gone was terminated");
                assert!(
                    matches!(model.life, Life::Starting | Life::Ready),
                    "terminated twice"
                );
                model.life = Life::Terminated;
                self.harm += 1;
            }
            Output::Kill { worker } => {
                let model = self
                    .workers
                    .get_mut(&worker)
                    .expect("a worker that is gone was killed");
                assert_ne!(model.life, Life::Killed, "killed twice");
                model.life = Life::Killed;
                self.harm += 1;
            }
            Output::Bound {
                session,
                kind,
                worker,
                holders,
            } => {
                self.bind(session, kind, worker, holders);
            }
            Output::Grant {
                ticket,
                session,
                origin,
                ..
            } => {
                assert_eq!(self.answer(ticket), session.id);
                let (_, holders) = self
                    .bound
                    .get(&session)
                    .expect("granted a session that is not bound");
                let holders = Arc::clone(holders);
                self.count(if origin == Origin::Created {
                    "created"
                } else {
                    "reused"
                });
                let worker = self.bound[&session].0;
                let kind = self
                    .workers
                    .get(&worker)
                    .map(|w| (w.config, self.kinds[w.kind.0].current_since));
                if kind.is_some_and(|(config, since)| config < since) {
                    self.count("served across a reload");
                }
                let holder = self.holder_of[&ticket];
                self.held.push(Held {
                    session,
                    holders,
                    holder,
                });
            }
            Output::Refuse { ticket, .. } => {
                self.answer(ticket);
                self.count("refused");
            }
            Output::Ended {
                session,
                kind,
                worker,
                reason,
                afterwards,
            } => {
                if let (Afterwards::Recycled, Some(worker)) = (afterwards, worker) {
                    assert_eq!(self.rules[kind.0].reuse, Reuse::AfterSession);
                    assert!(
                        self.workers[&worker].config >= self.kinds[kind.0].current_since,
                        "{worker} of an old configuration is used again"
                    );
                }
                self.harm += 1;
                self.unbind(session, worker, reason);
            }
            Output::Drained => self.drained += 1,
        }
    }

    fn bind(&mut self, session: SessionRef, kind: KindId, worker: WorkerId, holders: Arc<Holders>) {
        let model = self
            .workers
            .get_mut(&worker)
            .expect("bound to a worker that is gone");
        assert_eq!(model.life, Life::Ready, "bound to a worker that cannot serve");
        assert_eq!(model.kind, kind);
        assert_eq!(model.session, None, "{worker} serves two sessions");
        assert!(
            model.config >= self.kinds[kind.0].current_since,
            "{worker} of an old configuration serves a new session"
        );
        assert!(
            self.kinds[kind.0].present,
            "a session of a kind that was removed begins"
        );
        model.bindings += 1;
        let reused = self.rules[kind.0].reuse == Reuse::AfterSession;
        assert!(
            model.bindings == 1 || reused,
            "{worker} serves a second session without `reuse`"
        );
        if let Some(id) = &model.started_for {
            assert_eq!(*id, session.id, "{worker} was started for another session");
        }
        model.session = Some(session.clone());
        let holder = self
            .held
            .iter()
            .find(|held| self.served_by.get(&held.session) == Some(&worker));
        assert!(
            holder.is_none(),
            "{worker} serves anew while its old session is still held"
        );
        let twice = self.bound.keys().any(|s| s.id == session.id);
        assert!(!twice, "{} is bound to two workers", session.id);
        self.served_by.insert(session.clone(), worker);
        self.bound.insert(session, (worker, holders));
        self.count("bound");
    }

    fn unbind(&mut self, session: SessionRef, worker: Option<WorkerId>, reason: EndReason) {
        let (bound_to, holders) = self
            .bound
            .remove(&session)
            .expect("ended without having been bound");
        assert_eq!(worker, Some(bound_to));
        assert!(holders.snapshot().closed, "an ended session can still be held");
        assert!(
            !holders.snapshot().left || reason == EndReason::Disconnected,
            "its last holder left, and it ended otherwise: {reason}"
        );
        if let Some(model) = self.workers.get_mut(&bound_to) {
            model.session = None;
        }
        if reason == EndReason::Ttl {
            let held = self.held.iter().any(|h| h.session == session);
            assert!(!held, "evicted for idleness while held");
        }
        self.count(match reason {
            EndReason::Stopped => "stopped",
            EndReason::Disconnected => "disconnected",
            EndReason::Ttl => "ttl",
            EndReason::MaxLifetime => "max_lifetime",
            EndReason::Crashed(_) => "crashed",
            EndReason::ProbeFailed(_) => "probe_failed",
            EndReason::Drained => "drained",
            EndReason::Revoked => unreachable!("there are no principals here"),
        });
        self.ended.push(session);
    }

    fn check(&mut self) {
        for index in 0..self.rules.len() {
            match self.core.counts(KindId(index), self.now).waits_for {
                Some(Lack::Starts) => self.count("waited for a start"),
                Some(Lack::Memory) => self.count("waited for memory"),
                Some(Lack::Slots) | None => {}
            }
        }
        for (index, rules) in self.rules.iter().enumerate() {
            let kind = KindId(index);
            let counts = self.core.counts(kind, self.now);
            let occupied = counts.starting + counts.warm + counts.bound + counts.dying;
            let model = &mut self.kinds[index];
            assert!(
                occupied <= model.most.max(rules.max),
                "{kind}: {counts:?} exceeds max {}",
                rules.max
            );
            // A start that was begun under a higher `max` covers who waits for it.
            let covered = model.most.max(rules.max);
            model.most = occupied;
            let alive = self.workers.values().filter(|w| w.kind == kind).count();
            assert_eq!(occupied, alive, "{kind}: {counts:?} but {alive} workers live");
            let bound = self
                .bound
                .values()
                .filter(|(w, _)| self.workers[w].kind == kind)
                .count();
            assert!(
                counts.bound >= bound,
                "{kind}: {counts:?} but {bound} sessions are bound"
            );
            let limit = (rules.queue_max + covered).max(model.most_waiting);
            model.most_waiting = counts.queued;
            if !model.present {
                let none = (counts.starting, counts.warm, counts.queued);
                assert_eq!(none, (0, 0, 0), "{kind} was removed: {counts:?}");
            }
            let since = model.current_since;
            let outdated = |w: &&ModelWorker| w.kind == kind && w.config < since;
            let outdated = self.workers.values().filter(outdated).count();
            assert_eq!(counts.outdated, outdated, "{kind}: {counts:?}");
            assert!(
                counts.queued <= limit,
                "{kind}: {} wait, over the limit {limit}",
                counts.queued
            );
            if counts.queued > 0 {
                assert_eq!(counts.warm, 0, "{kind}: a warm worker idles while sessions wait");
            }
            if rules.reuse == Reuse::Never && !self.draining {
                assert!(
                    counts.warm <= rules.min,
                    "{kind}: {counts:?} keeps more warm than {}",
                    rules.min
                );
            }
        }
        for (session, (worker, holders)) in &self.bound {
            let serving = self.workers.get(worker).and_then(|w| w.session.as_ref());
            assert_eq!(serving, Some(session), "{session:?} and {worker} disagree");
            let held = self.held.iter().filter(|h| h.session == *session).count();
            assert_eq!(
                holders.snapshot().holders as usize,
                held,
                "holders of {session:?}"
            );
            let seen = holders.snapshot();
            assert!(
                !seen.closed || seen.left && self.notices.contains(session),
                "{session:?} is closed but was not ended"
            );
        }
        let live: HashSet<SessionId> = self.core.sessions().map(|s| s.session.id).collect();
        for (ticket, id) in &self.waiting {
            assert!(live.contains(id), "{ticket} waits for {id}, which does not exist");
        }
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
