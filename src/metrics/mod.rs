//! What herd counts and times, for Prometheus and its like. Names and units follow
//! <https://prometheus.io/docs/practices/naming/>; no label ever has a session's id, so the number of series is bounded
//! by the configuration.
//!
//! Here are counters and histograms, told of events by the driver. Gauges (how many sessions there are now) are read
//! from their owners when somebody asks.

mod traffic;

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use traffic::{Threads, Traffic, Tunnel};

/// Upper bounds of histograms, seconds.
const WAITS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const LIVES: &[f64] = &[
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0,
];
const DEATHS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfWorker {
    /// The kind.
    pub worker: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ForReason {
    worker: String,
    reason: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WithResult {
    result: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OnPath {
    worker: String,
    /// `warm` or `cold`.
    path: &'static str,
}

/// What events of each sort can be for.
#[derive(Debug, Clone, Copy)]
pub struct Reasons {
    pub ended: &'static [&'static str],
    pub refused: &'static [&'static str],
    pub start_failed: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Histograms<L> = Family<L, Histogram, Buckets>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    queue_wait: Histograms<OfWorker>,
    start: Histograms<OnPath>,
    start_failures: Family<ForReason, Counter>,
    rejections: Family<ForReason, Counter>,
    crashes: Family<OfWorker, Counter>,
    liveness_failures: Family<OfWorker, Counter>,
    ended: Family<ForReason, Counter>,
    lives: Histograms<OfWorker>,
    disconnect_to_dead: Histograms<OfWorker>,
    survivors: Family<OfWorker, Counter>,
    reloads: Family<WithResult, Counter>,
    config_generation: Gauge,
    last_reload_successful: Gauge,
    /// Seconds since 1970.
    last_reload: Gauge<f64, AtomicU64>,
    access_log_dropped: Counter,
    traces_dropped: Counter,
    threads: Threads,
}

impl Metrics {
    /// `kinds` have their series from the start, one for each of the `reasons`, so that a rate over the first event is
    /// right.
    pub fn new<'k>(kinds: impl IntoIterator<Item = &'k str>, reasons: &Reasons) -> Self {
        let histograms = |buckets| Histograms::new_with_constructor(Buckets(buckets));
        let mut metrics = Self {
            registry: Registry::with_prefix("herd"),
            queue_wait: histograms(WAITS),
            start: Histograms::new_with_constructor(Buckets(WAITS)),
            start_failures: Family::default(),
            rejections: Family::default(),
            crashes: Family::default(),
            liveness_failures: Family::default(),
            ended: Family::default(),
            lives: histograms(LIVES),
            disconnect_to_dead: histograms(DEATHS),
            survivors: Family::default(),
            reloads: Family::default(),
            config_generation: Gauge::default(),
            last_reload_successful: Gauge::default(),
            last_reload: Gauge::default(),
            access_log_dropped: Counter::default(),
            traces_dropped: Counter::default(),
            threads: Threads::default(),
        };
        metrics.register();
        for worker in kinds {
            metrics.add_kind(worker, reasons);
        }
        for result in ["ok", "error"] {
            drop(metrics.reloads.get_or_create(&WithResult { result }));
        }
        metrics.in_force(1);
        metrics
    }

    /// A new kind has its series, too.
    pub fn add_kind(&self, worker: &str, reasons: &Reasons) {
        let of = of(worker);
        drop(self.queue_wait.get_or_create(&of));
        drop(self.crashes.get_or_create(&of));
        drop(self.liveness_failures.get_or_create(&of));
        drop(self.survivors.get_or_create(&of));
        drop(self.lives.get_or_create(&of));
        drop(self.disconnect_to_dead.get_or_create(&of));
        for (family, reasons) in [
            (&self.ended, reasons.ended),
            (&self.rejections, reasons.refused),
            (&self.start_failures, reasons.start_failed),
        ] {
            for reason in reasons {
                drop(family.get_or_create(&because(worker, reason)));
            }
        }
        for path in ["warm", "cold"] {
            let worker = worker.to_owned();
            drop(self.start.get_or_create(&OnPath { worker, path }));
        }
    }

    /// A new configuration is in force.
    pub fn reloaded(&self, generation: u64) {
        self.reloads.get_or_create(&WithResult { result: "ok" }).inc();
        self.in_force(generation);
    }

    /// The old one stays in force.
    pub fn not_reloaded(&self) {
        self.reloads.get_or_create(&WithResult { result: "error" }).inc();
        self.last_reload_successful.set(0);
    }

    fn in_force(&self, generation: u64) {
        self.config_generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.last_reload_successful.set(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_reload.set(now.as_secs_f64());
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "queue_wait",
            "Time that new sessions waited for a worker slot",
            seconds(),
            self.queue_wait.clone(),
        );
        registry.register_with_unit(
            "worker_start_duration",
            "Time from having a slot to having a ready worker; warm: one was ready",
            seconds(),
            self.start.clone(),
        );
        registry.register(
            "worker_start_failures",
            "Workers that did not become ready",
            self.start_failures.clone(),
        );
        registry.register(
            "rejections",
            "Requests for a session that were refused",
            self.rejections.clone(),
        );
        registry.register(
            "worker_crashes",
            "Sessions whose worker ended by itself",
            self.crashes.clone(),
        );
        registry.register(
            "liveness_failures",
            "Liveness probes that were not answered as they should be",
            self.liveness_failures.clone(),
        );
        registry.register("sessions_ended", "Sessions that ended", self.ended.clone());
        registry.register_with_unit(
            "session_duration",
            "Time from a session's having a worker to its end",
            seconds(),
            self.lives.clone(),
        );
        registry.register_with_unit(
            "disconnect_to_dead",
            "Time from a client's disconnect (after disconnect_grace, if there is one) until its worker's whole tree \
             was reaped",
            seconds(),
            self.disconnect_to_dead.clone(),
        );
        registry.register(
            "kill_survivors",
            "Processes that were seen alive after their tree was killed and reaped; anything but 0 is a defect",
            self.survivors.clone(),
        );
        registry.register(
            "config_reloads",
            "Times that herd.yaml was to be read again",
            self.reloads.clone(),
        );
        registry.register(
            "config_generation",
            "The configuration in force; each that was loaded counts one more",
            self.config_generation.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "0 while the latest reload has failed, and the configuration before it is in force",
            self.last_reload_successful.clone(),
        );
        registry.register_with_unit(
            "config_last_reload_success_timestamp",
            "When the configuration in force was loaded, since 1970",
            seconds(),
            self.last_reload.clone(),
        );
        registry.register(
            "access_log_dropped",
            "Lines of the access log that were not written: no room was left, or the file took none",
            self.access_log_dropped.clone(),
        );
        registry.register(
            "traces_dropped",
            "Spans that were not sent: no room was left, or the receiver took none",
            self.traces_dropped.clone(),
        );
        registry.register_collector(Box::new(self.threads.clone()));
    }

    /// The metrics told so far.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// For whoever writes the access log.
    pub fn access_log_dropped(&self) -> &Counter {
        &self.access_log_dropped
    }

    /// For whoever sends traces.
    pub fn traces_dropped(&self) -> &Counter {
        &self.traces_dropped
    }

    /// What the data plane's threads count.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// A new session has its worker.
    pub fn created(&self, worker: &str, queued: Duration, starting: Duration) {
        self.queue_wait
            .get_or_create(&of(worker))
            .observe(queued.as_secs_f64());
        let path = if starting.is_zero() { "warm" } else { "cold" };
        let on = OnPath {
            worker: worker.to_owned(),
            path,
        };
        self.start.get_or_create(&on).observe(starting.as_secs_f64());
    }

    pub fn start_failed(&self, worker: &str, reason: &'static str) {
        self.start_failures.get_or_create(&because(worker, reason)).inc();
    }

    pub fn refused(&self, worker: &str, reason: &'static str) {
        self.rejections.get_or_create(&because(worker, reason)).inc();
    }

    pub fn ended(&self, worker: &str, reason: &'static str, lived: Duration) {
        self.ended.get_or_create(&because(worker, reason)).inc();
        self.lives.get_or_create(&of(worker)).observe(lived.as_secs_f64());
    }

    pub fn crashed(&self, worker: &str) {
        self.crashes.get_or_create(&of(worker)).inc();
    }

    pub fn probe_failed(&self, worker: &str) {
        self.liveness_failures.get_or_create(&of(worker)).inc();
    }

    pub fn survived(&self, worker: &str, survivors: usize) {
        let survivors = u64::try_from(survivors).unwrap_or(u64::MAX);
        self.survivors.get_or_create(&of(worker)).inc_by(survivors);
    }

    /// The tree of a worker whose client had disconnected is gone.
    pub fn disconnected_and_dead(&self, worker: &str, took: Duration) {
        self.disconnect_to_dead
            .get_or_create(&of(worker))
            .observe(took.as_secs_f64());
    }
}

fn of(worker: &str) -> OfWorker {
    OfWorker {
        worker: worker.to_owned(),
    }
}

fn because(worker: &str, reason: &'static str) -> ForReason {
    ForReason {
        worker: worker.to_owned(),
        reason,
    }
}
