//! What a new configuration does to each thing that there is.

use super::*;

const KIND: KindId = KindId(0);

fn reload(bench: &mut Bench, changes: Vec<Change>) -> Vec<Output> {
    bench.core.reload(changes, bench.now);
    bench.take()
}

fn terminated(outputs: &[Output]) -> Vec<u64> {
    let terminated = |o: &Output| match o {
        Output::Terminate { worker } => Some(worker.0),
        _ => None,
    };
    outputs.iter().filter_map(terminated).collect()
}

fn stock() -> Rules {
    Rules {
        min: 2,
        max: 3,
        ..rules()
    }
}

#[test]
fn warm_workers_of_a_renewed_kind_are_replaced_and_never_handed_out() {
    let mut bench = Bench::new(stock());
    bench.ready(1);
    bench.ready(2);
    bench.take();
    let outputs = reload(&mut bench, vec![Change::Renewed(stock())]);
    assert_eq!(terminated(&outputs), [1, 2]);
    assert_eq!(starts(&outputs), 1, "max is 3, and two are dying");
    assert_eq!(bench.core.counts(KIND, bench.now).outdated, 2);
    let ticket = bench.ask("a", HolderKind::Request);
    assert_eq!(
        answer(&bench.take(), ticket),
        None,
        "no old worker is left for it"
    );
    bench.ready(3);
    assert_eq!(answer(&bench.take(), ticket), Some(Ok(Origin::Created)));
    bench.gone(1);
    bench.gone(2);
    assert_eq!(bench.core.counts(KIND, bench.now).outdated, 0);
}

#[test]
fn a_kept_kind_keeps_its_workers_under_its_new_rules() {
    let mut bench = Bench::new(stock());
    bench.ready(1);
    bench.ready(2);
    bench.take();
    let outputs = reload(&mut bench, vec![Change::Kept(Rules { min: 1, ..stock() })]);
    assert_eq!(terminated(&outputs).len(), 1, "one is surplus now");
    assert_eq!(bench.core.config_generation(), ConfigGeneration(2));
    assert_eq!(bench.core.counts(KIND, bench.now).outdated, 0);
    let more = reload(&mut bench, vec![Change::Kept(Rules { min: 2, ..stock() })]);
    assert_eq!(starts(&more), 1);
}

#[test]
fn who_waits_for_a_start_gets_a_worker_of_the_new_configuration() {
    for started_for in [StartedFor::Anyone, StartedFor::OneSession] {
        let rules = Rules {
            started_for,
            max: 4,
            ..rules()
        };
        let mut bench = Bench::new(rules.clone());
        let ticket = bench.ask("a", HolderKind::Request);
        bench.take();
        let outputs = reload(&mut bench, vec![Change::Renewed(rules)]);
        assert_eq!(killed(&outputs), [1]);
        assert_eq!(starts(&outputs), 1);
        bench.ready(1);
        assert_eq!(answer(&bench.take(), ticket), None, "the old one came too late");
        bench.ready(2);
        assert_eq!(answer(&bench.take(), ticket), Some(Ok(Origin::Created)));
    }
}

#[test]
fn a_bound_session_keeps_its_worker_which_then_serves_nobody_else() {
    let reused = Rules {
        reuse: Reuse::AfterSession,
        ..rules()
    };
    let mut bench = Bench::bound(reused.clone(), HolderKind::Stream);
    let outputs = reload(&mut bench, vec![Change::Renewed(reused)]);
    assert!(endings(&outputs).is_empty() && killed(&outputs).is_empty());
    let id = SessionId::parse(b"a").unwrap();
    let seen = bench.core.session(&id).unwrap();
    assert_eq!(seen.config, Some(ConfigGeneration(1)));
    assert!(bench.core.is_outdated(KIND, ConfigGeneration(1)));
    let again = bench.ask("a", HolderKind::Request);
    assert_eq!(answer(&bench.take(), again), Some(Ok(Origin::Reused)));
    assert_eq!(bench.release(HolderKind::Request), Release::Quiet);
    assert_eq!(bench.release(HolderKind::Stream), Release::Notify);
    let outputs = bench.take();
    assert_eq!(endings(&outputs), ["disconnected"]);
    assert_eq!(killed(&outputs), [1], "it is not used again");
}

#[test]
fn a_lower_max_ends_nothing_and_holds_for_the_next_start() {
    let mut bench = Bench::new(Rules { max: 3, ..rules() });
    for (id, worker) in [("a", 1), ("b", 2), ("c", 3)] {
        bench.ask(id, HolderKind::Request);
        bench.ready(worker);
    }
    bench.take();
    let lower = Rules { max: 1, ..rules() };
    let outputs = reload(&mut bench, vec![Change::Kept(lower)]);
    assert!(outputs.is_empty(), "{outputs:?}");
    bench.ask("d", HolderKind::Request);
    for worker in [1, 2] {
        bench.gone(worker);
    }
    assert_eq!(starts(&bench.take()), 0);
    bench.gone(3);
    assert_eq!(starts(&bench.take()), 1);
}

#[test]
fn the_clocks_of_bound_sessions_go_by_the_new_rules() {
    let mut bench = Bench::bound(rules(), HolderKind::Request);
    assert_eq!(bench.release(HolderKind::Request), Release::Quiet);
    bench.pass(secs(40));
    let never = Rules { ttl: None, ..rules() };
    assert!(endings(&reload(&mut bench, vec![Change::Kept(never)])).is_empty());
    bench.pass(secs(100));
    assert!(
        endings(&bench.take()).is_empty(),
        "the old ttl is over, and holds no more"
    );
    let longer = Rules {
        ttl: Some(secs(200)),
        max_lifetime: Some(secs(150)),
        ..rules()
    };
    assert!(endings(&reload(&mut bench, vec![Change::Kept(longer)])).is_empty());
    bench.pass(secs(9));
    assert!(endings(&bench.take()).is_empty());
    bench.pass(secs(1));
    assert_eq!(
        endings(&bench.take()),
        ["max_lifetime"],
        "counted from its beginning"
    );
}

#[test]
fn a_grace_that_is_new_holds_for_who_leaves_after_it_came() {
    let mut bench = Bench::bound(rules(), HolderKind::Stream);
    let graceful = Rules {
        disconnect_grace: secs(5),
        ..rules()
    };
    reload(&mut bench, vec![Change::Kept(graceful)]);
    assert_eq!(bench.release(HolderKind::Stream), Release::Notify);
    assert!(endings(&bench.take()).is_empty());
    reload(&mut bench, vec![Change::Kept(rules())]);
    bench.pass(secs(4));
    assert!(endings(&bench.take()).is_empty(), "what was said is kept");
    bench.pass(secs(1));
    assert_eq!(endings(&bench.take()), ["disconnected"]);
}

#[test]
fn a_removed_kind_serves_whom_it_has_and_nobody_else() {
    let mut core = Bench::new(Rules { max: 1, ..rules() });
    let bench = &mut core;
    reload(
        bench,
        vec![
            Change::Kept(Rules { max: 1, ..rules() }),
            Change::Renewed(rules()),
        ],
    );
    bench.ask("a", HolderKind::Request);
    bench.ready(1);
    let waits = bench.ask("b", HolderKind::Request);
    bench.take();
    bench
        .core
        .reload(vec![Change::Removed, Change::Kept(rules())], bench.now);
    let outputs = bench.take();
    assert_eq!(answer(&outputs, waits), Some(Err(Refusal::UnknownWorker)));
    let again = bench.ask("a", HolderKind::Request);
    assert_eq!(answer(&bench.take(), again), Some(Ok(Origin::Reused)));
    let named = Request {
        kind: KindChoice::Named(KIND),
        ..Bench::request("c", HolderKind::Request)
    };
    let named = bench.ask_for(named);
    assert_eq!(answer(&bench.take(), named), Some(Err(Refusal::UnknownWorker)));
    let other = Request {
        kind: KindChoice::Named(KindId(1)),
        ..Bench::request("d", HolderKind::Request)
    };
    let other = bench.ask_for(other);
    bench.ready(2);
    assert_eq!(answer(&bench.take(), other), Some(Ok(Origin::Created)));
    // And comes back.
    reload(
        bench,
        vec![
            Change::Renewed(Rules { max: 2, ..rules() }),
            Change::Kept(rules()),
        ],
    );
    let ticket = bench.ask("e", HolderKind::Request);
    bench.ready(3);
    assert_eq!(answer(&bench.take(), ticket), Some(Ok(Origin::Created)));
    assert_eq!(bench.core.counts(KIND, bench.now).outdated, 1, "the one of a");
}

#[test]
fn a_renewed_kind_may_start_at_once_whatever_its_luck_was() {
    let mut bench = Bench::new(Rules { min: 1, ..rules() });
    for worker in 1..=5 {
        bench.fail(worker);
        bench.gone(worker);
        bench.take();
        if let Some(at) = bench.core.next_deadline() {
            bench.pass(at.since(bench.now));
        }
        bench.take();
    }
    bench.fail(6);
    bench.gone(6);
    bench.take();
    assert!(bench.core.counts(KIND, bench.now).backoff_until.is_some());
    let outputs = reload(&mut bench, vec![Change::Renewed(Rules { min: 1, ..rules() })]);
    assert_eq!(starts(&outputs), 1);
    assert_eq!(bench.core.counts(KIND, bench.now).backoff_until, None);
}

#[test]
fn nothing_is_reloaded_while_draining() {
    let mut bench = Bench::bound(rules(), HolderKind::Stream);
    bench.core.drain(bench.now + secs(30), bench.now);
    bench.take();
    let outputs = reload(&mut bench, vec![Change::Removed]);
    assert!(outputs.is_empty(), "{outputs:?}");
    assert_eq!(bench.core.config_generation(), ConfigGeneration(1));
}
