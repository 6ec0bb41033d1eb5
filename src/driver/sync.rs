//! What the driver and other threads meet at, in one place: `tests/model` puts loom's here and tries every
//! interleaving.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use tokio::sync::Notify;
