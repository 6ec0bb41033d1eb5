//! What one herd writes and the next reads.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::writing::Writer;
use super::*;
use crate::core::{EndReason, Exit, SessionId, SessionRef, WorkerId};
use crate::driver::{Burial, Burials, Milestone, SessionState, SessionView};
use crate::worker::{Death, Logs, Sandboxing, Stream};

pub(in crate::control) fn burial(id: &str, generation: u64) -> Burial {
    let logs = Logs::new(1 << 20);
    let text = Bytes::from_static(b"\x1b[2Jfarewell");
    logs.push(Stream::Stdout, text, SystemTime::now());
    let log = crate::worker::tail(&logs);
    let view = SessionView {
        session: SessionRef {
            id: SessionId::parse(id.as_bytes()).unwrap(),
            generation: Generation(generation),
        },
        kind: "browser".to_owned(),
        sandboxing: Some(Sandboxing::On),
        config: Some(crate::core::ConfigGeneration(1)),
        outdated: false,
        state: SessionState::Ended(EndReason::Disconnected),
        worker: Some(WorkerId(generation)),
        pid: Some(4711),
        endpoint: None,
        created: SystemTime::now() - Duration::from_secs(60),
        holders: 0,
        streams: 0,
        holds: 0,
        ends: None,
        ended: Some(SystemTime::now()),
        death: Some(Death {
            pids: vec![1, 2],
            processes: 2,
            memory: 5,
            took: Duration::from_millis(2),
            survivors: 0,
            exit: Exit::Signal(9),
        }),
        since_left: Some(Duration::from_millis(3)),
    };
    Burial { view, log }
}

/// What the next herd makes of it.
fn read(dir: &Path, size: u64) -> Former {
    let mut history = History::open(dir, size).unwrap();
    Former::read(&mut history, SystemTime::UNIX_EPOCH + Duration::from_secs(9)).unwrap()
}

/// Written by a herd that has ended, and read by the next.
pub(in crate::control) fn kept(dir: &Path, burials: Vec<Burial>) -> Former {
    let history = History::open(dir, 1 << 20).unwrap();
    let (sender, receiver) = mpsc::channel();
    let writing = Writing::spawn(history, receiver, SystemTime::UNIX_EPOCH, Arc::default()).unwrap();
    for burial in burials {
        sender.send(Milestone::Ended(burial)).unwrap();
    }
    drop(sender);
    writing.finish();
    read(dir, 1 << 20)
}

#[test]
fn all_there_is_to_tell_of_an_ending_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let former = kept(dir.path(), vec![burial("a", 1), burial("b", 2), burial("a", 3)]);
    assert_eq!(former.last_generation(), Generation(3));
    let of_a: Vec<u64> = former.of("a").map(|session| session.generation).collect();
    assert_eq!(of_a, [3, 1], "the newest first");
    let session = former.of("b").next().unwrap();
    assert_eq!(session.run.as_deref(), Some("1970-01-01T00:00:00.000Z"));
    assert_eq!(session.reason.as_deref(), Some("disconnected"));
    assert_eq!(session.disconnect_to_dead_ms, Some(3.0));
    let death = session.death.as_ref().unwrap();
    assert_eq!((death.processes, death.signal, death.status), (2, Some(9), None));
    let (_, log) = former.log("b", None).unwrap();
    assert_eq!(log, ["\\x1b[2Jfarewell"], "escaped, as everywhere");
    assert!(former.log("b", Some(2)).is_some() && former.log("b", Some(1)).is_none());
    assert!(former.log("c", None).is_none());
}

#[test]
fn what_cannot_be_written_is_counted_too() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let history = History::open(&gone, 1000).unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
    let (sender, receiver) = mpsc::channel();
    let lost = Arc::<Lost>::default();
    let writing = Writing::spawn(history, receiver, SystemTime::UNIX_EPOCH, Arc::clone(&lost)).unwrap();
    // The first still finds the file that was there; the others would need another.
    for generation in 1..=3 {
        sender.send(Milestone::Ended(burial("a", generation))).unwrap();
    }
    drop(sender);
    writing.finish();
    assert_eq!(lost.count(), 2);
}

#[test]
fn lines_of_a_newer_herd_are_read_and_broken_ones_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    drop(kept(dir.path(), vec![burial("a", 1), burial("b", 2)]));
    let path = dir.path().join("history.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap();
    let impossible = first.replace("\"generation\":1,", "\"generation\":18446744073709551615,");
    assert_ne!(impossible, first);
    let newer = text.replacen('{', r#"{"of_tomorrow":{"deep":[1]},"#, 1);
    std::fs::write(
        &path,
        format!("{newer}{}\nnull\n\"text\"\n{}", impossible, &text[..40]),
    )
    .unwrap();
    let former = kept(dir.path(), vec![burial("c", 7)]);
    let ids: Vec<&str> = former.sessions().map(|session| &*session.id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
}

#[test]
fn what_a_slow_disk_has_no_room_for_is_counted_and_nobody_waits() {
    let (burials, received) = Burials::channel();
    let lost = burials.lost();
    for number in 0..4102 {
        burials.ended(burial("a", number));
    }
    assert_eq!(lost.count(), 6);
    assert_eq!(Former::default().counting(lost).lost(), 6);
    drop(received);
}

/// As [`burial`] has it, of a session that lives.
fn view(id: &str, generation: u64) -> SessionView {
    let mut view = burial(id, generation).view;
    (view.state, view.ended, view.death) = (SessionState::Bound, None, None);
    view
}

fn writer(dir: &Path, size: u64, run: &str, lost: &Arc<Lost>) -> Writer {
    Writer::new(
        History::open(dir, size).unwrap(),
        run.to_owned(),
        Arc::clone(lost),
    )
}

fn died(former: &Former) -> Vec<u64> {
    let died = former
        .sessions()
        .filter(|session| session.reason.as_deref() == Some(HERD_DIED));
    died.map(|session| session.generation).collect()
}

#[test]
fn sessions_that_were_alive_when_herd_was_killed_have_ended_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = writer(dir.path(), 1 << 20, "1970-01-01T00:00:01.000Z", &Arc::default());
    written.write(Milestone::Began(view("a", 1))).unwrap();
    written.write(Milestone::Began(view("alice/b", 2))).unwrap();
    written.write(Milestone::Ended(burial("a", 1))).unwrap();
    drop(written);
    let former = read(dir.path(), 1 << 20);
    assert_eq!(
        former.last_generation(),
        Generation(2),
        "no generation comes twice"
    );
    assert_eq!(died(&former), [2]);
    let session = former.of("alice/b").next().unwrap();
    let detail = session.detail.as_deref().unwrap();
    assert!(
        detail.contains("without an end of this session on record")
            && detail.contains(" and 1970-01-01T00:00:09.000Z;"),
        "{detail}"
    );
    assert_eq!(
        (session.id.as_str(), session.principal.as_deref()),
        ("b", Some("alice"))
    );
    assert_eq!(session.run.as_deref(), Some("1970-01-01T00:00:01.000Z"));
    assert_eq!(
        (session.pid, &session.ended, &session.death.is_none()),
        (Some(4711), &None, &true)
    );
    assert!(
        session.age_ms >= 60_000,
        "until a's end, which herd has seen: {}",
        session.age_ms
    );
    // The herd after the next knows the same, not that it has just happened.
    let mut history = History::open(dir.path(), 1 << 20).unwrap();
    let again = Former::read(&mut history, SystemTime::now()).unwrap();
    assert_eq!(
        again.of("alice/b").next().unwrap().detail.as_deref(),
        Some(detail)
    );
    assert_eq!(again.sessions().count(), 2);
}

#[test]
fn of_a_session_whose_end_was_lost_nothing_is_concluded() {
    let dir = tempfile::tempdir().unwrap();
    let lost = Arc::<Lost>::default();
    let mut written = writer(dir.path(), 1 << 20, "now", &lost);
    for generation in [1, 2, 4] {
        written.write(Milestone::Began(view("a", generation))).unwrap();
    }
    lost.add(Generation(3));
    // Behind its own end, which found no room: it waited longer.
    written.write(Milestone::Began(view("a", 3))).unwrap();
    written.write(Milestone::Began(view("a", 5))).unwrap();
    drop(written);
    assert_eq!(died(&read(dir.path(), 1 << 20)), [4, 5]);
}

#[test]
fn an_end_that_was_lost_last_of_all_is_settled_when_herd_ends() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::open(dir.path(), 1 << 20).unwrap();
    let (sender, receiver) = mpsc::channel();
    let lost = Arc::<Lost>::default();
    let writing = Writing::spawn(history, receiver, SystemTime::UNIX_EPOCH, Arc::clone(&lost)).unwrap();
    sender.send(Milestone::Began(view("a", 1))).unwrap();
    lost.add(Generation(1));
    drop(sender);
    writing.finish();
    let former = read(dir.path(), 1 << 20);
    assert_eq!(
        (former.sessions().count(), former.last_generation()),
        (0, Generation(1))
    );
}

#[test]
fn no_more_is_concluded_than_is_remembered_and_the_rest_never() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = writer(dir.path(), 8 << 20, "now", &Arc::default());
    for generation in 1..=1100 {
        written.write(Milestone::Began(view("a", generation))).unwrap();
    }
    drop(written);
    for _ in 0..2 {
        let died = died(&read(dir.path(), 8 << 20));
        assert_eq!((died.len(), died[0], died[999]), (1000, 101, 1100));
    }
}

/// Several herds, each killed at any moment, over files that are always too small.
#[test]
fn only_what_was_alive_is_ever_said_to_have_died_with_herd() {
    const SIZE: u64 = 64 << 10;
    /// The first few live until the end, over many files.
    const OLD: usize = 3;
    for seed in 1..=40_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let dir = tempfile::tempdir().unwrap();
        let (mut generation, mut truly) = (0, std::collections::BTreeSet::new());
        for run in 0..4 {
            let lost = Arc::<Lost>::default();
            let mut written = writer(dir.path(), SIZE, &format!("run {run}"), &lost);
            let mut alive: Vec<u64> = Vec::new();
            let mut lost_up_to = 0;
            for _ in 0..random(400) {
                match random(20) {
                    0 if run % 2 == 1 && alive.len() > OLD => {
                        let gone = alive.swap_remove(OLD + random((alive.len() - OLD) as u64) as usize);
                        lost.add(Generation(gone));
                        lost_up_to = lost_up_to.max(gone);
                    }
                    1..=9 if alive.len() > OLD => {
                        let gone = alive.swap_remove(OLD + random((alive.len() - OLD) as u64) as usize);
                        written.write(Milestone::Ended(burial("a", gone))).unwrap();
                    }
                    _ if alive.len() < 30 => {
                        generation += 1;
                        written.write(Milestone::Began(view("a", generation))).unwrap();
                        alive.push(generation);
                    }
                    _ => {}
                }
            }
            // What is told of a loss stands before whatever comes next.
            generation += 1;
            written.write(Milestone::Began(view("a", generation))).unwrap();
            alive.push(generation);
            drop(written);
            truly.extend(alive.iter().copied());
            let former = read(dir.path(), SIZE);
            let died = died(&former);
            let wrong: Vec<&u64> = died.iter().filter(|one| !truly.contains(one)).collect();
            assert!(wrong.is_empty(), "seed {seed}, run {run}: {wrong:?} had ended");
            let missed: Vec<&u64> = alive
                .iter()
                .filter(|one| **one > lost_up_to && !died.contains(one))
                .collect();
            assert!(
                missed.is_empty(),
                "seed {seed}, run {run}: {missed:?} are unknown"
            );
            assert_eq!(former.last_generation(), Generation(generation));
        }
    }
}

#[test]
fn a_history_of_a_herd_that_kept_no_beginnings_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    drop(kept(dir.path(), vec![burial("a", 1)]));
    let path = dir.path().join("history.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("began") && !text.contains("settled"), "{text}");
    let former = read(dir.path(), 1 << 20);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        text,
        "nothing to conclude"
    );
    assert_eq!(
        former.of("a").next().unwrap().reason.as_deref(),
        Some("disconnected")
    );
}
