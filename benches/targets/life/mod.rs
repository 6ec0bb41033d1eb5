//! Rows about starts, ends and sessions.
//!
//! A *start* is the same for all: from the command, or the first request of a new id, to the first answer of the same
//! tiny worker. Peers run in a [jail], whose clock starts when it has read the command, so that the way to it does not
//! count against them; herd's starts when the first byte of a request is sent over an open connection.
//!
//! Nothing is pinned: a start is the work of several processes, and all contenders have all CPUs.

mod client;
mod floor;
mod herd;
mod jail;
mod peers;
mod starts;
mod tiny;
mod who;
mod wire;

pub(crate) use jail::Jail;

use crate::groups::Group;

pub(crate) const STARTS: Group = Group {
    id: "starts",
    what: "bare and sandbox starts, cold and warm",
    rows: starts::ROWS,
    run: starts::run,
};

pub(crate) const GROUPS: &[Group] = &[STARTS];
