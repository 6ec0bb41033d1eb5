//! Ends: a client that leaves, herd killed, start and kill in turn.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ::herd::sys::pidfd::PidFd;
use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::geteuid;

use super::client::UPGRADE;
use super::herd::{Herd, bare, bundle, children, sandboxed};
use super::peers::{Kind, Peers};
use super::tiny::Tiny;
use super::who::Who;
use super::wire::now;
use crate::lab::Lab;
use crate::samples::Samples;
use crate::table::{Relation, Row};

pub(super) const ROWS: &[&str] = &[
    "disconnect-fin",
    "disconnect-rst",
    "disconnect-sandbox",
    "kill9-400",
    "kill9-400-survivors",
    "start-kill-rate",
    "start-kill-rate-sandbox",
];

/// Longer than any death.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let tiny = Tiny::make(&lab.dir("tiny")?)?;
    let bundle = bundle(lab, &tiny)?;
    let wants = |id: &str| ROWS.iter().any(|row| row.starts_with(id) && lab.wants(row));
    let mut rows = Vec::new();
    if wants("disconnect") {
        rows.extend(disconnects(lab, &tiny, &bundle)?);
    }
    if wants("kill9") {
        rows.extend(kill9(lab, &tiny)?);
    }
    if wants("start-kill") {
        rows.extend(rates(lab, &tiny, &bundle)?);
    }
    rows.retain(|row| lab.wants(&row.id));
    Ok(rows)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Fin,
    Rst,
}

fn disconnects(lab: &Lab, tiny: &Tiny, bundle: &Path) -> anyhow::Result<Vec<Row>> {
    let who = Who::Root.or_own();
    let kinds = bare("bare", &tiny.worker, "") + &sandboxed("sandbox", bundle, "");
    let mut herd = Herd::start(lab, "disconnect", who, &kinds)?;
    let mut tree = Peers::open(lab, tiny, Kind::Tree, who)?.context("the floor is always there")?;
    let mut floor = Peers::open(lab, tiny, Kind::Floor, who)?.context("the floor is always there")?;
    let mut rows = Vec::new();
    for (id, what, kind, leaving) in [
        ("disconnect-fin", "bare, FIN", "bare", Leaving::Fin),
        ("disconnect-rst", "bare, RST", "bare", Leaving::Rst),
        ("disconnect-sandbox", "sandbox, RST", "sandbox", Leaving::Rst),
    ] {
        let peer = match kind {
            "bare" => &mut tree,
            _ => &mut floor,
        };
        let name = format!("kill of the {}", peer.kind.name());
        let what = format!("WebSocket's client gone → whole tree reaped ({what})");
        let mut row = Row::new(id, &what, "ms")
            .bound(None, Relation::AtMost, 0.5)
            .bound(Some(&name), Relation::AtMost, 1.2);
        let repeats = if lab.quick { 5 } else { 40 };
        for round in 0..=lab.rounds {
            let (mut own, mut theirs) = (Samples::default(), Samples::default());
            for _ in 0..repeats {
                lab.go_on()?;
                own.push(disconnect(&mut herd, kind, leaving)?);
                let (_, tokens) = peer.start(1)?;
                theirs.push(peer.kill(&tokens[0])?);
            }
            if let (true, Some(own), Some(theirs)) = (round > 0, own.median(), theirs.median()) {
                row.herd.push(own);
                row.peer(&name).push(theirs);
            }
        }
        row.note = Some("reaped: the pidfd of the tree's first process names nobody any more".to_owned());
        rows.push(row);
    }
    Ok(rows)
}

/// ms from the last system call of the client's end to the reaping of the worker's keeper.
fn disconnect(herd: &mut Herd, kind: &str, leaving: Leaving) -> anyhow::Result<f64> {
    let id = herd.id();
    let mut client = herd.connect()?;
    client.send(
        "GET",
        "/",
        &format!("X-Session-ID: {id}\r\nX-Herd-Worker: {kind}\r\n{UPGRADE}"),
    )?;
    let answer = client.receive()?;
    ensure!(answer.status == 101, "no stream: {answer:?}");
    let keeper = PidFd::open(herd.keeper(&id)?)?;
    if leaving == Leaving::Rst {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client, sockopt::Linger, &linger)?;
    }
    // The listing that told the pid has left things to do, and those are not the end's.
    std::thread::sleep(Duration::from_millis(2));
    let began = now();
    drop(client);
    let mut fds = [PollFd::new(keeper.as_fd(), PollFlags::POLLIN)];
    ensure!(
        poll(&mut fds, PollTimeout::from(20_000u16))? == 1,
        "the worker lives on"
    );
    // Dead, all of it; now until the launcher has reaped it.
    let cap = Instant::now() + PATIENCE;
    while keeper.pid()?.is_some() {
        ensure!(Instant::now() < cap, "the keeper is not reaped");
        std::thread::yield_now();
    }
    Ok((now() - began) as f64 / 1e6)
}

fn kill9(lab: &Lab, tiny: &Tiny) -> anyhow::Result<Vec<Row>> {
    let count = if lab.quick { 50 } else { 400 };
    let (who, floor) = (Who::Root.or_own(), Kind::Tree);
    let mut time = Row::new(
        "kill9-400",
        "kill -9 of herd with 400 workers → all processes gone",
        "ms",
    )
    .bound(None, Relation::AtMost, 15.0);
    let mut left = Row::new("kill9-400-survivors", "of them alive 5 s later", "processes").bound(
        None,
        Relation::Exactly,
        0.0,
    );
    if lab.quick {
        time.note = Some(format!("--quick: only {count} workers"));
    }
    for round in 0..=lab.rounds {
        lab.go_on()?;
        let name = format!("kill9-{round}");
        let mut herd = Herd::start(lab, &name, who, &bare("bare", &tiny.worker, ""))?;
        let sessions: Vec<_> = (0..count).map(|_| (herd.id(), "bare".to_owned())).collect();
        for some in sessions.chunks(20) {
            herd.first_requests(some)?;
        }
        let mut all = Vec::new();
        for session in herd.sessions()? {
            let keeper = session["pid"].as_i64().context("a session without a worker")? as i32;
            all.push(keeper);
            all.extend(children(keeper)?);
        }
        ensure!(
            all.len() == 2 * count,
            "{} processes of {count} workers",
            all.len()
        );
        let (took, survivors) = until_gone(&all, || herd.kill())?;
        // As many trees of two in namespaces as deep, under a process that does nothing else.
        let Some(mut peers) = Peers::open(lab, tiny, floor, who)? else {
            continue;
        };
        for _ in 0..count / 10 {
            peers.start(10)?;
        }
        let all = peers.trees()?;
        ensure!(all.len() == 2 * count, "{} processes of the floor", all.len());
        let (theirs, _) = until_gone(&all, || peers.kill_all())?;
        if round > 0 {
            time.herd.push(took);
            left.herd.push(survivors as f64);
            time.peer(floor.name()).push(theirs);
        }
    }
    Ok(vec![time, left])
}

/// Milliseconds from the deed until none of these lives, and how many still do after five seconds.
fn until_gone(pids: &[i32], deed: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<(f64, usize)> {
    let all = pids
        .iter()
        .map(|pid| PidFd::open(*pid))
        .collect::<Result<Vec<_>, _>>()?;
    let mut waiting: Vec<_> = all.iter().collect();
    let began = now();
    deed()?;
    let cap = Instant::now() + Duration::from_secs(5);
    while !waiting.is_empty() && Instant::now() < cap {
        let mut fds = [PollFd::new(waiting[0].as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(100u8))?;
        waiting.retain(|process| !process.has_exited());
    }
    Ok(((now() - began) as f64 / 1e6, waiting.len()))
}

fn rates(lab: &Lab, tiny: &Tiny, bundle: &Path) -> anyhow::Result<Vec<Row>> {
    let who = Who::Root.or_own();
    let (limits, floor) = match geteuid().is_root() {
        true => (", memory: 256M, cpus: 1, pids: 64", Kind::FloorWithGroups),
        false => ("", Kind::Floor),
    };
    let kinds = bare("bare", &tiny.worker, "") + &sandboxed("sandbox", bundle, limits);
    let mut herd = Herd::start(lab, "rate", who, &kinds)?;
    let mut rows = Vec::new();
    for (id, kind, peer) in [
        ("start-kill-rate", "bare", Kind::Tree),
        ("start-kill-rate-sandbox", "sandbox", floor),
    ] {
        let what = format!("start, one answer, kill and reap, one after the other ({kind})");
        let mut row = Row::new(id, &what, "1/s").bound(Some(peer.name()), Relation::AtLeast, 0.5);
        let Some(mut peers) = Peers::open(lab, tiny, peer, who)? else {
            continue;
        };
        let repeats = if lab.quick { 10 } else { 100 };
        for round in 0..=lab.rounds {
            lab.go_on()?;
            let began = Instant::now();
            for _ in 0..repeats {
                let session = (herd.id(), kind.to_owned());
                herd.first_requests(std::slice::from_ref(&session))?;
                herd.end_session(&session.0)?;
            }
            let own = repeats as f64 / began.elapsed().as_secs_f64();
            let began = Instant::now();
            for _ in 0..repeats {
                let (_, tokens) = peers.start(1)?;
                peers.kill(&tokens[0])?;
            }
            let theirs = repeats as f64 / began.elapsed().as_secs_f64();
            if round > 0 {
                row.herd.push(own);
                row.peer(peer.name()).push(theirs);
            }
        }
        rows.push(row);
    }
    Ok(rows)
}
