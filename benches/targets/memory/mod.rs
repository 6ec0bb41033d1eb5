//! What an idle connection keeps in memory.

use std::net::TcpStream;
use std::time::Duration;

use crate::groups::Group;
use crate::lab::Lab;
use crate::load::{self, Target, idle};
use crate::peers::{Front, Keep, Peers, enter};
use crate::process;
use crate::table::{Relation, Row};

pub(crate) const GROUP: Group = Group {
    id: "memory",
    what: "resident memory per idle connection",
    rows: &[
        "idle-keepalive-1k",
        "idle-keepalive-9k",
        "idle-websocket-1k",
        "idle-websocket-9k",
    ],
    run,
};

/// How long connections idle before they are weighed: whoever gives buffers back has done so then.
const SETTLED: Duration = Duration::from_secs(4);

type Open = fn(Target, usize) -> anyhow::Result<Vec<TcpStream>>;

fn run(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    load::pin(lab.cores.load)?;
    let kinds: [(&str, &str, Open, f64); 2] = [
        ("idle-keepalive", "keep-alive connection", idle::keep_alive, 5.0),
        ("idle-websocket", "WebSocket", idle::websockets, 6.0),
    ];
    let mut rows = Vec::new();
    for (prefix, what, open, most) in kinds {
        for (size, count) in [("1k", 1000), ("9k", 9000)] {
            let id = format!("{prefix}-{size}");
            if lab.wants(&id) {
                let what = format!("resident memory per idle {what}, {count} of them");
                let row = Row::new(&id, &what, "kB").bound(None, Relation::AtMost, most);
                rows.push(row_of(lab, row, count, open)?);
            }
        }
    }
    Ok(rows)
}

/// Every reading is of new processes: memory that was used before is not given back to the kernel.
fn row_of(lab: &Lab, mut row: Row, count: usize, open: Open) -> anyhow::Result<Row> {
    lab.say(&row.what);
    // It hardly varies.
    let rounds = if lab.quick { 1 } else { 3 };
    for round in 0..rounds {
        let peers = Peers::start(lab, &format!("{}-{round}", row.id))?;
        for name in ["herd-unix", "haproxy-unix", "nginx-unix"] {
            lab.go_on()?;
            if let Some(front) = peers.front(name) {
                enter(&mut row, front, Keep::Keep, growth(front, count, open)?);
            }
        }
    }
    row.note = Some(
        "Of a new process, after 32 connections that are not counted, idle for 4 s; upstream behind a UNIX socket."
            .to_owned(),
    );
    Ok(row)
}

/// kB per connection.
fn growth(front: Front, count: usize, open: Open) -> anyhow::Result<f64> {
    let _warm = open(front.target, 32)?;
    let files = process::open_files(front.pid)?;
    let before = process::memory(front.pid)?;
    let held = open(front.target, count)?;
    std::thread::sleep(SETTLED);
    let after = process::memory(front.pid)?;
    let files = process::open_files(front.pid)?.saturating_sub(files);
    // Connections to the upstream come and go meanwhile.
    anyhow::ensure!(
        files + 32 >= count,
        "the proxy keeps only {files} of {count} connections"
    );
    Ok((after.resident - before.resident) / held.len() as f64)
}
