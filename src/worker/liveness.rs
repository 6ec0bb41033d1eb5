//! Whether a ready worker is still alive: asked again and again, for kinds with `liveness`, for as long as it is warm
//! or bound.
//!
//! A worker that is at work may have no time for a question, and its work shows that it lives. So nothing is asked
//! while bytes flow: every connection of its session notes in the worker's [`Pulse`] that it has carried some.
//!
//! Each watched worker has a task here. Its first probe comes at a time of its own within the interval, so that workers
//! that became ready together are not asked together; and of all workers only so many are asked at once. A question
//! holds no session and counts as nobody's request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::readiness::{self, Unwell};
use super::{Endpoint, Event};
use crate::config::{Liveness, Protocol};
use crate::core::WorkerId;

/// Probes under way at a time: each takes a descriptor, and the time of the thread that starts workers.
pub(super) const AT_ONCE: usize = 64;

const SENT: u8 = 1;
const SAID: u8 = 2;

/// Which way bytes went between a session and its worker since somebody last looked. Written by whoever moves them,
/// from any thread: after the first byte of an interval that is one load of a word that nobody changes.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU8);

impl Pulse {
    /// Bytes went to the worker.
    pub fn sent(&self) {
        self.note(SENT);
    }

    /// Bytes came from it.
    pub fn said(&self) {
        self.note(SAID);
    }

    fn note(&self, what: u8) {
        if self.0.load(Ordering::Relaxed) & what == 0 {
            self.0.fetch_or(what, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Flow {
        match self.0.swap(0, Ordering::Relaxed) {
            0 => Flow::Silence,
            seen if seen & SAID != 0 => Flow::FromWorker,
            _ => Flow::ToWorker,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Silence,
    /// Takes no answer to be sent, so it is none to the question. But a worker that takes in what is sent is not asked.
    ToWorker,
    /// As good as the answer to a probe.
    FromWorker,
}

/// How a worker is watched.
#[derive(Debug, Clone)]
pub struct Probes {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    pub liveness: Liveness,
    pub pulse: Arc<Pulse>,
}

/// A worker that is watched; dropping it ends that.
#[derive(Debug)]
pub(super) struct Vigil(AbortHandle);

impl Vigil {
    pub(super) fn new(task: AbortHandle) -> Self {
        Self(task)
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What one turn has come to.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Alive,
    /// It was not asked, and nothing is known.
    Busy,
    Failed(String),
}

/// Tells of every failure; ends with the last that the kind allows in a row.
pub(super) async fn watch(
    worker: WorkerId,
    probes: Probes,
    at_once: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
) {
    let Liveness {
        interval, failures, ..
    } = probes.liveness;
    let mut strike = 0;
    let mut next = Instant::now() + phase(worker, interval);
    while strike < failures {
        tokio::time::sleep_until(next).await;
        // What only a probe needs is boxed: there are thousands of these tasks, and they mostly wait.
        match Box::pin(probes.look(&at_once)).await {
            Finding::Alive => strike = 0,
            Finding::Busy => {}
            Finding::Failed(what) => {
                strike += 1;
                let event = Event::ProbeFailed {
                    worker,
                    strike,
                    of: failures,
                    what,
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
        // A turn that had to wait moves those after it.
        next = (next + interval).max(Instant::now());
    }
}

/// When within the interval a worker has its turn. Multiples of the golden ratio lie evenly however many there are, and
/// workers that start together have neighbouring numbers.
fn phase(worker: WorkerId, interval: Duration) -> Duration {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = (worker.0.wrapping_mul(GOLDEN) >> 32) as f64 / f64::from(u32::MAX);
    interval.mul_f64(fraction)
}

impl Probes {
    async fn look(&self, at_once: &Semaphore) -> Finding {
        // Never closed.
        let _place = at_once.acquire().await;
        match self.pulse.take() {
            Flow::Silence => {}
            Flow::ToWorker => return Finding::Busy,
            Flow::FromWorker => return Finding::Alive,
        }
        let Liveness { path, timeout, .. } = &self.liveness;
        let what = match readiness::ask(&self.endpoint, self.protocol, path, *timeout).await {
            Ok(()) => return Finding::Alive,
            Err(Unwell::Because(what)) => what,
            Err(Unwell::Short(e)) => {
                tracing::debug!("cannot ask whether a worker is alive: {e}");
                return Finding::Busy;
            }
        };
        // It may have been at work meanwhile.
        match self.pulse.take() {
            Flow::Silence => Finding::Failed(what),
            Flow::ToWorker => Finding::Busy,
            Flow::FromWorker => Finding::Alive,
        }
    }
}

#[cfg(test)]
mod tests;
