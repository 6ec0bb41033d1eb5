//! The rules one by one; `tests/simulation/` checks that they hold together.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::pool::{BREATH, WAITED_FOR};

mod endings;
mod places;
mod quotas;
mod reload;
mod starts;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn rules() -> Rules {
    Rules {
        min: 0,
        max: 2,
        max_starting: None,
        memory: None,
        started_for: StartedFor::Anyone,
        ttl: Some(secs(60)),
        max_lifetime: None,
        stop_timeout: secs(5),
        disconnect_grace: Duration::ZERO,
        on_disconnect: OnDisconnect::Kill,
        on_crash: OnCrash::Lost,
        reuse: Reuse::Never,
        queue_max: 2,
        queue_timeout: secs(30),
        lost_for: secs(600),
    }
}

/// A core with one kind, and what it has asked for since the last look.
struct Bench {
    core: Core,
    now: Moment,
    tickets: u64,
    outputs: Vec<Output>,
    holders: Vec<(SessionRef, Arc<Holders>)>,
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let mut core = Core::new(vec![rules]);
        core.start(Moment::default());
        let mut bench = Self {
            core,
            now: Moment::default(),
            tickets: 0,
            outputs: Vec::new(),
            holders: Vec::new(),
        };
        bench.collect();
        bench
    }

    fn collect(&mut self) {
        while let Some(output) = self.core.poll_output() {
            if let Output::Bound { session, holders, .. } = &output {
                self.holders.push((session.clone(), Arc::clone(holders)));
            }
            self.outputs.push(output);
        }
    }

    fn take(&mut self) -> Vec<Output> {
        self.collect();
        std::mem::take(&mut self.outputs)
    }

    fn request(id: &str, holder: HolderKind) -> Request {
        Request {
            id: SessionId::parse(id.as_bytes()).unwrap(),
            kind: KindChoice::Fallback(KindId(0)),
            holder,
            wait: Wait::Queue,
            remains: Remains::Respect,
        }
    }

    fn ask(&mut self, id: &str, holder: HolderKind) -> TicketId {
        self.ask_for(Self::request(id, holder))
    }

    fn ask_for(&mut self, request: Request) -> TicketId {
        self.tickets += 1;
        self.core.attach(TicketId(self.tickets), request, self.now);
        self.collect();
        TicketId(self.tickets)
    }

    fn ready(&mut self, worker: u64) {
        self.core.worker_ready(WorkerId(worker), self.now);
        self.collect();
    }

    fn gone(&mut self, worker: u64) {
        self.core.worker_gone(WorkerId(worker), Exit::Code(1), self.now);
        self.collect();
    }

    fn fail(&mut self, worker: u64) {
        self.fail_for(worker, StartFailureKind::Exited(Exit::Code(3)));
    }

    fn fail_for(&mut self, worker: u64, kind: StartFailureKind) {
        self.core.worker_failed(
            WorkerId(worker),
            StartFailure {
                kind,
                log_tail: vec!["boom".into()],
            },
            self.now,
        );
        self.collect();
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.core.advance(self.now);
        self.collect();
    }

    /// A bound session whose one holder is of the given kind.
    fn bound(rules: Rules, holder: HolderKind) -> Self {
        let mut bench = Self::new(rules);
        bench.ask("a", holder);
        let started = bench.take().iter().any(|o| matches!(o, Output::Start { .. }));
        if started {
            bench.ready(1);
        }
        bench.take();
        bench
    }

    fn holders(&self) -> Arc<Holders> {
        Arc::clone(&self.holders.last().unwrap().1)
    }

    fn release(&mut self, holder: HolderKind) -> Release {
        let release = self.holders().release(holder, self.now);
        if release != Release::Quiet {
            let session = self.holders.last().unwrap().0.clone();
            self.core.attention(&session, self.now);
            self.collect();
        }
        release
    }
}

/// What happened to a ticket, if anything.
fn answer(outputs: &[Output], ticket: TicketId) -> Option<Result<Origin, Refusal>> {
    outputs.iter().find_map(|output| match output {
        Output::Grant {
            ticket: t, origin, ..
        } if *t == ticket => Some(Ok(*origin)),
        Output::Refuse {
            ticket: t, refusal, ..
        } if *t == ticket => Some(Err(refusal.clone())),
        _ => None,
    })
}

fn starts(outputs: &[Output]) -> usize {
    outputs
        .iter()
        .filter(|o| matches!(o, Output::Start { .. }))
        .count()
}

fn killed(outputs: &[Output]) -> Vec<u64> {
    let killed = |o: &Output| match o {
        Output::Kill { worker } => Some(worker.0),
        _ => None,
    };
    outputs.iter().filter_map(killed).collect()
}

fn endings(outputs: &[Output]) -> Vec<&'static str> {
    let ended = |o: &Output| match o {
        Output::Ended { reason, .. } => Some(reason.code()),
        _ => None,
    };
    outputs.iter().filter_map(ended).collect()
}

#[test]
fn five_hundred_requests_for_one_new_id_make_one_start_and_one_created() {
    let mut bench = Bench::new(rules());
    for _ in 0..500 {
        bench.ask("a", HolderKind::Request);
    }
    assert_eq!(starts(&bench.take()), 1);
    bench.ready(1);
    let outputs = bench.take();
    let created = |o: &&Output| {
        matches!(
            o,
            Output::Grant {
                origin: Origin::Created,
                ..
            }
        )
    };
    let reused = |o: &&Output| {
        matches!(
            o,
            Output::Grant {
                origin: Origin::Reused,
                ..
            }
        )
    };
    assert_eq!(outputs.iter().filter(created).count(), 1);
    assert_eq!(outputs.iter().filter(reused).count(), 499);
}

#[test]
fn a_worker_named_for_its_session_serves_no_other() {
    let mut bench = Bench::new(Rules {
        started_for: StartedFor::OneSession,
        ..rules()
    });
    let a = bench.ask("a", HolderKind::Request);
    let b = bench.ask("b", HolderKind::Request);
    bench.ready(2);
    let outputs = bench.take();
    assert_eq!(answer(&outputs, b), Some(Ok(Origin::Created)));
    assert_eq!(answer(&outputs, a), None);
}

#[test]
fn another_kind_is_a_mismatch_only_if_it_was_named() {
    let mut core = Core::new(vec![rules(), rules()]);
    let request = |kind| Request {
        kind,
        ..Bench::request("a", HolderKind::Request)
    };
    core.attach(
        TicketId(1),
        request(KindChoice::Named(KindId(1))),
        Moment::default(),
    );
    core.attach(
        TicketId(2),
        request(KindChoice::Fallback(KindId(0))),
        Moment::default(),
    );
    core.attach(
        TicketId(3),
        request(KindChoice::Named(KindId(0))),
        Moment::default(),
    );
    let mut outputs = Vec::new();
    while let Some(output) = core.poll_output() {
        outputs.push(output);
    }
    assert_eq!(answer(&outputs, TicketId(2)), None);
    let mismatch = Refusal::WorkerMismatch { bound_to: KindId(1) };
    assert_eq!(answer(&outputs, TicketId(3)), Some(Err(mismatch)));
}
