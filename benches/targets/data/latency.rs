//! What a proxy adds to the latency of requests that come at a fixed rate.

use std::collections::HashMap;

use crate::data::durations;
use crate::lab::Lab;
use crate::load::fixed;
use crate::peers::{Keep, Peers, enter};
use crate::samples::Samples;
use crate::table::{Relation, Row};

/// Far below what one core can do.
const RATE: u32 = 2000;
const CONNECTIONS: usize = 16;

pub(super) fn rows(lab: &Lab, peers: &Peers) -> anyhow::Result<Vec<Row>> {
    if !lab.wants("latency-fixed") {
        return Ok(Vec::new());
    }
    let what = format!("p50 added to a direct request, {RATE} requests/s over {CONNECTIONS} connections");
    let mut row = Row::new("latency-fixed", &what, "µs").bound(Some("haproxy"), Relation::AtMost, 1.0);
    lab.say(&row.what);
    let (_, duration) = durations(lab);
    // Of the front's turns in this round; a proxy's is entered when the direct one of its round is known.
    let mut round: HashMap<&str, (crate::peers::Front, Samples)> = HashMap::new();
    let mut tails: HashMap<&str, Samples> = HashMap::new();
    let over = ["direct", "herd", "haproxy", "nginx"];
    let present = over.iter().filter(|name| peers.front(name).is_some()).count();
    peers.take_turns(lab, &over, |front, keep| {
        let latencies = fixed::latencies(front.target, "/small", (RATE, CONNECTIONS), duration * 2)?;
        round.insert(front.name, (front, latencies.into_iter().collect()));
        if round.len() < present {
            return Ok(());
        }
        let direct = round
            .remove("direct")
            .and_then(|(_, latencies)| latencies.median())
            .unwrap_or_default();
        for (name, (front, latencies)) in round.drain() {
            let (Some(p50), Some(p99)) = (latencies.median(), latencies.quantile(0.99)) else {
                continue;
            };
            enter(&mut row, front, keep, p50 - direct);
            if keep == Keep::Keep {
                tails.entry(name).or_default().push(p99);
            }
        }
        Ok(())
    })?;
    let tails: Vec<String> = over
        .iter()
        .filter_map(|name| Some(format!("{name} {:.0}", tails.get(name)?.median()?)))
        .collect();
    row.note = Some(format!(
        "Each request is timed from the moment at which it was due. p99 in µs, the direct part included: {}.",
        tails.join(", ")
    ));
    Ok(vec![row])
}
