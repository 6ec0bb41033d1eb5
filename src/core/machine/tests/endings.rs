//! What ends a session or a worker, and what is left of it.

use super::*;

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
