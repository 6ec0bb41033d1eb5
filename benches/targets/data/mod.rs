//! The data plane: what a request, a byte and a message cost.

mod latency;
mod requests;
mod streams;

use std::time::Duration;

use crate::groups::Group;
use crate::lab::Lab;
use crate::load;
use crate::peers::Peers;
use crate::process;
use crate::table::Row;

pub(crate) const GROUP: Group = Group {
    id: "data",
    what: "requests, bodies and tunnels: CPU time of the proxy alone",
    rows: &[
        "get-1-tcp",
        "get-64-tcp",
        "get-256-tcp",
        "get-64-unix",
        "rps-64",
        "h2-64",
        "latency-fixed",
        "bulk-down",
        "bulk-up",
        "tunnel-bulk",
        "tunnel-64B",
    ],
    run,
};

fn run(lab: &Lab) -> anyhow::Result<Vec<Row>> {
    load::pin(lab.cores.load)?;
    let peers = Peers::start(lab, "data")?;
    let mut rows = Vec::new();
    for measure in [requests::rows, latency::rows, streams::rows] {
        rows.extend(measure(lab, &peers)?);
    }
    Ok(rows)
}

/// Before a reading, and for it.
fn durations(lab: &Lab) -> (Duration, Duration) {
    if lab.quick {
        (Duration::from_millis(50), Duration::from_millis(200))
    } else {
        (Duration::from_millis(300), Duration::from_millis(1500))
    }
}

/// CPU time of a proxy over whatever `work` does.
fn cpu_of<T>(pid: i32, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let before = process::cpu_time(pid)?;
    let done = work()?;
    Ok((done, process::cpu_time(pid)?.saturating_sub(before)))
}

fn micros_each(cpu: Duration, done: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / done as f64
}
