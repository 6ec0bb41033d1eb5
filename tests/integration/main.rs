//! Integration tests, in one binary: real processes, real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

#[path = "../support/client.rs"]
#[allow(dead_code, reason = "the fault suite uses more of it")]
mod client;
#[path = "../support/leak.rs"]
mod leak;
#[path = "../support/random.rs"]
#[allow(dead_code, reason = "the fault suite uses more of it")]
mod random;
#[path = "../support/running.rs"]
#[allow(dead_code, reason = "the fault suite uses more of it")]
mod running;
#[path = "../support/skip.rs"]
mod skip;
#[path = "../support/supervised.rs"]
mod supervised;

mod access;
mod access_log;
mod bundle;
mod control;
mod exec;
mod flood;
mod front;
mod history;
mod log;
mod process;
mod proxy;
mod random_kills;
mod reload;
mod runner;
mod sandbox;
mod service;
mod start;
mod traces;
mod verbs;
