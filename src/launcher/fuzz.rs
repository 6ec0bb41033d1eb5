//! Packets between herd, launcher and keepers: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{Answer, Ask, MAX_BODY, Reply, Report, Request, Word, encode};

pub fn wire(input: &[u8]) {
    again::<Request>(input);
    again::<Ask>(input);
    again::<Answer>(input);
    again::<Reply>(input);
    again::<Report>(input);
    again::<Word>(input);
}

/// What was understood is what would be sent.
fn again<T: Serialize + DeserializeOwned + Debug>(packet: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(packet) else {
        return;
    };
    match encode(&message) {
        Ok(body) => {
            assert!(body.len() <= MAX_BODY);
            let read: T = serde_json::from_slice(&body).unwrap();
            assert_eq!(format!("{read:?}"), format!("{message:?}"));
        }
        Err(error) => assert!(packet.len() > MAX_BODY / 8, "{error}"),
    }
}
