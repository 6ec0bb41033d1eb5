//! What sessions cost while they do nothing, and how that and everything else grows with their number.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{Resource, getrlimit};

use super::client::Client;
use super::herd::{Herd, bare, bundle, children, sandboxed};
use super::tiny::Tiny;
use super::who::Who;
use crate::lab::Lab;
use crate::process::{cpu_time, memory, open_files, threads};
use crate::samples::Samples;
use crate::table::{Relation, Row};

pub(super) const ROWS: &[&str] = &[
    "same-id-500",
    "session-idle-memory",
    "session-idle-fds",
    "session-idle-threads",
    "keeper-bare",
    "keeper-sandbox",
    "init-sandbox",
];
pub(super) const SCALE_ROWS: &[&str] = &[
    "scale-start",
    "scale-start-cpu",
    "scale-request-cpu",
    "scale-memory",
    "list-10000",
    "list-10000-cpu",
    "list-10000-ps",
];

/// How long sessions idle before they are weighed: herd then no longer keeps the connection to the worker that the last
/// request has left.
const SETTLED: Duration = Duration::from_secs(6);

pub(super) fn run(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let tiny = Tiny::make(&lab.dir("tiny")?)?;
    let wants = |id: &str| ROWS.iter().any(|row| row.starts_with(id) && lab.wants(row));
    let mut rows = Vec::new();
    if wants("same-id") {
        rows.push(same_id(lab, &tiny)?);
    }
    if wants("session-idle") {
        rows.extend(idle(lab, &tiny)?);
    }
    if wants("keeper") || wants("init") {
        let bundle = bundle(lab, &tiny)?;
        rows.extend(keepers(lab, &tiny, &bundle)?);
    }
    rows.retain(|row| lab.wants(&row.id));
    Ok(rows)
}

fn same_id(lab: &Lab, tiny: &Tiny) -> anyhow::Result<Row> {
    let mut row = Row::new(
        "same-id-500",
        "workers started by 500 requests at once on one new id",
        "workers",
    )
    .bound(None, Relation::Exactly, 1.0);
    let mut herd = Herd::start(lab, "same", Who::Root.or_own(), &bare("bare", &tiny.worker, ""))?;
    let mut last_mark = herd.worker_number()?;
    for _ in 0..lab.rounds {
        lab.go_on()?;
        let id = herd.id();
        let sessions = vec![(id.clone(), "bare".to_owned()); 500];
        let bodies = herd.first_answers(&sessions)?;
        let sockets: BTreeSet<_> = bodies.into_iter().map(|(_, body)| body).collect();
        ensure!(sockets.len() == 1, "answered by {sockets:?}");
        herd.end_session(&id)?;
        // Workers are numbered as they are started, also those that never served: two marks have all between them.
        let mark = herd.worker_number()?;
        row.herd.push((mark - last_mark - 1) as f64);
        last_mark = mark;
    }
    Ok(row)
}

/// So many sessions, each with one request, all over one connection.
fn grow(
    lab: &Lab,
    herd: &mut Herd,
    client: &mut Client<TcpStream>,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let ids: Vec<_> = (0..count).map(|_| herd.id()).collect();
    for (at, id) in ids.iter().enumerate() {
        if at % 100 == 0 {
            lab.go_on()?;
        }
        client.ask("GET", "/", &format!("X-Session-ID: {id}\r\n"))?;
    }
    Ok(ids)
}

fn idle(lab: &Lab, tiny: &Tiny) -> anyhow::Result<Vec<Row>> {
    let at = |id: &str, what: &str, unit: &str, limit: f64| {
        Row::new(id, &format!("{what} per idle session inside herd"), unit).bound(
            None,
            Relation::AtMost,
            limit,
        )
    };
    let mut memory_row = at("session-idle-memory", "resident memory", "kB", 6.0);
    let mut fds = at("session-idle-fds", "descriptors", "fds", 3.0);
    let mut thread_row = at("session-idle-threads", "threads", "threads", 0.0);
    let (few, many) = if lab.quick { (20, 200) } else { (100, 1000) };
    for round in 0..lab.rounds.min(5) {
        let name = format!("idle-{round}");
        let mut herd = Herd::start(lab, &name, Who::Root.or_own(), &bare("bare", &tiny.worker, ""))?;
        let mut client = herd.connect()?;
        grow(lab, &mut herd, &mut client, few)?;
        let look = |herd: &Herd| {
            std::thread::sleep(SETTLED);
            let pid = herd.pid();
            anyhow::Ok((memory(pid)?.resident, open_files(pid)?, threads(pid)?))
        };
        let before = look(&herd)?;
        grow(lab, &mut herd, &mut client, many)?;
        let after = look(&herd)?;
        let per = |before: f64, after: f64| (after - before) / many as f64;
        memory_row.herd.push(per(before.0, after.0));
        fds.herd.push(per(before.1 as f64, after.1 as f64));
        thread_row.herd.push(per(before.2 as f64, after.2 as f64));
    }
    fds.note = Some(format!("{SETTLED:?} after its last request"));
    Ok(vec![memory_row, fds, thread_row])
}

fn keepers(lab: &Lab, tiny: &Tiny, bundle: &Path) -> anyhow::Result<Vec<Row>> {
    let kinds = bare("bare", &tiny.worker, "") + &sandboxed("sandbox", bundle, "");
    let mut herd = Herd::start(lab, "keepers", Who::Root.or_own(), &kinds)?;
    let mut rows = Vec::new();
    for (id, kind, what) in [
        (
            "keeper-bare",
            "bare",
            "private dirty memory of a bare worker's keeper",
        ),
        (
            "keeper-sandbox",
            "sandbox",
            "private dirty memory of a sandbox's keeper",
        ),
        (
            "init-sandbox",
            "sandbox",
            "private dirty memory of a sandbox's init",
        ),
    ] {
        let mut row = Row::new(id, what, "kB").bound(None, Relation::AtMost, 150.0);
        for _ in 0..lab.rounds.max(5) {
            let session = herd.id();
            herd.first_requests(&[(session.clone(), kind.to_owned())])?;
            let keeper = herd.keeper(&session)?;
            let whose = match id {
                "init-sandbox" => *children(keeper)?.first().context("the sandbox has no init")?,
                _ => keeper,
            };
            row.herd.push(private_dirty(whose)?);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// In kB. What is clean is a file's, and shared with whoever else has it.
fn private_dirty(pid: i32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    let value = value.with_context(|| format!("{path} has no Private_Dirty"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

/// What a block of sessions cost.
#[derive(Debug, Clone, Copy)]
struct Block {
    start_us: f64,
    start_cpu_us: f64,
    request_cpu_us: f64,
    resident_kb: f64,
    list_us: f64,
    list_cpu_us: f64,
}

/// From a hundred sessions to ten thousand: what one more costs then, and what it cost in the beginning.
pub(super) fn scale(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    let tiny = Tiny::make(&lab.dir("tiny")?)?;
    let (first, block, last) = if lab.quick {
        (50, 100, 500)
    } else {
        (100, 500, 10_000)
    };
    let last = room_for(lab, last)?;
    ensure!(
        last >= 2 * (first + block),
        "that is too few to tell growth from noise"
    );
    let ratio = |id: &str, what: &str, unit: &str| {
        Row::new(id, what, unit).bound(Some("at 100"), Relation::AtMost, 1.25)
    };
    let mut rows = vec![
        ratio("scale-start", "time of one more session at 10,000", "µs"),
        ratio(
            "scale-start-cpu",
            "herd's CPU for one more session at 10,000",
            "µs",
        ),
        ratio(
            "scale-request-cpu",
            "herd's CPU for a request to one of 10,000 sessions",
            "µs",
        ),
        ratio(
            "scale-memory",
            "herd's resident memory for one more session at 10,000",
            "kB",
        ),
        ratio(
            "list-10000",
            "time of a listing of 10,000 sessions, per session",
            "µs",
        ),
        ratio("list-10000-cpu", "herd's CPU for it, per session", "µs"),
    ];
    let mut ps = Row::new("list-10000-ps", "herd ps -o json with 10,000 sessions", "ms");
    let rounds = lab.rounds.min(if lab.quick { 1 } else { 3 });
    for round in 0..rounds {
        let mut herd = Herd::start(
            lab,
            &format!("scale-{round}"),
            Who::Root.or_own(),
            &bare("bare", &tiny.worker, ""),
        )?;
        let mut client = herd.connect()?;
        let mut ids = grow(lab, &mut herd, &mut client, first)?;
        let small = measure_block(lab, &mut herd, &mut client, &mut ids, block)?;
        let began = Instant::now();
        let rest = last.saturating_sub(ids.len() + block);
        ids.extend(grow(lab, &mut herd, &mut client, rest)?);
        let large = measure_block(lab, &mut herd, &mut client, &mut ids, block)?;
        lab.say(&format!(
            "{} sessions; the growth took {:?}",
            ids.len(),
            began.elapsed()
        ));
        for (row, of) in rows.iter_mut().zip([
            |block: &Block| block.start_us,
            |block: &Block| block.start_cpu_us,
            |block: &Block| block.request_cpu_us,
            |block: &Block| block.resident_kb,
            |block: &Block| block.list_us,
            |block: &Block| block.list_cpu_us,
        ]) {
            row.herd.push(of(&large));
            row.peer("at 100").push(of(&small));
        }
        let began = Instant::now();
        let status = Command::new(&lab.herd)
            .args(["ps", "-o", "json", "--control-socket"])
            .arg(herd.control_socket())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "herd ps: {status}");
        ps.herd.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        drop(herd);
        lab.say(&format!("their end took {:?}", began.elapsed()));
    }
    rows.push(ps);
    rows.iter_mut()
        .for_each(|row| row.note = Some(format!("measured at {last} sessions")));
    rows.retain(|row| lab.wants(&row.id));
    Ok(rows)
}

fn measure_block(
    lab: &Lab,
    herd: &mut Herd,
    client: &mut Client<TcpStream>,
    ids: &mut Vec<String>,
    block: usize,
) -> anyhow::Result<Block> {
    let pid = herd.pid();
    let (resident, cpu, began) = (memory(pid)?.resident, cpu_time(pid)?, Instant::now());
    ids.extend(grow(lab, herd, client, block)?);
    let (took, spent) = (began.elapsed(), cpu_time(pid)? - cpu);
    let resident = memory(pid)?.resident - resident;
    let requests = 2000;
    let cpu = cpu_time(pid)?;
    // All over them, in an order that no cache likes.
    for at in 0..requests {
        let id = &ids[at * 7919 % ids.len()];
        client.ask("GET", "/", &format!("X-Session-ID: {id}\r\n"))?;
    }
    let request_cpu = cpu_time(pid)? - cpu;
    let mut lists = Vec::new();
    let mut list_cpu = Duration::ZERO;
    for _ in 0..5 {
        let (cpu, began) = (cpu_time(pid)?, Instant::now());
        let body = herd.control()?.ask("GET", "/v1/sessions", "")?;
        lists.push(began.elapsed().as_secs_f64() * 1e6 / ids.len() as f64);
        list_cpu += cpu_time(pid)? - cpu;
        ensure!(body.len() > ids.len(), "an empty list");
    }
    let us = |time: Duration, by: usize| time.as_secs_f64() * 1e6 / by as f64;
    Ok(Block {
        start_us: us(took, block),
        start_cpu_us: us(spent, block),
        request_cpu_us: us(request_cpu, requests),
        resident_kb: resident / block as f64,
        list_us: lists
            .into_iter()
            .collect::<Samples>()
            .median()
            .context("five of them")?,
        list_cpu_us: us(list_cpu, 5 * ids.len()),
    })
}

/// What herd holds open for a session, its idle connection to the worker included; rounded up.
const OPEN_FILES: usize = 6;

/// As many sessions as are wanted, or as this machine has room for: two processes each, some 400 kB of kernel's,
/// keeper's and herd's memory, herd's descriptors.
fn room_for(lab: &Lab, wanted: usize) -> anyhow::Result<usize> {
    let pids: usize = std::fs::read_to_string("/proc/sys/kernel/pid_max")?
        .trim()
        .parse()?;
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let free = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free: usize = free
        .context("no MemAvailable")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let room = (pids.saturating_sub(2000) / 2)
        .min(free / 400)
        .min(files.saturating_sub(500) / OPEN_FILES);
    lab.say(&format!(
        "{pids} pids, {} MB free, {files} open files",
        free / 1000
    ));
    if room < wanted {
        lab.say(&format!("!!! room for {room} sessions only, not {wanted}"));
    }
    Ok(room.min(wanted))
}
