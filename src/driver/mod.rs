//! The driver: the one task that owns the core.

mod attention;
mod clock;
mod handle;
mod session;

pub use clock::Clock;
pub use handle::{
    Attach, Attached, DriverGone, Handle, KindChoice, Origin, PoolView, Remains, SessionState, SessionView,
    Stopped, Wait,
};
pub use session::{Hold, Session};
