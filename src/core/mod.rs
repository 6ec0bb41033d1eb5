//! The session core: pure state machines. No I/O, no clock, no async runtime, nothing but `std`.

mod ending;
mod holders;
mod ids;
mod refusal;

pub use ending::{EndReason, Exit, StartFailure, StartFailureKind};
pub use holders::{HolderKind, Holders, Release, Snapshot};
pub use ids::{Generation, InvalidSessionId, KindId, Moment, SessionId, SessionRef, TicketId, WorkerId};
pub use refusal::Refusal;
