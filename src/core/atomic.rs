//! The atomics of the core, in one place: `tests/model` puts loom's here and tries every interleaving.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
