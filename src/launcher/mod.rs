//! The launcher: the one process that forks, and the keepers it forks.
//!
//! ```text
//! herd (threads) ──seqpacket──▶ launcher (one thread, PID 1 of the jail)
//!                                  └─ keeper, one per worker (one thread, PID 1 of the worker's namespace)
//!                                       └─ the worker's tree
//! ```
//!
//! [`fork`] is called by `main` before any thread exists, so the launcher is a clean single-threaded copy that
//! may allocate and fork at leisure, which the threaded herd never may. When herd dies the kernel kills the
//! launcher (parent-death signal), with it the jail's PID namespace, and so every keeper and worker; when one
//! keeper dies, so does everything in its namespace. No clean-up code has to run for that.
//!
//! Where the kernel refuses the namespaces, the *weak* guard does what it can without them: see [`Guard`].
//!
//! The launcher knows nothing of kinds, sessions, ports or readiness: it starts what it is told and says when
//! the tree is gone.

mod by_descriptor;
mod client;
mod commands;
mod exec;
mod fork;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod keeper;
mod parked;
mod run;
mod running;
pub mod sandbox;
mod subordinate;
mod wire;

pub use client::{Client, Keeper, Lost, NewSandbox, SpawnError, Spawned};
pub use commands::MOST as MOST_COMMANDS;
pub use fork::{ForkError, Forked, Guard, Options, fork};
pub use run::Sandboxes;
pub use running::{ExecError, Line, Running, Streams};
pub use wire::{Command, Door, KeeperId, On, Program, Report, Word};
