//! Thin safe wrappers around what Linux offers and `std` does not: pidfds, `clone3`, namespaces' helpers,
//! `/proc`, socket diagnostics. Nothing here knows what a session or a worker is.

pub mod activation;
pub mod fd;
pub mod fork;
pub mod host;
pub mod interrupt;
pub mod kernel;
pub mod lifeline;
pub mod listener;
pub mod lock;
pub mod mounts;
pub mod network;
pub mod pidfd;
pub mod pipe;
pub mod place;
pub mod process;
pub mod rename;
pub mod seccomp;
pub mod stream;
pub mod tcp;
pub mod terminal;
pub mod timer;
pub mod usage;
pub mod user_namespace;
pub mod watch;
