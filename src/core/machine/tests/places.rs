//! Slots and the queue for them: who gets one, who waits, and for how long.

use super::*;

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
