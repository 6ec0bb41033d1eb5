//! Integration tests, in one binary: real processes, real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "../support/running.rs"]
mod running;

mod control;
