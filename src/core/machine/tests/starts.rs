//! Starts: how many at a time, what fits, and what follows when they fail.

use super::*;

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
    match answer(&bench.take(), ticket) {
        Some(Err(Refusal::WorkerBackoff { retry_after, last })) => {
            assert_eq!(retry_after, delay);
            assert_eq!(&*last, "the worker ended before it was ready: exit status 3");
        }
        other => panic!("{other:?}"),
    }
    bench.pass(delay);
    bench.ask("a", HolderKind::Request);
    assert_eq!(starts(&bench.take()), 1);
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
    assert_eq!((counts.queued, counts.waits_for), (2, Some(Lack::Starts)));
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
