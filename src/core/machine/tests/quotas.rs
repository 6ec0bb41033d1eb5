//! How many sessions a principal may have, and what a reload does to those that there are.

use super::*;

type Allowances = std::collections::HashMap<String, Allowance>;

fn allowances<const N: usize>(named: [(&str, Allowance); N]) -> Allowances {
    named.map(|(name, allowance)| (name.to_owned(), allowance)).into()
}

fn at_most(sessions: usize) -> Allowance {
    Allowance {
        sessions: Some(sessions),
        session_rate: None,
    }
}

/// One in ten seconds, and so many at once.
fn seldom(burst: u32) -> Allowance {
    Allowance {
        sessions: None,
        session_rate: Some(Rate {
            number: 6,
            per: secs(60),
            burst,
        }),
    }
}

fn bench(max: usize, allowances: Allowances) -> Bench {
    let mut bench = Bench::new(Rules {
        max,
        queue_max: 0,
        ..rules()
    });
    bench.core = std::mem::replace(&mut bench.core, Core::new(Vec::new())).with_principals(allowances);
    bench
}

/// Why a request for the session is refused at once.
fn refusal(bench: &mut Bench, id: &str) -> Option<Refusal> {
    let asked = bench.ask(id, HolderKind::Request);
    bench.take().into_iter().find_map(|output| match output {
        Output::Refuse { ticket, refusal, .. } if ticket == asked => Some(refusal),
        _ => None,
    })
}

/// Which quota such a request is over, and when it would not be.
fn over(bench: &mut Bench, id: &str) -> Option<(Quota, Duration)> {
    match refusal(bench, id) {
        Some(Refusal::QuotaExceeded { quota, retry_after }) => Some((quota, retry_after)),
        Some(refusal) => panic!("{id}: {refusal:?}"),
        None => None,
    }
}

fn id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).unwrap()
}

#[test]
fn a_principal_has_no_more_sessions_than_its_quota_and_gets_each_place_back() {
    let mut bench = bench(
        5,
        allowances([("alice", at_most(2)), ("bob", Allowance::default())]),
    );
    let two = Some((Quota::Sessions { most: 2 }, secs(1)));
    assert_eq!(over(&mut bench, "alice/1"), None);
    assert_eq!(over(&mut bench, "alice/2"), None);
    assert_eq!(over(&mut bench, "alice/3"), two, "the third");
    assert_eq!(over(&mut bench, "alice/1"), None, "there already");
    assert_eq!(over(&mut bench, "bob/1"), None, "another's");
    // One that waits, one that is bound, one that crashes: each gives its place back once.
    assert_eq!(
        bench.core.stop(&id("alice/2"), bench.now),
        StopOutcome::NeverStarted
    );
    assert_eq!(over(&mut bench, "alice/3"), None);
    assert_eq!(over(&mut bench, "alice/4"), two);
    bench.ready(1);
    bench.core.worker_gone(WorkerId(1), Exit::Signal(11), bench.now);
    assert_eq!(over(&mut bench, "alice/4"), None, "alice/1 is lost");
    assert_eq!(bench.core.stop(&id("alice/1"), bench.now), StopOutcome::Forgotten);
    assert_eq!(over(&mut bench, "alice/5"), two, "given back only once");
}

#[test]
fn new_sessions_come_at_their_rate_whatever_becomes_of_them_and_more_requests_cost_none() {
    let mut bench = bench(
        5,
        allowances([("alice", seldom(2)), ("bob", Allowance::default())]),
    );
    let wait = |seconds| Some((Quota::SessionRate, secs(seconds)));
    assert_eq!(over(&mut bench, "alice/1"), None);
    assert_eq!(over(&mut bench, "alice/2"), None);
    assert_eq!(over(&mut bench, "alice/1"), None, "it is there");
    assert_eq!(over(&mut bench, "alice/3"), wait(10));
    assert_eq!(
        bench.core.stop(&id("alice/2"), bench.now),
        StopOutcome::NeverStarted
    );
    assert_eq!(
        over(&mut bench, "alice/2"),
        wait(10),
        "a place is free, but it was made"
    );
    assert_eq!(over(&mut bench, "bob/1"), None, "another's");
    bench.now = bench.now + secs(9);
    assert_eq!(
        over(&mut bench, "alice/3"),
        wait(1),
        "a refused one counts for nothing"
    );
    bench.now = bench.now + secs(1);
    assert_eq!(over(&mut bench, "alice/3"), None);
    bench.ready(1);
    bench.core.worker_gone(WorkerId(1), Exit::Signal(11), bench.now);
    bench.take();
    let mut again = Bench::request("alice/1", HolderKind::Request);
    again.remains = Remains::Discard;
    bench.ask_for(again);
    let refused = |output: &Output| {
        matches!(
            output,
            Output::Refuse {
                refusal: Refusal::QuotaExceeded { .. },
                ..
            }
        )
    };
    assert!(
        bench.take().iter().any(refused),
        "the next life of one is a new one"
    );
}

#[test]
fn who_is_refused_for_want_of_room_has_used_up_nothing() {
    let mut bench = bench(
        1,
        allowances([("alice", seldom(1)), ("bob", Allowance::default())]),
    );
    assert_eq!(refusal(&mut bench, "bob/1"), None);
    let refused = refusal(&mut bench, "alice/1");
    assert!(matches!(refused, Some(Refusal::AtCapacity { .. })), "{refused:?}");
    bench.core.stop(&id("bob/1"), bench.now);
    bench.gone(1);
    assert_eq!(refusal(&mut bench, "alice/1"), None);
}

#[test]
fn a_reload_gives_back_no_new_session_and_takes_none() {
    let mut bench = bench(9, allowances([("alice", seldom(2))]));
    assert_eq!(over(&mut bench, "alice/1"), None);
    let reload = |bench: &mut Bench, allowance| {
        let now = bench.now;
        bench
            .core
            .reload_principals(allowances([("alice", allowance)]), now);
    };
    bench.now = bench.now + secs(5);
    // Half of one has come back.
    reload(&mut bench, seldom(2));
    assert_eq!(over(&mut bench, "alice/2"), None);
    assert_eq!(over(&mut bench, "alice/3"), Some((Quota::SessionRate, secs(5))));
    reload(&mut bench, seldom(3));
    assert_eq!(over(&mut bench, "alice/3"), None, "one more at once");
    assert_eq!(over(&mut bench, "alice/4"), Some((Quota::SessionRate, secs(5))));
    reload(&mut bench, Allowance::default());
    assert_eq!(over(&mut bench, "alice/4"), None, "no limit");
}

#[test]
fn what_a_principal_that_is_gone_has_ends_and_who_is_still_there_keeps_its_count() {
    let both = allowances([("alice", Allowance::default()), ("bob", Allowance::default())]);
    let mut bench = bench(3, both);
    bench.ask("alice/1", HolderKind::Request);
    bench.ask("bob/1", HolderKind::Stream);
    bench.ready(1);
    bench.ready(2);
    let waits = bench.ask("bob/2", HolderKind::Request);
    bench.take();
    let now = bench.now;
    bench
        .core
        .reload_principals(allowances([("alice", at_most(1))]), now);
    let outputs = bench.take();
    assert_eq!(
        (endings(&outputs), killed(&outputs)),
        (vec!["revoked"], vec![2, 3])
    );
    let revoked = |o: &Output| matches!(o, Output::Refuse { ticket, refusal: Refusal::Revoked, .. } if *ticket == waits);
    assert!(outputs.iter().any(revoked), "{outputs:?}");
    assert_eq!(
        refusal(&mut bench, "bob/3"),
        Some(Refusal::Revoked),
        "asked for before the reload"
    );
    assert_eq!(
        over(&mut bench, "alice/2"),
        Some((Quota::Sessions { most: 1 }, secs(1))),
        "what it had is counted, also without a limit"
    );
}
