//! What the data plane has answered. Each of its threads counts for itself, in counters that no other thread writes: no
//! request waits for another processor's cache. They are added up when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Upper bounds in microseconds. A request through herd takes some tens of them, and a worker's own time.
const BOUNDS: [u64; 14] = [
    250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];
/// The lowest and one more than the highest status.
const STATUSES: std::ops::Range<u16> = 100..600;

/// One thread's.
#[derive(Debug)]
pub struct Traffic {
    /// By status.
    answers: [AtomicU64; (STATUSES.end - STATUSES.start) as usize],
    /// The last is for what took longer than all bounds.
    took: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    tunnels: AtomicU64,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfCode {
    code: u16,
}

impl Traffic {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            answers: std::array::from_fn(|_| zero()),
            took: std::array::from_fn(|_| zero()),
            micros: zero(),
            tunnels: zero(),
        }
    }

    /// A request has its answer's head, or 499: its client has left. Only the owning thread calls this.
    pub fn answered(&self, status: u16, took: Duration) {
        let index = usize::from(status.saturating_sub(STATUSES.start));
        if let Some(answers) = self.answers.get(index) {
            add(answers, 1);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.took[BOUNDS.partition_point(|bound| *bound < micros)], 1);
        add(&self.micros, micros);
    }

    /// A tunnel begins; it ends when this is dropped. Tunnels stay with their thread.
    pub fn tunnel(self: &Arc<Self>) -> Tunnel {
        add(&self.tunnels, 1);
        Tunnel(Arc::clone(self))
    }
}

/// A WebSocket or another upgrade that is open.
#[derive(Debug)]
pub struct Tunnel(Arc<Traffic>);

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It has been counted, so there is no zero to go below.
        let tunnels = &self.0.tunnels;
        tunnels.store(
            tunnels.load(Ordering::Relaxed).saturating_sub(1),
            Ordering::Relaxed,
        );
    }
}

/// No read-modify-write: there is one writer.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Relaxed,
    );
}

/// All threads'.
#[derive(Debug, Clone, Default)]
pub struct Threads(Arc<Mutex<Vec<Arc<Traffic>>>>);

impl Threads {
    /// For one more thread.
    pub fn join(&self) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic::new());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&traffic));
        traffic
    }
}

impl Collector for Threads {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(&Traffic) -> &AtomicU64| -> u64 {
            all.iter()
                .map(|traffic| of(traffic).load(Ordering::Relaxed))
                .sum()
        };
        let mut requests = encoder.encode_descriptor(
            "http_requests",
            "Requests of the data plane by their answer's status; 499: the client left before",
            None,
            MetricType::Counter,
        )?;
        for (index, code) in STATUSES.enumerate() {
            let count = sum(&|traffic| &traffic.answers[index]);
            if count > 0 {
                ConstCounter::new(count).encode(requests.encode_family(&OfCode { code })?)?;
            }
        }
        let mut durations = encoder.encode_descriptor(
            "http_request_duration",
            "Time from a request's head to its answer's, the worker's own time included",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let bound = |index: usize| {
            BOUNDS
                .get(index)
                .map_or(f64::INFINITY, |micros| *micros as f64 / 1e6)
        };
        let buckets: Vec<(f64, u64)> = (0..=BOUNDS.len())
            .map(|index| (bound(index), sum(&|traffic| &traffic.took[index])))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = sum(&|traffic| &traffic.micros) as f64 / 1e6;
        durations.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        let tunnels = i64::try_from(sum(&|traffic| &traffic.tunnels)).unwrap_or(i64::MAX);
        let gauge = ConstGauge::new(tunnels);
        let open = encoder.encode_descriptor(
            "websocket_connections",
            "WebSockets and other upgrades that are open",
            None,
            MetricType::Gauge,
        )?;
        gauge.encode(open)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn threads_are_added_up() {
        let threads = Threads::default();
        let (one, two) = (threads.join(), threads.join());
        one.answered(200, Duration::from_micros(250));
        two.answered(200, Duration::from_micros(251));
        two.answered(499, Duration::from_secs(60));
        let open = one.tunnel();
        drop(two.tunnel());
        let mut registry = Registry::with_prefix("herd");
        registry.register_collector(Box::new(threads));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "herd_http_requests_total{code=\"200\"} 2\n",
            "herd_http_requests_total{code=\"499\"} 1\n",
            "herd_http_request_duration_seconds_bucket{le=\"0.00025\"} 1\n",
            "herd_http_request_duration_seconds_bucket{le=\"0.0005\"} 2\n",
            "herd_http_request_duration_seconds_bucket{le=\"30.0\"} 2\n",
            "herd_http_request_duration_seconds_bucket{le=\"+Inf\"} 3\n",
            "herd_http_request_duration_seconds_count 3\n",
            "herd_http_request_duration_seconds_sum 60.000501\n",
            "herd_websocket_connections 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(open);
    }
}
