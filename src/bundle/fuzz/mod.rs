//! Images, recipes and the files of this machine, from any bytes: the subjects of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

mod names;
mod recipe;

pub use super::closure::fuzz::{packages, program};
pub use super::image::fuzz::{archive, compressed, document, layer};
pub use names::reference;
pub use recipe::recipe;
