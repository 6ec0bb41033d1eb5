//! What stands in the history, whoever has written there: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::collections::BTreeSet;

use super::line::{self, Line};
use super::{KEPT, LARGEST, Told};

/// Lines as [`crate::history::History::read`] gives them.
pub fn history(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    let mut told = Told::read(&lines.collect::<Vec<_>>());
    let (settled, last) = (told.settled, told.last);
    let ended: BTreeSet<u64> = told.ended.iter().map(|kept| kept.session.generation).collect();
    let died = told.died("1970-01-01T00:00:00.000Z");
    assert!(died.len() <= KEPT && last < LARGEST);
    for kept in &died {
        let generation = kept.session.generation;
        assert!(!ended.contains(&generation), "its end is told");
        assert!(generation > settled && generation <= last);
        // What is concluded is written down, and is the same for the next herd.
        let Some(Line::Ended(again)) = Line::parse(&line::ended(kept).unwrap()) else {
            panic!("{kept:?} is not understood");
        };
        assert_eq!(line::ended(&again).unwrap(), line::ended(kept).unwrap());
    }
}
