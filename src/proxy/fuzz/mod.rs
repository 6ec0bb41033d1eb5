//! What clients and workers send, from any bytes: the subjects of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

mod answer;
mod entry;
mod gate;
mod http1;
mod session;
mod websocket;

pub use answer::answer;
pub use entry::entry;
pub use gate::gate;
pub use http1::http1;
pub use session::session;
pub use websocket::websocket;
