//! `GET /metrics`: what was counted, and what there is at this moment.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::build::{Build, VERSION};
use crate::access::Access;
use crate::core::Lack;
use crate::driver::{PoolView, PoolsView, SessionState, SessionView};
use crate::metrics::{Metrics, OfWorker};
use crate::sys::host::OwnUse;
use crate::sys::usage::Forest;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InState {
    worker: String,
    state: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ForWant {
    worker: String,
    of: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
    revision: String,
    rustversion: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPrincipal {
    principal: String,
}

type Gauges<L> = Family<L, Gauge>;

pub(super) fn expose(
    metrics: &Metrics,
    pools: &PoolsView,
    sessions: &[SessionView],
    forest: &Forest,
    access: Option<&Access>,
    started: std::time::SystemTime,
    not_kept: u64,
) -> String {
    let mut text = String::new();
    // Only a writer can fail, and a String does not.
    let _ = encode_registry(&mut text, metrics.registry());
    let mut herd = of_herd(pools, sessions, forest, access);
    herd.register(
        "history_dropped",
        "Ended sessions that are not in the history on disk because it was too slow or could not be written",
        ConstCounter::new(not_kept),
    );
    let _ = encode_registry(&mut text, &herd);
    let _ = encode_registry(&mut text, &of_process(started));
    let _ = encode_eof(&mut text);
    text
}

fn of_herd(
    pools: &PoolsView,
    sessions: &[SessionView],
    forest: &Forest,
    access: Option<&Access>,
) -> Registry {
    let mut registry = Registry::with_prefix("herd");
    // Not of the type `info`, which readers of Prometheus's older format do not know.
    let build = Gauges::<OfBuild>::default();
    let Build { commit, rustc, .. } = Build::this();
    let this = OfBuild {
        version: VERSION,
        revision: commit.unwrap_or_default(),
        rustversion: rustc,
    };
    build.get_or_create(&this).set(1);
    registry.register("build_info", "Which herd this is", build);
    let draining = ConstGauge::new(i64::from(pools.draining));
    registry.register(
        "draining",
        "1 while new sessions are refused because herd ends",
        draining,
    );

    let states = Gauges::<InState>::default();
    for pool in &pools.kinds {
        for state in ["queued", "starting", "bound", "ending"] {
            states.get_or_create(&in_state(&pool.kind, state)).set(0);
        }
    }
    for view in sessions {
        let state = match view.state {
            SessionState::Queued => "queued",
            SessionState::Starting => "starting",
            SessionState::Bound => "bound",
            SessionState::Ending(_) => "ending",
            SessionState::Ended(_) => continue,
        };
        states.get_or_create(&in_state(&view.kind, state)).inc();
    }
    registry.register("sessions", "Sessions by what they are doing", states);
    if let Some(access) = access {
        let principals = Gauges::<OfPrincipal>::default();
        let of = |name: &str| OfPrincipal {
            principal: name.to_owned(),
        };
        for name in access.names() {
            principals.get_or_create(&of(name)).set(0);
        }
        for view in sessions {
            let counts = matches!(
                view.state,
                SessionState::Queued | SessionState::Starting | SessionState::Bound
            );
            if let Some(name) = view.session.id.principal().filter(|_| counts) {
                principals.get_or_create(&of(name)).inc();
            }
        }
        registry.register(
            "principal_sessions",
            "Sessions that count against their principal's quota",
            principals,
        );
    }

    let workers = Gauges::<InState>::default();
    for pool in &pools.kinds {
        for (state, count) in [
            ("starting", pool.starting),
            ("warm", pool.warm),
            ("bound", pool.bound),
            ("dying", pool.dying),
        ] {
            workers
                .get_or_create(&in_state(&pool.kind, state))
                .set(number(count));
        }
    }
    registry.register("workers", "Workers, each in one slot", workers);

    let per_kind = |value: fn(&PoolView) -> i64| {
        let family = Gauges::<OfWorker>::default();
        for pool in &pools.kinds {
            family.get_or_create(&of(&pool.kind)).set(value(pool));
        }
        family
    };
    registry.register(
        "worker_slots",
        "Most workers there may be (max)",
        per_kind(|pool| number(pool.max)),
    );
    registry.register(
        "queue_depth",
        "Sessions that wait until a worker may start for them",
        per_kind(|pool| number(pool.queued)),
    );
    registry.register_with_unit(
        "worker_backoff",
        "For how long new sessions are refused because starts keep failing",
        Unit::Seconds,
        per_kind(|pool| pool.backoff.map_or(0, |left| left.as_secs_f64().ceil() as i64)),
    );
    let waits = Gauges::<ForWant>::default();
    for pool in &pools.kinds {
        for lack in [Lack::Slots, Lack::Starts, Lack::Memory] {
            let of = ForWant {
                worker: pool.kind.clone(),
                of: lack.code(),
            };
            let waits_for = pool.waits_for == Some(lack);
            waits.get_or_create(&of).set(i64::from(waits_for));
        }
    }
    registry.register(
        "queue_for_want",
        "1 while sessions wait because there is not enough of it",
        waits,
    );
    if let Some(memory) = pools.memory {
        registry.register_with_unit(
            "admission_memory_left",
            "Memory for workers with a limit that is neither in use nor promised",
            Unit::Bytes,
            ConstGauge::new(i64::try_from(memory.left).unwrap_or(i64::MAX)),
        );
    }
    let memory = per_kind(|_| 0);
    for view in sessions {
        if let Some(usage) = view.pid.and_then(|pid| forest.of(pid)) {
            let bytes = i64::try_from(usage.memory).unwrap_or(i64::MAX);
            memory.get_or_create(&of(&view.kind)).inc_by(bytes);
        }
    }
    registry.register_with_unit(
        "worker_memory",
        "Resident, unshared memory of the processes of sessions' workers",
        Unit::Bytes,
        memory,
    );
    registry
}

/// <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>
fn of_process(started: std::time::SystemTime) -> Registry {
    let mut registry = Registry::with_prefix("process");
    let own = OwnUse::read();
    let gauge = |bytes: u64| ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
    if let Some(seconds) = own.cpu_seconds {
        registry.register_with_unit(
            "cpu",
            "Processor time of herd itself",
            Unit::Seconds,
            ConstCounter::new(seconds),
        );
    }
    if let Some(resident) = own.resident {
        registry.register_with_unit(
            "resident_memory",
            "Resident memory of herd itself",
            Unit::Bytes,
            gauge(resident),
        );
    }
    if let Some(open) = own.open_fds {
        registry.register("open_fds", "Descriptors that herd has open", gauge(open));
    }
    if let Some(most) = own.max_fds {
        registry.register("max_fds", "Descriptors that herd may have open", gauge(most));
    }
    let since = started.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    registry.register_with_unit(
        "start_time",
        "When herd started, since 1970",
        Unit::Seconds,
        ConstGauge::new(since.as_secs_f64()),
    );
    registry
}

fn of(kind: &str) -> OfWorker {
    OfWorker {
        worker: kind.to_owned(),
    }
}

fn in_state(kind: &str, state: &'static str) -> InState {
    InState {
        worker: kind.to_owned(),
        state,
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
