//! The rules one by one; `tests/simulation.rs` checks that they hold together.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::pool::{BREATH, WAITED_FOR};

mod quotas;
mod reload;

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
fn the_warm_stock_is_filled_at_start_and_refilled_when_the_claim_had_a_breath() {
    let mut bench = Bench::new(Rules {
        min: 2,
        max: 4,
        ..rules()
    });
    assert_eq!(starts(&bench.take()), 2);
    bench.ready(1);
    bench.ready(2);
    let ticket = bench.ask("a", HolderKind::Request);
    let outputs = bench.take();
    assert_eq!(answer(&outputs, ticket), Some(Ok(Origin::Created)));
    assert_eq!(starts(&outputs), 0);
    bench.pass(BREATH / 2);
    let _ = bench.ask("b", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 0);
    bench.pass(BREATH / 2);
    assert_eq!(starts(&bench.take()), 2, "the second claim does not put it off");
}

#[test]
fn who_waits_does_not_wait_for_a_refill() {
    let mut bench = Bench::new(Rules { min: 1, ..rules() });
    bench.ready(1);
    let _ = bench.ask("a", HolderKind::Request);
    bench.take();
    let _ = bench.ask("b", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1);
}

/// The data plane's word of a session that was left may come after anything else.
#[test]
fn a_session_that_was_left_ends_as_disconnected_whatever_is_told_of_it_first() {
    let left = |then: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::bound(rules(), HolderKind::Stream);
        let now = bench.now;
        assert_eq!(bench.holders().release(HolderKind::Stream, now), Release::Left);
        then(&mut bench);
        bench.take()
    };
    let killed_and_gone = left(&|bench| bench.gone(1));
    assert_eq!(endings(&killed_and_gone), ["disconnected"]);
    assert_eq!(killed(&killed_and_gone), Vec::<u64>::new());
    let stopped = left(&|bench| {
        let id = SessionId::parse(b"a").unwrap();
        let now = bench.now;
        assert!(matches!(bench.core.stop(&id, now), StopOutcome::Ending { .. }));
    });
    assert_eq!(
        (endings(&stopped), killed(&stopped)),
        (vec!["disconnected"], vec![1])
    );
    let asked_for = left(&|bench| {
        let _ = bench.ask("a", HolderKind::Request);
    });
    assert_eq!(endings(&asked_for), ["disconnected"]);
    assert_eq!((killed(&asked_for), starts(&asked_for)), (vec![1], 1));
}

#[test]
fn a_polite_end_can_be_hastened() {
    let mut bench = Bench::bound(
        Rules {
            ttl: Some(secs(1)),
            ..rules()
        },
        HolderKind::Request,
    );
    let _ = bench.release(HolderKind::Request);
    bench.pass(secs(2));
    assert_eq!(killed(&bench.take()), Vec::<u64>::new(), "it was asked to end");
    bench.core.hasten(WorkerId(1));
    bench.core.hasten(WorkerId(1));
    assert_eq!(killed(&bench.take()), [1]);
}

#[test]
fn a_freed_slot_goes_to_who_waits_longest_and_only_when_the_tree_is_gone() {
    let mut bench = Bench::bound(Rules { max: 1, ..rules() }, HolderKind::Stream);
    let first = bench.ask("b", HolderKind::Request);
    let second = bench.ask("c", HolderKind::Request);
    let _ = bench.release(HolderKind::Stream);
    let outputs = bench.take();
    assert_eq!((killed(&outputs), starts(&outputs)), (vec![1], 0));
    bench.gone(1);
    assert_eq!(starts(&bench.take()), 1);
    bench.ready(2);
    let outputs = bench.take();
    assert_eq!(answer(&outputs, first), Some(Ok(Origin::Created)));
    assert_eq!(answer(&outputs, second), None);
}

#[test]
fn a_full_queue_refuses_and_so_does_a_client_that_will_not_wait() {
    let mut bench = Bench::bound(
        Rules {
            max: 1,
            queue_max: 1,
            ..rules()
        },
        HolderKind::Stream,
    );
    let impatient = Request {
        wait: Wait::Refuse,
        ..Bench::request("b", HolderKind::Request)
    };
    let impatient = bench.ask_for(impatient);
    let waits = bench.ask("c", HolderKind::Request);
    let late = bench.ask("d", HolderKind::Request);
    let outputs = bench.take();
    assert!(matches!(
        answer(&outputs, impatient),
        Some(Err(Refusal::AtCapacity { .. }))
    ));
    assert!(matches!(
        answer(&outputs, late),
        Some(Err(Refusal::AtCapacity { .. }))
    ));
    assert_eq!(answer(&outputs, waits), None);
    // Somebody else for a waiting id shares its place.
    let shares = bench.ask("c", HolderKind::Request);
    assert_eq!(answer(&bench.take(), shares), None);
}

#[test]
fn a_client_that_leaves_frees_its_place_and_ends_the_start_made_for_it() {
    let mut bench = Bench::new(Rules { max: 1, ..rules() });
    let ticket = bench.ask("a", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1);
    bench.core.abandon(ticket, bench.now);
    assert_eq!(killed(&bench.take()), [1]);
    bench.ready(1);
    assert_eq!(endings(&bench.take()), [""; 0]);
    assert_eq!(bench.core.sessions().count(), 0);
}

#[test]
fn who_waits_too_long_for_a_slot_is_refused_but_a_start_may_take_longer() {
    let mut bench = Bench::new(Rules { max: 1, ..rules() });
    let starting = bench.ask("a", HolderKind::Request);
    let queued = bench.ask("b", HolderKind::Request);
    bench.pass(secs(30));
    let outputs = bench.take();
    assert_eq!(
        answer(&outputs, queued),
        Some(Err(Refusal::QueueTimeout {
            waited: secs(30),
            lack: Lack::Slots
        }))
    );
    assert_eq!(answer(&outputs, starting), None);
}

#[test]
fn a_failed_start_is_told_to_the_one_it_was_for_with_its_last_lines() {
    let mut bench = Bench::new(rules());
    let ticket = bench.ask("a", HolderKind::Request);
    bench.fail(1);
    let outputs = bench.take();
    let Some(Err(Refusal::StartFailed(failure))) = answer(&outputs, ticket) else {
        panic!("{outputs:?}")
    };
    assert_eq!(failure.log_tail, ["boom"]);
    assert_eq!(killed(&outputs), [1]);
}

#[test]
fn a_herd_that_is_short_of_something_is_not_taken_for_a_crash_loop() {
    let mut bench = Bench::new(Rules { max: 1, ..rules() });
    let short = StartFailureKind::Resource {
        message: "too many open files".to_owned(),
    };
    for worker in 1..=20 {
        let ticket = bench.ask("a", HolderKind::Request);
        bench.fail_for(worker, short.clone());
        bench.gone(worker);
        let told = answer(&bench.take(), ticket);
        assert!(
            matches!(&told, Some(Err(Refusal::StartFailed(failure))) if failure.kind == short),
            "{told:?}"
        );
    }
    let ticket = bench.ask("a", HolderKind::Request);
    bench.ready(21);
    assert!(matches!(answer(&bench.take(), ticket), Some(Ok(_))));
}

#[test]
fn the_warm_stock_waits_longer_and_longer_while_herd_is_short_of_something() {
    let mut bench = Bench::new(Rules { min: 1, ..rules() });
    bench.take();
    let short = || StartFailureKind::Resource {
        message: String::new(),
    };
    bench.fail_for(1, short());
    bench.gone(1);
    bench.pass(Duration::from_millis(100));
    assert_eq!(starts(&bench.take()), 1);
    bench.fail_for(2, short());
    bench.gone(2);
    bench.pass(Duration::from_millis(100));
    assert_eq!(starts(&bench.take()), 0);
    bench.pass(Duration::from_millis(100));
    assert_eq!(starts(&bench.take()), 1);
}

#[test]
fn a_crash_loop_is_refused_until_its_delay_is_over() {
    let mut bench = Bench::new(Rules { max: 1, ..rules() });
    for worker in 1..=5 {
        bench.ask("a", HolderKind::Request);
        bench.fail(worker);
        bench.gone(worker);
    }
    bench.take();
    let ticket = bench.ask("a", HolderKind::Request);
    let delay = Duration::from_millis(1600);
    let refusal = Refusal::WorkerBackoff { retry_after: delay };
    assert_eq!(answer(&bench.take(), ticket), Some(Err(refusal)));
    bench.pass(delay);
    bench.ask("a", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1);
}

#[test]
fn a_session_whose_worker_is_unwell_is_lost_and_a_warm_worker_is_replaced() {
    let mut bench = Bench::bound(Rules { min: 1, ..rules() }, HolderKind::Request);
    bench.pass(BREATH);
    bench.ready(2);
    bench.take();
    let unwell = Unwell {
        failures: 3,
        last: "silence".to_owned(),
    };
    bench.core.worker_unwell(WorkerId(2), unwell.clone(), bench.now);
    let outputs = bench.take();
    assert_eq!((killed(&outputs), endings(&outputs)), (vec![2], vec![]));
    bench.gone(2);
    bench.pass(secs(1));
    assert_eq!(starts(&bench.take()), 1, "another for the stock");
    bench.core.worker_unwell(WorkerId(1), unwell.clone(), bench.now);
    let outputs = bench.take();
    assert_eq!(
        (killed(&outputs), endings(&outputs)),
        (vec![1], vec!["probe_failed"])
    );
    bench.core.worker_unwell(WorkerId(1), unwell.clone(), bench.now);
    assert_eq!(killed(&bench.take()), Vec::<u64>::new(), "it is dying");
    let ticket = bench.ask("a", HolderKind::Request);
    let reason = EndReason::ProbeFailed(unwell);
    let refusal = Refusal::SessionLost { reason };
    assert_eq!(answer(&bench.take(), ticket), Some(Err(refusal)));
}

#[test]
fn no_more_workers_start_at_a_time_than_may_and_the_rest_come_in_their_order() {
    let mut bench = Bench::new(Rules {
        max: 5,
        max_starting: Some(2),
        ..rules()
    });
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| bench.ask(id, HolderKind::Request));
    assert_eq!(starts(&bench.take()), 2);
    let at_once = Request {
        wait: Wait::Refuse,
        ..Bench::request("e", HolderKind::Request)
    };
    let e = bench.ask_for(at_once);
    let f = bench.ask("f", HolderKind::Request);
    let outputs = bench.take();
    for refused in [e, f] {
        let told = answer(&outputs, refused);
        let starts = matches!(
            told,
            Some(Err(Refusal::AtCapacity {
                lack: Lack::Starts,
                ..
            }))
        );
        assert!(starts, "neither may wait, or finds room in the queue: {told:?}");
    }
    let counts = bench.core.counts(KindId(0), bench.now);
    assert_eq!((counts.queued, counts.waits_for), (4, Some(Lack::Starts)));
    bench.ready(2);
    let outputs = bench.take();
    assert_eq!(
        (answer(&outputs, a), starts(&outputs)),
        (Some(Ok(Origin::Created)), 1)
    );
    bench.fail(1);
    let outputs = bench.take();
    assert!(matches!(answer(&outputs, b), Some(Err(Refusal::StartFailed(_)))));
    assert_eq!(starts(&outputs), 1, "for d");
    bench.pass(secs(30));
    let outputs = bench.take();
    assert_eq!(answer(&outputs, c), None, "its start goes on");
    assert_eq!(answer(&outputs, d), None);
}

#[test]
fn a_session_waits_for_a_start_no_longer_than_in_any_queue_and_the_warm_stock_waits_for_it() {
    let mut bench = Bench::new(Rules {
        min: 2,
        max: 5,
        max_starting: Some(1),
        ..rules()
    });
    assert_eq!(starts(&bench.take()), 1, "the stock, one after the other");
    let a = bench.ask("a", HolderKind::Request);
    let b = bench.ask("b", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 0);
    bench.ready(1);
    let outputs = bench.take();
    assert_eq!(
        answer(&outputs, a),
        Some(Ok(Origin::Created)),
        "and not the stock"
    );
    assert_eq!((answer(&outputs, b), starts(&outputs)), (None, 1));
    let c = bench.ask("c", HolderKind::Request);
    bench.pass(secs(30));
    let late = Refusal::QueueTimeout {
        waited: secs(30),
        lack: Lack::Starts,
    };
    let outputs = bench.take();
    assert_eq!(
        (answer(&outputs, b), answer(&outputs, c)),
        (None, Some(Err(late)))
    );
}

fn memory(left: u64, total: u64) -> Option<Memory> {
    Some(Memory { left, total })
}

#[test]
fn a_worker_that_does_not_fit_waits_until_it_does_and_promises_add_up() {
    let mut bench = Bench::new(Rules {
        max: 5,
        memory: Some(10),
        ..rules()
    });
    bench.core.weigh(memory(25, 100));
    let [_, _, c] = ["a", "b", "c"].map(|id| bench.ask(id, HolderKind::Request));
    assert_eq!(starts(&bench.take()), 2, "of 25, two take 20");
    let counts = bench.core.counts(KindId(0), bench.now);
    assert_eq!((counts.room, counts.waits_for), (0, Some(Lack::Memory)));
    let at_once = Request {
        wait: Wait::Refuse,
        ..Bench::request("d", HolderKind::Request)
    };
    let d = bench.ask_for(at_once);
    let told = answer(&bench.take(), d);
    assert!(
        matches!(
            told,
            Some(Err(Refusal::AtCapacity {
                lack: Lack::Memory,
                ..
            }))
        ),
        "{told:?}"
    );
    bench.pass(WAITED_FOR);
    assert_eq!(starts(&bench.take()), 0);
    bench.core.weigh(memory(10, 100));
    bench.pass(WAITED_FOR);
    assert_eq!(starts(&bench.take()), 1, "it was looked again without an event");
    let e = bench.ask("e", HolderKind::Request);
    bench.pass(secs(30));
    let late = Refusal::QueueTimeout {
        waited: secs(30),
        lack: Lack::Memory,
    };
    let outputs = bench.take();
    assert_eq!(
        (answer(&outputs, c), answer(&outputs, e)),
        (None, Some(Err(late)))
    );
}

#[test]
fn a_worker_that_can_never_fit_is_refused_at_once() {
    let mut bench = Bench::new(Rules {
        memory: Some(101),
        ..rules()
    });
    bench.core.weigh(memory(100, 100));
    let asked = bench.ask("a", HolderKind::Request);
    let kind = StartFailureKind::TooLarge {
        memory: 101,
        of: Memory {
            left: 100,
            total: 100,
        },
    };
    let told = answer(&bench.take(), asked);
    assert!(
        matches!(&told, Some(Err(Refusal::StartFailed(failure))) if failure.kind == kind),
        "{told:?}"
    );
    bench.core.weigh(None);
    bench.ask("a", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1, "nobody is to care");
}

#[test]
fn another_kinds_session_that_waits_for_memory_comes_before_the_warm_stock() {
    let stock = Rules {
        min: 1,
        memory: Some(5),
        ..rules()
    };
    let needy = Rules {
        memory: Some(20),
        ..rules()
    };
    let mut core = Core::new(vec![stock, needy]);
    let mut now = Moment::default();
    core.weigh(memory(0, 100));
    core.start(now);
    let request = Request {
        kind: KindChoice::Named(KindId(1)),
        ..Bench::request("a", HolderKind::Request)
    };
    core.attach(TicketId(1), request, now);
    core.weigh(memory(15, 100));
    now = now + secs(6);
    core.advance(now);
    assert!(core.poll_output().is_none(), "the stock would fit, and waits");
    core.weigh(memory(20, 100));
    now = now + secs(6);
    core.advance(now);
    let started = core.poll_output();
    assert!(
        matches!(started, Some(Output::Start { kind: KindId(1), .. })),
        "{started:?}"
    );
}

#[test]
fn a_plain_session_ends_its_ttl_after_the_last_byte() {
    let mut bench = Bench::bound(rules(), HolderKind::Request);
    bench.pass(secs(100));
    assert_eq!(endings(&bench.take()), [""; 0], "a request under way holds it");
    assert_eq!(bench.release(HolderKind::Request), Release::Quiet);
    bench.pass(secs(59));
    assert_eq!(endings(&bench.take()), [""; 0]);
    bench.pass(secs(1));
    let outputs = bench.take();
    assert_eq!(endings(&outputs), ["ttl"]);
    assert!(
        outputs.iter().any(|o| matches!(o, Output::Terminate { .. })),
        "politely: {outputs:?}"
    );
    bench.pass(secs(5));
    assert_eq!(killed(&bench.take()), [1], "and after stop_timeout by force");
}

#[test]
fn the_last_stream_to_close_kills_at_once() {
    let mut bench = Bench::bound(rules(), HolderKind::Stream);
    assert!(bench.holders().acquire(HolderKind::Request));
    let _ = bench.release(HolderKind::Stream);
    assert_eq!(endings(&bench.take()), [""; 0], "a request still runs");
    let _ = bench.release(HolderKind::Request);
    let outputs = bench.take();
    assert_eq!(
        (endings(&outputs), killed(&outputs)),
        (vec!["disconnected"], vec![1])
    );
}

#[test]
fn a_newcomer_during_the_grace_cancels_the_end() {
    let mut bench = Bench::bound(
        Rules {
            disconnect_grace: secs(10),
            ..rules()
        },
        HolderKind::Stream,
    );
    let _ = bench.release(HolderKind::Stream);
    bench.pass(secs(9));
    assert!(bench.holders().acquire(HolderKind::Stream));
    bench.pass(secs(1));
    assert_eq!(endings(&bench.take()), [""; 0]);
    let _ = bench.release(HolderKind::Stream);
    bench.pass(secs(10));
    assert_eq!(endings(&bench.take()), ["disconnected"]);
}

#[test]
fn the_end_of_the_last_hold_ends_the_session_even_under_a_stream() {
    let mut bench = Bench::bound(rules(), HolderKind::Hold);
    assert!(bench.holders().acquire(HolderKind::Stream));
    let _ = bench.release(HolderKind::Hold);
    assert_eq!(endings(&bench.take()), ["disconnected"]);
}

#[test]
fn with_on_disconnect_ttl_a_closed_stream_only_starts_the_clock() {
    let mut bench = Bench::bound(
        Rules {
            on_disconnect: OnDisconnect::Ttl,
            ..rules()
        },
        HolderKind::Stream,
    );
    bench.pass(secs(30));
    let _ = bench.release(HolderKind::Stream);
    bench.pass(secs(59));
    assert_eq!(endings(&bench.take()), [""; 0]);
    bench.pass(secs(1));
    assert_eq!(endings(&bench.take()), ["ttl"]);
}

#[test]
fn max_lifetime_ends_a_session_whatever_holds_it() {
    let mut bench = Bench::bound(
        Rules {
            max_lifetime: Some(secs(10)),
            ..rules()
        },
        HolderKind::Stream,
    );
    bench.pass(secs(10));
    assert_eq!(endings(&bench.take()), ["max_lifetime"]);
}

#[test]
fn a_crashed_session_is_lost_until_somebody_says_otherwise() {
    let mut bench = Bench::bound(rules(), HolderKind::Request);
    bench.gone(1);
    assert_eq!(endings(&bench.take()), ["crashed"]);
    let ticket = bench.ask("a", HolderKind::Request);
    assert!(matches!(
        answer(&bench.take(), ticket),
        Some(Err(Refusal::SessionLost { .. }))
    ));
    let anew = Request {
        remains: Remains::Discard,
        ..Bench::request("a", HolderKind::Request)
    };
    bench.ask_for(anew);
    assert_eq!(starts(&bench.take()), 1);
}

#[test]
fn the_remains_of_a_crash_expire() {
    let mut bench = Bench::bound(rules(), HolderKind::Request);
    bench.gone(1);
    bench.pass(secs(600));
    bench.take();
    bench.ask("a", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1);
}

#[test]
fn with_on_crash_respawn_the_next_request_starts_anew() {
    let mut bench = Bench::bound(
        Rules {
            on_crash: OnCrash::Respawn,
            ..rules()
        },
        HolderKind::Request,
    );
    bench.gone(1);
    bench.take();
    bench.ask("a", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1);
}

#[test]
fn a_reused_worker_serves_again_only_after_its_old_holders_have_left() {
    let mut bench = Bench::bound(
        Rules {
            max: 1,
            reuse: Reuse::AfterSession,
            ..rules()
        },
        HolderKind::Request,
    );
    let id = SessionId::parse(b"a").unwrap();
    assert!(matches!(
        bench.core.stop(&id, bench.now),
        StopOutcome::Ending { .. }
    ));
    let next = bench.ask("b", HolderKind::Request);
    assert_eq!(answer(&bench.take(), next), None, "the old request still runs");
    let _ = bench.release(HolderKind::Request);
    let outputs = bench.take();
    assert_eq!(answer(&outputs, next), Some(Ok(Origin::Created)));
    assert_eq!((starts(&outputs), killed(&outputs)), (0, vec![]));
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

#[test]
fn a_drain_refuses_new_sessions_serves_bound_ones_and_ends_them_at_its_deadline() {
    let mut bench = Bench::bound(Rules { min: 1, ..rules() }, HolderKind::Request);
    bench.ready(2);
    bench.take();
    bench.core.drain(bench.now + secs(20), bench.now);
    let terminated = |o: &Output| matches!(o, Output::Terminate { worker: WorkerId(2) });
    assert!(
        bench.take().iter().any(terminated),
        "the warm stock goes, politely"
    );
    let (bound, new) = (
        bench.ask("a", HolderKind::Request),
        bench.ask("b", HolderKind::Request),
    );
    let outputs = bench.take();
    assert_eq!(answer(&outputs, bound), Some(Ok(Origin::Reused)));
    assert_eq!(answer(&outputs, new), Some(Err(Refusal::Draining)));
    bench.pass(secs(20));
    let outputs = bench.take();
    assert_eq!(endings(&outputs), ["drained"]);
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::Terminate { worker: WorkerId(1) }))
    );
    bench.gone(2);
    assert!(!bench.take().iter().any(|o| matches!(o, Output::Drained)));
    bench.gone(1);
    assert!(bench.take().iter().any(|o| matches!(o, Output::Drained)));
}

#[test]
fn the_second_signal_kills_what_the_first_let_go_on() {
    let mut bench = Bench::bound(rules(), HolderKind::Stream);
    bench.core.drain(bench.now + secs(20), bench.now);
    bench.core.kill_all(bench.now);
    let outputs = bench.take();
    assert_eq!((endings(&outputs), killed(&outputs)), (vec!["drained"], vec![1]));
}

#[test]
fn everybody_is_told_how_long_it_has_waited_itself_for_a_slot_and_for_a_start_whether_a_worker_came_or_not() {
    let mut bench = Bench::new(Rules { max: 1, ..rules() });
    let waited = |outputs: Vec<Output>| -> Vec<(Option<&'static str>, u64, u64)> {
        let told = |output| match output {
            Output::Grant { waited, .. } => Some((None, waited)),
            Output::Refuse { waited, refusal, .. } => Some((Some(refusal.code()), waited)),
            _ => None,
        };
        let seconds =
            |(refused, waited): (_, Waited)| (refused, waited.queued.as_secs(), waited.starting.as_secs());
        outputs.into_iter().filter_map(told).map(seconds).collect()
    };
    bench.ask("a", HolderKind::Request);
    bench.now = bench.now + secs(2);
    bench.ask("a", HolderKind::Request);
    bench.ask("b", HolderKind::Request);
    bench.now = bench.now + secs(3);
    bench.ready(1);
    assert_eq!(waited(bench.take()), [(None, 0, 5), (None, 0, 3)]);
    bench.now = bench.now + secs(5);
    bench.core.stop(&SessionId::parse(b"a").unwrap(), bench.now);
    bench.gone(1);
    bench.now = bench.now + secs(4);
    bench.ask("b", HolderKind::Request);
    bench.now = bench.now + secs(1);
    bench.ask("c", HolderKind::Request);
    bench.take();
    let failure = StartFailure {
        kind: StartFailureKind::Timeout {
            after: secs(5),
            last: String::new(),
        },
        log_tail: Vec::new(),
    };
    bench.core.worker_failed(WorkerId(2), failure, bench.now);
    bench.collect();
    let failed = Some("worker_start_timeout");
    assert_eq!(waited(bench.take()), [(failed, 8, 5), (failed, 0, 1)]);
    bench.now = bench.now + secs(30);
    bench.core.advance(bench.now);
    bench.collect();
    assert_eq!(waited(bench.take()), [(Some("queue_timeout"), 30, 0)]);
}
