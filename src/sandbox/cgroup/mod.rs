//! Limits on a tree of processes, by control groups (cgroups(7)), version 1, hybrid or 2.
//!
//! ```text
//! herd      Hierarchies::open ── finds each controller, makes its own group, sweeps what a killed herd left
//!   │ fork                        (before any thread: the launcher inherits the open directories)
//! launcher
//!   │ fork
//! keeper    Hierarchies::create ─▶ Group::doors ─▶ join, by the sandbox's init ─▶ …the program runs… ─▶ Group::outcome
//! launcher  Removals::push, once the keeper is reaped: the group goes, a little later
//! herd      Hierarchies::close, at a clean end
//! ```
//!
//! ```text
//! <base>                  where this herd was started, or the top of the hierarchy: see `plan`
//! ├─ herd-supervisor      version 2 only: herd itself, and what else was in <base>
//! └─ herd-<hash>          one per state directory, locked by the living herd
//!    ├─ w1                one per sandbox, with its limits
//!    └─ w2
//! ```
//!
//! After `open` everything is done relative to directory descriptors: launcher and keepers live in mount
//! namespaces that need not show any control group.
//!
//! What it deliberately does not do: it asks neither systemd nor a library, it never enters a group that
//! systemd manages and has not delegated, and it does not confine devices (version 1's `devices`, version 2's
//! BPF), because a sandbox's user namespace and `nodev` mounts leave none to be opened. A sandbox never sees
//! cgroupfs at all, so a control group namespace would hide nothing more.

mod dir;
mod group;
mod limits;
mod open;
mod place;
mod plan;
mod remove;
mod room;
mod why;

#[cfg(test)]
mod tests;

pub use group::{CreateError, Group, Outcome, join};
pub use limits::{Controller, Controllers, Cpus, Limits};
pub use open::{GroupId, Hierarchies, Opened};
pub use place::{Layout, Mounted};
pub use plan::{Offer, Survey, survey};
pub use remove::{Removal, Removals};
pub use room::{Own, Room};
pub use why::{Host, Reason, Unavailable};

/// Which interface a controller is reached by: cgroups(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}
