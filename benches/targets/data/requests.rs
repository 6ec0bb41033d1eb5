//! Small requests in a closed loop.

use crate::data::{cpu_of, durations, micros_each};
use crate::lab::Lab;
use crate::load::closed::Closed;
use crate::load::http2;
use crate::peers::{Keep, Peers, enter};
use crate::process;
use crate::samples::Samples;
use crate::table::{Relation, Row};

pub(super) fn rows(lab: &Lab, peers: &Peers) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (id, connections) in [("get-1-tcp", 1), ("get-256-tcp", 256)] {
        if lab.wants(id) {
            let over = ["herd", "haproxy", "nginx", "floor"];
            let row = small_get(id, connections).bound(Some("haproxy"), Relation::AtMost, 1.0);
            let (row, _) = closed(lab, peers, row, connections, &over)?;
            rows.push(row);
        }
    }
    if lab.wants("get-64-tcp") || lab.wants("rps-64") {
        let over = ["herd", "haproxy", "haproxy-plain", "nginx", "floor"];
        let row = small_get("get-64-tcp", 64).bound(Some("haproxy"), Relation::AtMost, 1.0);
        rows.extend(<[Row; 2]>::from(closed(lab, peers, row, 64, &over)?));
    }
    if lab.wants("get-64-unix") {
        let mut row = small_get("get-64-unix", 64).bound(Some("haproxy"), Relation::AtMost, 0.7);
        row.what.push_str(", worker behind a UNIX socket");
        row.note = Some("Against haproxy with a TCP upstream, measured in the same rounds.".to_owned());
        let over = ["herd-unix", "haproxy", "haproxy-unix", "nginx-unix"];
        let (row, _) = closed(lab, peers, row, 64, &over)?;
        rows.push(row);
    }
    if lab.wants("h2-64") {
        rows.push(over_http2(lab, peers)?);
    }
    let order = super::GROUP.rows;
    rows.retain(|row| lab.wants(&row.id));
    rows.sort_by_key(|row| order.iter().position(|id| *id == row.id));
    Ok(rows)
}

fn small_get(id: &str, connections: usize) -> Row {
    let what = format!("CPU time per small GET, {connections} keep-alive connections");
    Row::new(id, &what, "µs")
}

/// CPU time per request as that row says, and the requests per second of the same readings.
fn closed(
    lab: &Lab,
    peers: &Peers,
    mut row: Row,
    connections: usize,
    over: &[&str],
) -> anyhow::Result<(Row, Row)> {
    lab.say(&row.what);
    let (warm, duration) = durations(lab);
    let what = format!("requests per second of one core, {connections} connections");
    let mut rate =
        Row::new(&format!("rps-{connections}"), &what, "1/s").bound(Some("haproxy"), Relation::AtLeast, 0.95);
    let mut busy = Samples::default();
    peers.take_turns(lab, over, |front, keep| {
        let mut load = Closed::open(front.target, "/small", connections)?;
        load.run(warm)?;
        let (done, cpu) = cpu_of(front.pid, || load.run(duration))?;
        enter(&mut row, front, keep, micros_each(cpu, done.requests));
        enter(
            &mut rate,
            front,
            keep,
            done.requests as f64 / done.took.as_secs_f64(),
        );
        if keep == Keep::Keep && front.name == "herd" {
            busy.push(cpu.as_secs_f64() / done.took.as_secs_f64() * 100.0);
        }
        Ok(())
    })?;
    if let Some(busy) = busy.median() {
        rate.note = Some(format!(
            "herd had {busy:.0} % of its core; below about 95 % it is the load, or another program on this machine, \
             that limits the rate, and only the CPU time per request tells."
        ));
    }
    Ok((row, rate))
}

fn over_http2(lab: &Lab, peers: &Peers) -> anyhow::Result<Row> {
    let mut row = Row::new(
        "h2-64",
        "CPU time per small GET, HTTP/2, 4 connections of 16 streams",
        "µs",
    )
    .bound(Some("haproxy-h2"), Relation::AtMost, 1.0);
    row.note = Some("Prior knowledge, HTTP/1.1 to the upstream.".to_owned());
    lab.say(&row.what);
    peers.take_turns(lab, &["herd", "haproxy-h2", "nginx-h2"], |front, keep| {
        let observe = || process::cpu_time(front.pid);
        let (done, before, after) = http2::run(front.target, (4, 16), durations(lab), observe)?;
        anyhow::ensure!(done.requests > 0, "no request was answered");
        enter(
            &mut row,
            front,
            keep,
            micros_each(after.saturating_sub(before), done.requests),
        );
        Ok(())
    })?;
    Ok(row)
}
