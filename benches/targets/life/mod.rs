//! Rows about starts, ends and sessions.
//!
//! A *start* is the same for all: from the command, or the first request of a new id, to the first answer of the same
//! tiny worker. Peers run in a [jail], whose clock starts when it has read the command, so that the way to it does not
//! count against them; herd's starts when the first byte of a request is sent over an open connection.
//!
//! Nothing is pinned: a start is the work of several processes, and all contenders have all CPUs.

mod client;
mod ends;
mod floor;
mod herd;
mod jail;
mod peers;
mod sessions;
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

pub(crate) const ENDS: Group = Group {
    id: "ends",
    what: "disconnects, kill -9, start and kill in turn",
    rows: ends::ROWS,
    run: ends::run,
};

pub(crate) const SESSIONS: Group = Group {
    id: "sessions",
    what: "one new id asked for many times; what idle sessions cost",
    rows: sessions::ROWS,
    run: sessions::run,
};

pub(crate) const SCALE: Group = Group {
    id: "scale",
    what: "growth from 100 to 10,000 sessions",
    rows: sessions::SCALE_ROWS,
    run: sessions::scale,
};
