//! Files that people write: YAML text → a tree whose nodes know their places → typed values, with
//! every mistake of the file in one run.
//!
//! ```text
//! text ──read──▶ Node ──read_as──▶ T        mistakes ──Collector──▶ Problems (file:line:col)
//!                 ▲          │ a mistake: note it, take its node out, read again
//!                 └──────────┘
//! ```
//!
//! What a file may say is not known here: herd.yaml is `config`'s, a recipe is `bundle`'s.

mod deserialize;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
pub(crate) mod problem;
mod tree;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use deserialize::Mistake;
use problem::Collector;
pub use tree::Step;
pub(crate) use tree::{Located, Node, Position, Value, lines, read, written};

/// Takes mistaken nodes out of the tree until the rest reads; `None` if nothing can be made of it.
///
/// Reading again after each mistake is what lets one run report all of them: serde stops at the first.
pub(crate) fn read_as<T: DeserializeOwned>(tree: &mut Node, problems: &mut Collector) -> Option<T> {
    while !problems.is_full() {
        let error = match serde_path_to_error::deserialize::<_, T>(&*tree) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let mut path: Vec<Step> = error.path().iter().filter_map(step).collect();
        let mistake = error.into_inner();
        if let Mistake::UnknownKey { key, .. } = &mistake
            && path.last() != Some(&Step::Key(key.clone()))
        {
            path.push(Step::Key(key.clone()));
        }
        let found = tree.locate(&path);
        let at = match &mistake {
            Mistake::UnknownKey { .. } => found.key_at,
            _ => found.value_at,
        };
        problems.add(at, found.name, mistake.to_string());
        if !tree.remove(&path) {
            return None;
        }
    }
    None
}

fn step(segment: &Segment) -> Option<Step> {
    match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}
