//! The session core: pure state machines. No I/O, no clock, no async runtime, nothing but `std`.
//!
//! The driver calls one method per event with the present [`Moment`], then carries out the [`Output`]s
//! and arms [`Core::next_deadline`]. Everything random or slow happens outside.
//!
//! # A session
//!
//! ```text
//!            attach                    worker ready                 end (any reason but a crash)
//!  (unknown) ──────▶ Waiting ─────────────────────────▶ Bound ─────────────────────────▶ (unknown)
//!                       │ all clients left,               │ its worker died by itself, or is not alive any more
//!                       │ queue timeout, start failed     ▼
//!                       ▼                                Lost ──▶ (unknown)  on expiry, DELETE,
//!                   (unknown)                                                X-Herd-Session: new
//! ```
//!
//! # A worker
//!
//! ```text
//!  Starting ──▶ Warm ──▶ Bound ──▶ Dying ──▶ gone     each but `gone` occupies one of `max` slots;
//!     │          │  ▲      │        ▲              gone: the whole tree is reaped
//!     │          │  └──────┴─ Recycling (reuse: true, until the old session's holders have left)
//!     └──────────┴──────────────────┘
//! ```
//!
//! Waiting sessions form one FIFO per kind. Workers are started for the length of that queue plus the
//! warm stock, never beyond `max`, and no more at a time than `max_starting`; a worker that becomes ready serves the head of the queue. A waiting
//! session is *covered* while its place in the queue is within the number of starting workers: then it
//! waits for a start, not for a slot, and the queue's limits do not apply to it.
//!
//! A new configuration ([`Core::reload`]) is one more input. Who was bound before stays bound; warm and starting workers
//! of a kind that is renewed end, so that from then on no two sessions get workers of different configurations.
//!
//! A principal with a quota has at most so many sessions that wait, start or are bound; the next is refused at once, so
//! that its own sessions never queue behind each other in the place of somebody else's. With a rate it makes only so many
//! new ones per time, whatever becomes of them.
//!
//! Deliberately absent: fairness between kinds (they share nothing), priorities, persistence.

mod atomic;
mod ending;
mod holders;
mod ids;
mod machine;
mod rate;
mod refusal;
mod rules;
mod timers;

pub use ending::{EndReason, Exit, Limit, StartFailure, StartFailureKind, Status, Unwell};
pub use holders::{HolderKind, Holders, Idle, NoGuest, Release, Snapshot, Unheld};
pub use ids::{
    ConfigGeneration, Generation, InvalidSessionId, KindId, Moment, NAME_PATTERN, SessionId, SessionRef,
    TicketId, WorkerId, is_name,
};
pub use machine::{
    Afterwards, Core, Counts, Fate, KindChoice, Origin, Output, Overview, Remains, Request, Stage,
    StopOutcome, Wait, Waited,
};
pub use rate::{Bucket, Rate};
pub use refusal::{Lack, Quota, Refusal, Unqueued, whole_seconds};
pub use rules::{Allowance, Change, Memory, OnCrash, OnDisconnect, Reuse, Rules, StartedFor};
