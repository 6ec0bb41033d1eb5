//! A bounded ring of a worker's output lines. Writers never wait for readers.
//!
//! A line takes memory whatever is in it: one that counted for its text alone would be free if it were empty, and a
//! worker that prints newlines could fill the host's memory from within its sandbox.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of output, without its newline; raw bytes, to be escaped where they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counts lines of this worker from 0.
    pub sequence: u64,
    pub at: SystemTime,
    pub stream: Stream,
    pub text: Bytes,
}

impl Line {
    /// Bytes that it counts for: its text, and what is noted of it.
    fn cost(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    /// That all lines count for.
    bytes: usize,
    next: u64,
    closed: bool,
}

/// The output of one worker: as many of its latest lines as count for `limit` bytes.
#[derive(Debug)]
pub struct Logs {
    limit: usize,
    ring: Mutex<Ring>,
    changed: Notify,
}

impl Logs {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            ring: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub fn push(&self, stream: Stream, text: Bytes, at: SystemTime) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let line = Line {
            sequence: ring.next,
            at,
            stream,
            text,
        };
        ring.next += 1;
        ring.bytes += line.cost();
        ring.lines.push_back(line);
        // The newest line stays even if it alone is over the limit; the reader cuts lines well below it.
        while ring.bytes > self.limit && ring.lines.len() > 1 {
            if let Some(oldest) = ring.lines.pop_front() {
                ring.bytes -= oldest.cost();
            }
        }
        drop(ring);
        self.changed.notify_waiters();
    }

    /// No more lines will come.
    pub fn close(&self) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_waiters();
    }

    /// The latest `count` lines, oldest first.
    pub fn tail(&self, count: usize) -> Vec<Line> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lines
            .iter()
            .skip(ring.lines.len().saturating_sub(count))
            .cloned()
            .collect()
    }

    /// Lines from `sequence` on, and how many before the first of them were lost to the ring.
    pub fn since(&self, sequence: u64) -> (Vec<Line>, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.lines.front().map_or(ring.next, |l| l.sequence);
        let lost = first.saturating_sub(sequence);
        // Sequences have no gaps: a reader that is woken by every line does not go through those that it has.
        let skip = usize::try_from(sequence.saturating_sub(first)).unwrap_or(usize::MAX);
        (ring.lines.iter().skip(skip).cloned().collect(), lost)
    }

    /// Waits until line `sequence` exists. `false`: it never will, the worker is gone.
    pub async fn wait_for(&self, sequence: u64) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look: what comes after it wakes.
            changed.as_mut().enable();
            {
                let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
                if ring.next > sequence {
                    return true;
                }
                if ring.closed {
                    return false;
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(limit: usize, lines: &[&'static str]) -> Logs {
        let logs = Logs::new(limit);
        for line in lines {
            logs.push(
                Stream::Stdout,
                Bytes::from_static(line.as_bytes()),
                SystemTime::UNIX_EPOCH,
            );
        }
        logs
    }

    /// Of a ring with room for so many lines of so many bytes.
    const fn limit(lines: usize, text: usize) -> usize {
        lines * (size_of::<Line>() + text)
    }

    #[test]
    fn the_ring_forgets_the_oldest_lines_and_says_how_many() {
        let logs = logs(limit(2, 4), &["aaaa", "bbbb", "cccc"]);
        let (lines, lost) = logs.since(0);
        assert_eq!(
            lines.iter().map(|l| &l.text[..]).collect::<Vec<_>>(),
            [b"bbbb", b"cccc"]
        );
        assert_eq!(lost, 1);
        assert_eq!(logs.tail(1)[0].sequence, 2);
    }

    #[test]
    fn lines_of_nothing_fill_the_ring_as_others_do() {
        for text in ["", "x"] {
            let logs = logs(limit(8, text.len()), &[text; 1000]);
            assert_eq!(logs.tail(1000).len(), 8, "lines of {text:?}");
            assert_eq!(logs.since(0).1, 992, "lines of {text:?}");
        }
    }

    #[test]
    fn a_reader_gets_what_is_new_to_it_and_nothing_of_what_is_to_come() {
        let logs = logs(limit(3, 1), &["a", "b", "c", "d"]);
        let sequences = |from| {
            let (lines, lost) = logs.since(from);
            (lines.iter().map(|l| l.sequence).collect::<Vec<_>>(), lost)
        };
        assert_eq!(sequences(0), (vec![1, 2, 3], 1));
        assert_eq!(sequences(3), (vec![3], 0));
        assert_eq!(sequences(4), (vec![], 0));
        assert_eq!(sequences(u64::MAX), (vec![], 0));
    }

    #[test]
    fn a_line_longer_than_the_ring_is_still_kept() {
        let logs = logs(2, &["a", "bbbb"]);
        assert_eq!(logs.tail(9).len(), 1);
    }
}
