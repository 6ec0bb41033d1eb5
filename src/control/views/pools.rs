//! The pools of workers, and how much more they could take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sandbox;
use crate::control::time::millis;
use crate::driver::{PoolView, Standing};

/// `GET /v1/workers`
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WorkerList {
    /// The configuration in force; each that was loaded counts one more.
    pub config_generation: u64,
    pub workers: Vec<Pool>,
}

/// The workers of one kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Pool {
    pub kind: String,
    /// The configuration does not know it any more: its bound sessions go on, and no others begin.
    pub removed: bool,
    pub min: usize,
    /// starting + warm + bound + dying never exceeds it.
    pub max: usize,
    /// Most that may start at a time; null: all.
    pub max_starting: Option<usize>,
    pub starting: usize,
    pub warm: usize,
    pub bound: usize,
    pub dying: usize,
    /// Of all of them, those that were started under a configuration that knew other workers.
    pub outdated: usize,
    /// Sessions that wait until a worker may start for them.
    pub queued: usize,
    /// What the first of them waits for: `slots` (`max` is reached), `starts` (`max_starting` is) or
    /// `memory` (the host has less left than a worker may use).
    pub waits_for: Option<String>,
    /// More than these are refused.
    pub queue_max: usize,
    /// How long the first of them has waited.
    pub longest_wait_ms: Option<u64>,
    /// For how long new sessions are refused because starts keep failing.
    pub backoff_ms: Option<u64>,
    pub sandbox: Sandbox,
}

/// `GET /v1/pressure`: how much more this herd can take.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    pub draining: bool,
    pub workers: Vec<PoolPressure>,
    pub herd: HerdPressure,
    pub host: HostPressure,
    /// What workers with a limit of memory are admitted by; null where nobody asks.
    pub admission: Option<AdmissionPressure>,
}

/// What the host has for workers with a limit of memory, `admission.reserve` set aside.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AdmissionPressure {
    /// Neither in use nor promised, when it was last read; a worker whose limit is larger waits.
    pub memory_left_bytes: u64,
    /// A worker whose limit is larger is refused.
    pub memory_total_bytes: u64,
}

/// How full a pool is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PoolPressure {
    pub kind: String,
    /// Slots that are taken, and of how many.
    pub taken: usize,
    pub max: usize,
    /// Sessions that can be had now: warm workers, and those that may start. Each kind alone: they share the host's memory.
    pub available: usize,
    /// Sessions that wait until a worker may start for them.
    pub queued: usize,
    /// What they wait for: `slots` (`max` is reached), `starts` (`max_starting` is) or `memory` (the host has less left than
    /// a worker may use).
    pub waits_for: Option<String>,
    pub queue_max: usize,
    pub longest_wait_ms: Option<u64>,
    pub backoff_ms: Option<u64>,
}

/// What herd's own process uses.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HerdPressure {
    pub resident_memory_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

/// What is left of the host. A number is null where the kernel does not tell it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostPressure {
    pub memory_available_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub cpus: usize,
    /// Of the last minute.
    pub load_average: Option<f64>,
    /// Share of the last ten seconds in which some process waited for memory, or for a processor, in percent (PSI).
    pub memory_some_percent: Option<f64>,
    pub cpu_some_percent: Option<f64>,
}

impl From<PoolView> for Pool {
    fn from(pool: PoolView) -> Self {
        Self {
            kind: pool.kind,
            removed: pool.standing == Standing::Removed,
            min: pool.min,
            max: pool.max,
            max_starting: pool.max_starting,
            starting: pool.starting,
            warm: pool.warm,
            bound: pool.bound,
            dying: pool.dying,
            outdated: pool.outdated,
            queued: pool.queued,
            waits_for: pool.waits_for.map(|lack| lack.code().to_owned()),
            queue_max: pool.queue_max,
            longest_wait_ms: pool.longest_wait.map(millis),
            backoff_ms: pool.backoff.map(millis),
            sandbox: pool.sandboxing.into(),
        }
    }
}

impl From<PoolView> for PoolPressure {
    fn from(pool: PoolView) -> Self {
        let taken = pool.starting + pool.warm + pool.bound + pool.dying;
        Self {
            kind: pool.kind,
            taken,
            max: pool.max,
            available: match pool.backoff {
                None => pool.warm + pool.room,
                Some(_) => pool.warm,
            },
            queued: pool.queued,
            waits_for: pool.waits_for.map(|lack| lack.code().to_owned()),
            queue_max: pool.queue_max,
            longest_wait_ms: pool.longest_wait.map(millis),
            backoff_ms: pool.backoff.map(millis),
        }
    }
}
