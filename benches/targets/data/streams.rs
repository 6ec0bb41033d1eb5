//! Bulk bytes, in bodies and tunnels, and small messages.

use crate::data::{cpu_of, durations, micros_each};
use crate::lab::Lab;
use crate::load::bulk;
use crate::load::pingpong::PingPong;
use crate::peers::{Front, Peers, enter};
use crate::table::{Relation, Row};

const MIB: u64 = 1 << 20;
const TUNNELS: usize = 64;

pub(super) fn rows(lab: &Lab, peers: &Peers) -> anyhow::Result<Vec<Row>> {
    let bytes = if lab.quick { 64 * MIB } else { 1024 * MIB };
    let mut rows = Vec::new();
    let down = |front: Front| bulk::download(front.target, bytes).map(|()| bytes);
    let up = |front: Front| bulk::upload(front.target, bytes).map(|()| bytes);
    let both = |front: Front| {
        bulk::tunnel_down(front.target, bytes)?;
        bulk::tunnel_up(front.target, bytes)?;
        Ok(2 * bytes)
    };
    let all = ["herd", "haproxy", "nginx"];
    if lab.wants("bulk-down") {
        let row = Row::new("bulk-down", "CPU time per GiB, one body down", "s");
        rows.push(per_gib(lab, peers, row, &all, down)?);
    }
    if lab.wants("bulk-up") {
        let row = Row::new("bulk-up", "CPU time per GiB, one body up", "s");
        rows.push(per_gib(lab, peers, row, &all, up)?);
    }
    if lab.wants("tunnel-bulk") {
        let mut row = Row::new("tunnel-bulk", "CPU time per GiB, one tunnel, down then up", "s").bound(
            Some("haproxy"),
            Relation::AtMost,
            0.45,
        );
        row.note =
            Some("After an upgrade to a protocol that no proxy knows; haproxy with splice-auto.".to_owned());
        rows.push(per_gib(lab, peers, row, &all, both)?);
    }
    if lab.wants("tunnel-64B") {
        rows.push(messages(lab, peers)?);
    }
    Ok(rows)
}

fn per_gib(
    lab: &Lab,
    peers: &Peers,
    mut row: Row,
    over: &[&str],
    work: impl Fn(Front) -> anyhow::Result<u64>,
) -> anyhow::Result<Row> {
    lab.say(&row.what);
    peers.take_turns(lab, over, |front, keep| {
        let (bytes, cpu) = cpu_of(front.pid, || work(front))?;
        enter(
            &mut row,
            front,
            keep,
            cpu.as_secs_f64() * (1024 * MIB) as f64 / bytes as f64,
        );
        Ok(())
    })?;
    Ok(row)
}

fn messages(lab: &Lab, peers: &Peers) -> anyhow::Result<Row> {
    let what = format!("CPU time per 64-byte WebSocket message there and back, {TUNNELS} tunnels");
    let mut row = Row::new("tunnel-64B", &what, "µs").bound(Some("haproxy"), Relation::AtMost, 0.95);
    row.note = Some("One message under way on each tunnel.".to_owned());
    lab.say(&row.what);
    let (warm, duration) = durations(lab);
    peers.take_turns(lab, &["herd", "haproxy", "nginx"], |front, keep| {
        let mut load = PingPong::open(front.target, TUNNELS)?;
        load.run(warm)?;
        let (done, cpu) = cpu_of(front.pid, || load.run(duration))?;
        enter(&mut row, front, keep, micros_each(cpu, done.requests));
        Ok(())
    })?;
    Ok(row)
}
