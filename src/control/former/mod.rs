//! Sessions of the herds before this one: what herd's [`History`] keeps, one line of JSON each.
//!
//! A line tells that a session began, or how it ended. A herd that is killed writes no endings, so the next one finds
//! beginnings without an end, and that is an end of its own: [`HERD_DIED`]. Never is it concluded of a session whose end
//! was only not kept:
//!
//! - In the files no end of a session stands before a beginning of it. What drops the oldest lines drops the beginning
//!   first; of those that still live it is written again when a file begins (`writing`).
//! - Where an end finds no room, or cannot be written, a line *settles* all generations up to that one: nothing is to be
//!   concluded of them any more. So does each herd when it has drawn its conclusions.
//!
//! Generations go on where those of the former herd ended, so that one stands for one session over all of them.

#[cfg(any(fuzzing, test))]
pub(super) mod fuzz;
mod line;
#[cfg(test)]
pub(super) mod tests;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

pub(super) use self::line::HERD_DIED;
use self::line::{Beginning, Kept, Line};
pub use self::writing::Writing;
use super::time::rfc3339;
use super::views::Session;
use crate::core::Generation;
use crate::driver::Lost;
use crate::history::History;

/// Of former herds, as many as are remembered of this one.
const KEPT: usize = 1000;
/// No herd comes near this generation; a broken line may.
const LARGEST: u64 = 1 << 53;

/// The sessions of the herds before this one.
#[derive(Debug, Default)]
pub struct Former {
    /// Oldest first.
    kept: Vec<Kept>,
    last: u64,
    lost: Option<Arc<Lost>>,
}

impl Former {
    /// Draws the conclusions, too, and writes them down: the next herd knows less of the time. `started`: when this one
    /// did.
    pub fn read(history: &mut History, started: SystemTime) -> io::Result<Self> {
        let mut told = Told::read(&history.read()?);
        let died = told.died(&rfc3339(started));
        if !died.is_empty() {
            tracing::warn!(
                sessions = died.len(),
                "sessions had not ended when the herd before this one did; they ended with it"
            );
            let lines = died.iter().map(line::ended);
            let settled = std::iter::once(line::settled(told.last));
            for line in lines.chain(settled) {
                if let Err(error) = line.and_then(|line| history.append(&line)) {
                    tracing::warn!(%error, "cannot write the history");
                    break;
                }
            }
        }
        let mut kept = told.ended;
        kept.extend(died);
        kept.sort_by_key(|one: &Kept| one.session.generation);
        kept.drain(..kept.len().saturating_sub(KEPT));
        Ok(Self {
            kept,
            last: told.last,
            lost: None,
        })
    }

    /// Where this herd's generations begin.
    pub fn last_generation(&self) -> Generation {
        Generation(self.last)
    }

    /// Counts what finds no room.
    pub fn counting(mut self, lost: Arc<Lost>) -> Self {
        self.lost = Some(lost);
        self
    }

    /// How many endings of this herd were not kept.
    pub(super) fn lost(&self) -> u64 {
        self.lost.as_ref().map_or(0, |lost| lost.count())
    }

    /// Oldest first.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.kept.iter().map(|one| &one.session)
    }

    /// Of one name, newest first.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = &Session> {
        self.sessions()
            .filter(move |session| session.name() == name)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
    }

    /// The last lines of the newest of a name, or of the one of the generation `only`.
    pub(super) fn log(&self, name: &str, only: Option<u64>) -> Option<(&Session, &[String])> {
        let asked = |one: &&Kept| {
            only.is_none_or(|only| one.session.generation == only) && one.session.name() == name
        };
        self.kept
            .iter()
            .rev()
            .find(asked)
            .map(|one| (&one.session, &*one.log))
    }
}

/// What the lines say.
#[derive(Debug, Default)]
struct Told {
    /// By generation. Of those that have ended, too.
    began: BTreeMap<u64, Beginning>,
    ended: Vec<Kept>,
    /// Nothing is to be concluded of generations up to this one.
    settled: u64,
    last: u64,
}

impl Told {
    fn read(lines: &[Vec<u8>]) -> Self {
        let mut told = Self::default();
        let mut strange = 0;
        for line in lines {
            // A number that is impossible is a broken line's: those of this herd go on after the largest.
            let Some(line) = Line::parse(line).filter(|line| line.generation() < LARGEST) else {
                strange += 1;
                continue;
            };
            told.last = told.last.max(line.generation());
            match line {
                Line::Began { began } => drop(told.began.insert(began.generation, began)),
                Line::Settled { settled } => told.settled = told.settled.max(settled),
                Line::Ended(kept) => told.ended.push(*kept),
            }
        }
        if strange > 0 {
            // The end of a file that a kill cut short, or of a herd that knew more.
            tracing::info!(
                lines = strange,
                "lines of the history are not understood and are passed over"
            );
        }
        told
    }

    /// Ends that nobody has written, oldest first: of sessions that were alive when their herd died. No more than are kept.
    fn died(&mut self, started: &str) -> Vec<Kept> {
        let mut alive = std::mem::take(&mut self.began);
        alive.retain(|generation, _| *generation > self.settled);
        // The last that is known of each herd.
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut see = |run: &str, at: &str| match seen.get_mut(run) {
            Some(last) if &**last >= at => {}
            Some(last) => at.clone_into(last),
            None => drop(seen.insert(run.to_owned(), at.to_owned())),
        };
        for began in alive.values() {
            see(&began.run, &began.created);
        }
        for Kept { session, .. } in &self.ended {
            if let (Some(run), Some(at)) = (&session.run, &session.ended) {
                see(run, at);
            }
            alive.remove(&session.generation);
        }
        let skipped = alive.len().saturating_sub(KEPT);
        let died = alive.into_values().skip(skipped);
        died.map(|began| {
            let last = seen.get(&began.run).cloned().unwrap_or_default();
            began.died(&last, started)
        })
        .collect()
    }
}
