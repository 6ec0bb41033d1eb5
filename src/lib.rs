//! herd binds **one session to one worker**: the first request that carries a session id starts (or
//! claims) a worker, every later request of that id reaches exactly that worker, and when the client
//! goes, the worker's whole process tree dies.
//!
//! # Lexicon
//!
//! | word | meaning |
//! |---|---|
//! | session | client-side identity bound to exactly one worker |
//! | worker | one supervised program serving one session at a time |
//! | kind | one entry under `workers:` in herd.yaml; a template for workers |
//! | pool | the starting, warm, bound and dying workers of one kind, and their limit |
//! | principal | who sends requests, known by a key; session ids are its own |
//! | holder | something that keeps a session alive: a request, a stream, a connection, a hold |
//! | launcher | the single-threaded process that forks keepers |
//! | keeper | the small process that owns one worker's tree from birth to reaping |
//! | sandbox | the isolation around a worker |
//! | command | what somebody runs beside a worker's program, in its tree (`herd exec`) |
//! | bundle | an OCI bundle directory: config.json and a root filesystem |
//! | drain | admit nothing new, finish the rest |
//! | evict | end a session for idleness or a cap |
//! | stop / kill / reap | polite end / SIGKILL only / collect an exit status |
//!
//! What each module is, and which others it may use, is a table in docs/ARCHITECTURE.md; `tests/architecture.rs` reads it.

#[cfg(not(target_os = "linux"))]
compile_error!("herd runs on Linux only (kernel 5.11 or newer)");

pub mod access;
pub mod bundle;
mod causes;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod driver;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod history;
pub mod launcher;
pub mod metrics;
pub mod proxy;
pub mod runner;
pub mod sandbox;
#[cfg(test)]
#[path = "../tests/support/skip.rs"]
mod skip;
pub mod sys;
pub mod telemetry;
pub mod worker;
mod yaml;
