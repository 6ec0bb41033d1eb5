//! One armed deadline per subject. Firing only means "look at it now": the subject's own state says what,
//! if anything, is due, so a deadline that outlived its reason is harmless.

use std::collections::{BTreeSet, HashMap};

use super::{KindId, Moment, SessionRef, WorkerId};

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subject {
    Session(SessionRef),
    Worker(WorkerId),
    Kind(KindId),
    Drain,
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Moment, Subject)>,
    armed: HashMap<Subject, Moment>,
}

impl Timers {
    /// Replaces the subject's deadline; `None` disarms it.
    pub(super) fn arm(&mut self, subject: Subject, at: Option<Moment>) {
        // A long queue is gone through with every change of its pool, and mostly nothing changes for those in it.
        if self.armed.get(&subject).copied() == at {
            return;
        }
        if let Some(old) = self.armed.remove(&subject) {
            self.queue.remove(&(old, subject.clone()));
        }
        if let Some(at) = at {
            self.armed.insert(subject.clone(), at);
            self.queue.insert((at, subject));
        }
    }

    pub(super) fn next(&self) -> Option<Moment> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes one subject that is due.
    pub(super) fn due(&mut self, now: Moment) -> Option<Subject> {
        if self.next()? > now {
            return None;
        }
        let (_, subject) = self.queue.pop_first()?;
        self.armed.remove(&subject);
        Some(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_subject_has_one_deadline_and_the_earliest_is_due_first() {
        let at = |s| Moment(Duration::from_secs(s));
        let (a, b) = (Subject::Worker(WorkerId(1)), Subject::Drain);
        let mut timers = Timers::default();
        timers.arm(a.clone(), Some(at(1)));
        timers.arm(a.clone(), Some(at(5)));
        timers.arm(b.clone(), Some(at(3)));
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.due(at(2)), None);
        assert_eq!(timers.due(at(9)), Some(b));
        timers.arm(a, None);
        assert_eq!(timers.due(at(9)), None);
    }
}
