//! The isolation around a worker: what it is made of, and what this host can give of it.
//!
//! Pure description and look-ups; the keeper (`launcher`) is who builds a sandbox.

pub mod cgroup;
pub mod host;
pub mod seccomp;
