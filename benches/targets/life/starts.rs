//! Starts: cold and made ahead, bare and in a sandbox, one and sixteen at a time, as root and as a user.

use std::path::Path;

use nix::unistd::geteuid;

use super::herd::{Herd, bare, bundle, sandboxed};
use super::peers::{Kind, Peers};
use super::tiny::Tiny;
use super::who::Who;
use super::wire::now;
use crate::lab::Lab;
use crate::samples::Samples;
use crate::table::{Relation, Row};

pub(super) const ROWS: &[&str] = &[
    "start-bare-cold-1",
    "start-bare-cold-1-p99",
    "start-bare-cold-1-added",
    "start-bare-cold-16",
    "start-bare-cold-16-p99",
    "warm-claim",
    "start-sandbox-cold-1",
    "start-sandbox-cold-1-p99",
    "start-sandbox-cold-16",
    "start-sandbox-cold-16-p99",
    "start-sandbox-warm-1",
    "start-sandbox-warm-1-p99",
    "start-sandbox-warm-16",
    "start-sandbox-warm-16-p99",
    "start-rootless-cold-1",
    "start-rootless-cold-1-p99",
    "start-rootless-cold-16",
    "start-rootless-cold-16-p99",
    "start-rootless-warm-1",
    "start-rootless-warm-1-p99",
    "start-rootless-warm-16",
    "start-rootless-warm-16-p99",
    "start-subordinate-cold-1",
    "start-subordinate-cold-1-p99",
    "start-subordinate-cold-16",
    "start-subordinate-cold-16-p99",
    "start-subordinate-warm-1",
    "start-subordinate-warm-1-p99",
    "start-subordinate-warm-16",
    "start-subordinate-warm-16-p99",
];

/// So many kinds have one sandbox each made ahead.
const AT_ONCE: usize = 16;

pub(super) fn run(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let tiny = Tiny::make(&lab.dir("tiny")?)?;
    let mut rows = Vec::new();
    if ROWS
        .iter()
        .any(|row| row.starts_with("start-bare") && lab.wants(row))
    {
        rows.extend(cold_bare(lab, &tiny)?);
    }
    if lab.wants("warm-claim") {
        rows.push(warm_claim(lab, &tiny)?);
    }
    let bundle = bundle(lab, &tiny)?;
    let root = geteuid().is_root();
    if ROWS
        .iter()
        .any(|row| row.starts_with("start-sandbox") && lab.wants(row))
    {
        match root {
            true => rows.extend(sandboxes(lab, &tiny, &bundle, Who::Root)?),
            false => lab.say("!!! not root: starts of root's sandboxes are unmeasured"),
        }
    }
    if ROWS
        .iter()
        .any(|row| row.starts_with("start-rootless") && lab.wants(row))
    {
        rows.extend(sandboxes(lab, &tiny, &bundle, Who::single())?);
    }
    if ROWS
        .iter()
        .any(|row| row.starts_with("start-subordinate") && lab.wants(row))
    {
        match Who::subordinate() {
            Some(who) => rows.extend(sandboxes(lab, &tiny, &bundle, who)?),
            None => lab.say("!!! nobody has subordinate ids here, or not root: unmeasured"),
        }
    }
    rows.retain(|row| lab.wants(&row.id));
    Ok(rows)
}

/// Starts per round: enough of single ones for a 99th percentile that means something.
fn repeats(lab: &Lab, at_once: usize) -> usize {
    match (lab.quick, at_once) {
        (true, 1) => 5,
        (true, _) => 1,
        (false, 1) => 40,
        (false, _) => 6,
    }
}

/// A row of medians and one of 99th percentiles: one of each per round.
struct Pair {
    median: Row,
    p99: Row,
}

impl Pair {
    fn new(id: &str, what: &str) -> Self {
        Self {
            median: Row::new(id, &format!("{what}, p50"), "ms"),
            p99: Row::new(&format!("{id}-p99"), &format!("{what}, p99"), "ms"),
        }
    }

    fn push(&mut self, peer: Option<&str>, readings: Vec<f64>) {
        let readings: Samples = readings.into_iter().collect();
        for (row, q) in [(&mut self.median, 0.5), (&mut self.p99, 0.99)] {
            if let Some(reading) = readings.quantile(q) {
                match peer {
                    None => row.herd.push(reading),
                    Some(name) => row.peer(name).push(reading),
                }
            }
        }
    }
}

fn measure_peer(lab: &Lab, peers: &mut Peers, at_once: usize) -> anyhow::Result<Vec<f64>> {
    let mut readings = Vec::new();
    for _ in 0..repeats(lab, at_once) {
        lab.go_on()?;
        let (took, tokens) = peers.start(at_once)?;
        peers.end(&tokens)?;
        readings.extend(took);
    }
    Ok(readings)
}

fn measure_herd(
    lab: &Lab,
    herd: &mut Herd,
    kinds: &[String],
    mut before: impl FnMut(&mut Herd) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let mut readings = Vec::new();
    for _ in 0..repeats(lab, kinds.len()) {
        lab.go_on()?;
        before(herd)?;
        let sessions: Vec<_> = kinds.iter().map(|kind| (herd.id(), kind.clone())).collect();
        readings.extend(herd.first_requests(&sessions)?);
        for (id, _) in &sessions {
            herd.end_session(id)?;
        }
    }
    Ok(readings)
}

fn cold_bare(lab: &Lab, tiny: &Tiny) -> anyhow::Result<Vec<Row>> {
    let mut herd = Herd::start(lab, "bare", Who::Root.or_own(), &bare("bare", &tiny.worker, ""))?;
    let mut peers = Vec::new();
    for kind in [Kind::Exec, Kind::Tree] {
        peers.extend(Peers::open(lab, tiny, kind, Who::Root.or_own())?);
    }
    let mut added = Row::new(
        "start-bare-cold-1-added",
        "cold bare start, beyond the worker's own time from exec to answer",
        "ms",
    )
    .bound(None, Relation::AtMost, 1.5);
    let mut rows = Vec::new();
    for at_once in [1, AT_ONCE] {
        let id = format!("start-bare-cold-{at_once}");
        let mut pair = Pair::new(&id, &format!("cold bare start, {at_once} at once"));
        for round in 0..=lab.rounds {
            let kinds = vec!["bare".to_owned(); at_once];
            let own = measure_herd(lab, &mut herd, &kinds, |_| Ok(()))?;
            let theirs = peers
                .iter_mut()
                .map(|peer| Ok((peer.kind, measure_peer(lab, peer, at_once)?)))
                .collect::<anyhow::Result<Vec<_>>>()?;
            // The first warms up.
            if round == 0 {
                continue;
            }
            let median = |readings: &[f64]| readings.iter().copied().collect::<Samples>().median();
            let exec = theirs.iter().find(|(kind, _)| *kind == Kind::Exec);
            if at_once == 1
                && let (Some(own), Some(exec)) =
                    (median(&own), exec.and_then(|(_, readings)| median(readings)))
            {
                added.herd.push(own - exec);
            }
            pair.push(None, own);
            for (kind, readings) in theirs {
                pair.push(Some(kind.name()), readings);
            }
        }
        rows.extend([pair.median, pair.p99]);
    }
    rows.push(added);
    Ok(rows)
}

fn warm_claim(lab: &Lab, tiny: &Tiny) -> anyhow::Result<Row> {
    const WARM: usize = 16;
    let kind = bare("warm", &tiny.worker, &format!(", min: {WARM}"));
    let mut herd = Herd::start(lab, "warm", Who::Root.or_own(), &kind)?;
    let mut row = Row::new(
        "warm-claim",
        "first request of a new id that takes a warm worker",
        "µs",
    )
    .bound(Some("established"), Relation::AtMost, 1.2);
    let repeats = if lab.quick { 4 } else { 40 };
    for round in 0..=lab.rounds {
        let (mut claims, mut established) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            lab.go_on()?;
            herd.until_warm(WARM as u64)?;
            let id = herd.id();
            let mut client = herd.connect()?;
            // The connection is accepted and has a thread by now; another session's request proves it.
            let fields = format!("X-Session-ID: {id}\r\n");
            let mut timed = || {
                let began = now();
                client.ask("GET", "/", &fields)?;
                anyhow::Ok((now() - began) as f64 / 1e3)
            };
            claims.push(timed()?);
            // By now the next warm worker is made; its start is not the request's.
            herd.until_warm(WARM as u64)?;
            established.push(timed()?);
            drop(client);
            herd.end_session(&id)?;
        }
        if round > 0 {
            row.herd.push(
                claims
                    .into_iter()
                    .collect::<Samples>()
                    .median()
                    .unwrap_or(f64::NAN),
            );
            let established = established.into_iter().collect::<Samples>().median();
            row.peer("established").push(established.unwrap_or(f64::NAN));
        }
    }
    row.note = Some("both are one request at a time, the claim the first of its connection".to_owned());
    Ok(row)
}

fn sandboxes(lab: &Lab, tiny: &Tiny, bundle: &Path, who: Who) -> anyhow::Result<Vec<Row>> {
    let (prefix, as_whom) = match who {
        Who::Root => ("start-sandbox", "as root, 3 cgroups"),
        Who::Single(_) => ("start-rootless", "as a user with one id"),
        Who::Subordinate(_) => ("start-subordinate", "as a user with subordinate ids"),
    };
    let (floor, limits) = match who {
        Who::Root => (Kind::FloorWithGroups, ", memory: 256M, cpus: 1, pids: 64"),
        _ => (Kind::Floor, ""),
    };
    let kinds: Vec<_> = (0..AT_ONCE).map(|at| format!("k{at}")).collect();
    let wanted = |id: &str| ROWS.iter().any(|row| row.starts_with(id) && lab.wants(row));
    let mut rows = Vec::new();
    for (temperature, at_once) in [("cold", 1), ("cold", AT_ONCE), ("warm", 1), ("warm", AT_ONCE)] {
        let id = format!("{prefix}-{temperature}-{at_once}");
        if !wanted(&id) {
            continue;
        }
        let cold = temperature == "cold";
        // All of one kind share the one made ahead, which a cold start must not have.
        let stocked = if cold { 1 } else { at_once };
        let config: String = kinds[..stocked]
            .iter()
            .map(|kind| sandboxed(kind, bundle, limits))
            .collect();
        let mut herd = Herd::start(lab, &id, who, &config)?;
        let mut pair = Pair::new(
            &id,
            &format!("{temperature} sandbox start, {at_once} at once, {as_whom}"),
        );
        let mut peers = Vec::new();
        let mut with = vec![floor];
        if cold {
            with.extend([Kind::Bubblewrap, Kind::Crun, Kind::Runc]);
        }
        for kind in with {
            peers.extend(Peers::open(lab, tiny, kind, who)?);
        }
        let bounds: &[(&str, f64)] = match (cold, who) {
            (true, Who::Root) => &[
                ("crun", 0.65),
                ("runc", 0.16),
                (Kind::FloorWithGroups.name(), 3.0),
            ],
            (true, _) => &[("crun", 0.65), ("runc", 0.16), (Kind::Floor.name(), 3.0)],
            (false, Who::Root) => &[(Kind::FloorWithGroups.name(), 0.5)],
            (false, _) => &[(Kind::Floor.name(), 0.5)],
        };
        for (peer, limit) in bounds {
            pair.median = pair.median.bound(Some(peer), Relation::AtMost, *limit);
        }
        let used: Vec<_> = match cold {
            true => vec![kinds[0].clone(); at_once],
            false => kinds[..at_once].to_vec(),
        };
        for round in 0..=lab.rounds {
            let own = measure_herd(lab, &mut herd, &used, |herd| {
                herd.until_stocked(stocked)?;
                if cold { herd.without_stock() } else { Ok(()) }
            })?;
            if round > 0 {
                pair.push(None, own);
            }
            for peer in &mut peers {
                let readings = measure_peer(lab, peer, at_once)?;
                if round > 0 {
                    pair.push(Some(peer.kind.name()), readings);
                }
            }
        }
        pair.median.note = Some(
            "all answer from the same worker; herd adds a system call filter and a supervised tree, crun and runc \
             see only the hierarchies they need"
                .to_owned(),
        );
        rows.extend([pair.median, pair.p99]);
    }
    Ok(rows)
}
