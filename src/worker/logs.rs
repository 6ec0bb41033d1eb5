//! A bounded ring of a worker's output lines. Writers never wait for readers.

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

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    bytes: usize,
    next: u64,
    closed: bool,
}

/// The output of one worker: the latest `limit` bytes of it.
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
        let sequence = ring.next;
        ring.next += 1;
        ring.bytes += text.len();
        ring.lines.push_back(Line {
            sequence,
            at,
            stream,
            text,
        });
        // The newest line stays even if it alone is over the limit; the reader cuts lines well below it.
        while ring.bytes > self.limit && ring.lines.len() > 1 {
            if let Some(oldest) = ring.lines.pop_front() {
                ring.bytes -= oldest.text.len();
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
        (
            ring.lines
                .iter()
                .filter(|l| l.sequence >= sequence)
                .cloned()
                .collect(),
            lost,
        )
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

    #[test]
    fn the_ring_forgets_the_oldest_lines_and_says_how_many() {
        let logs = logs(8, &["aaaa", "bbbb", "cccc"]);
        let (lines, lost) = logs.since(0);
        assert_eq!(
            lines.iter().map(|l| &l.text[..]).collect::<Vec<_>>(),
            [b"bbbb", b"cccc"]
        );
        assert_eq!(lost, 1);
        assert_eq!(logs.tail(1)[0].sequence, 2);
    }

    #[test]
    fn a_line_longer_than_the_ring_is_still_kept() {
        let logs = logs(2, &["a", "bbbb"]);
        assert_eq!(logs.tail(9).len(), 1);
    }
}
