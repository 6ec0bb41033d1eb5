//! A worker's output as a stream of text lines, escaped for the terminal they end on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{Stream, stream};

use super::answer::{self, Answer};
use super::time::rfc3339;
use crate::worker::{Line, Logs, escape};

/// What one frame carries at most, bytes; roughly, since a line is not split.
const FRAME: usize = 64 << 10;

/// What of a worker's output is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    /// Only the last so many lines of what there is; `None`: all.
    pub(super) tail: Option<usize>,
    /// Only lines that were read from the worker since then.
    pub(super) since: Option<SystemTime>,
    /// Go on until the worker, herd or the reader ends.
    pub(super) follow: bool,
    /// Each line begins with its moment.
    pub(super) timestamps: bool,
}

/// Of which herd a session was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    This,
    Former,
}

/// The last lines of a session whose output is not kept whole.
pub(super) fn kept(whose: Whose, lines: &[String], tail: Option<usize>) -> Answer {
    let mut text = match whose {
        Whose::This => "[herd: ended some time ago; its last lines are kept]\n",
        Whose::Former => "[herd: of a herd before this one; its last lines are kept]\n",
    }
    .to_owned();
    let skipped = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    for line in &lines[skipped..] {
        text.push_str(line);
        text.push('\n');
    }
    answer::text_of("text/plain; charset=utf-8", text)
}

struct Reader {
    logs: Arc<Logs>,
    reading: Reading,
    /// The first line that was not taken from the ring yet.
    next: u64,
    taken: VecDeque<Line>,
}

pub(super) fn read(logs: Arc<Logs>, reading: Reading) -> impl Stream<Item = Bytes> + Send {
    let mut taken = VecDeque::from(logs.tail(reading.tail.unwrap_or(usize::MAX)));
    // With a tail of 0, only what comes from now on.
    let next = match (taken.back(), logs.tail(1).last()) {
        (Some(last), _) | (None, Some(last)) => last.sequence + 1,
        (None, None) => 0,
    };
    if let Some(since) = reading.since {
        taken.retain(|line| line.at >= since);
    }
    let reader = Reader {
        logs,
        reading,
        next,
        taken,
    };
    stream::unfold(reader, |mut reader| async {
        let text = reader.text().await?;
        Some((text, reader))
    })
}

impl Reader {
    async fn text(&mut self) -> Option<Bytes> {
        let mut text = String::new();
        while self.taken.is_empty() {
            let (lines, lost) = self.logs.since(self.next);
            if lost > 0 && !lines.is_empty() {
                text = format!("[herd: {lost} lines were overwritten before they could be read]\n");
            }
            if let Some(last) = lines.last() {
                self.next = last.sequence + 1;
            }
            self.taken = lines.into();
            if !self.taken.is_empty() {
                break;
            }
            if !self.reading.follow {
                return None;
            }
            if !self.logs.wait_for(self.next).await {
                return None;
            }
        }
        while text.len() < FRAME
            && let Some(line) = self.taken.pop_front()
        {
            if self.reading.timestamps {
                text.push_str(&rfc3339(line.at));
                text.push(' ');
            }
            text.push_str(&escape(&line.text));
            text.push('\n');
        }
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::worker::Stream as Source;

    fn push(logs: &Logs, text: &'static str) {
        logs.push(
            Source::Stdout,
            Bytes::from_static(text.as_bytes()),
            SystemTime::UNIX_EPOCH,
        );
    }

    async fn next(stream: &mut (impl Stream<Item = Bytes> + Unpin)) -> Option<String> {
        let text = stream.next().await?;
        Some(String::from_utf8(text.to_vec()).unwrap())
    }

    fn following(tail: Option<usize>) -> Reading {
        Reading {
            tail,
            follow: true,
            ..Reading::default()
        }
    }

    #[tokio::test]
    async fn lines_have_their_moment_and_can_be_asked_for_by_it() {
        let logs = Arc::new(Logs::new(1 << 20));
        let second = |second| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second);
        for (at, text) in [(1, "one"), (2, "two"), (3, "three")] {
            logs.push(Source::Stdout, Bytes::from_static(text.as_bytes()), second(at));
        }
        let reading = Reading {
            since: Some(second(2)),
            timestamps: true,
            ..Reading::default()
        };
        let mut stream = Box::pin(read(logs, reading));
        assert_eq!(
            next(&mut stream).await.unwrap(),
            "1970-01-01T00:00:02.000Z two\n1970-01-01T00:00:03.000Z three\n"
        );
    }

    #[tokio::test]
    async fn followed_lines_come_as_they_are_written_until_the_worker_ends() {
        let logs = Arc::new(Logs::new(1 << 20));
        push(&logs, "old");
        push(&logs, "\x1b[2Jone");
        let mut stream = Box::pin(read(Arc::clone(&logs), following(Some(1))));
        assert_eq!(next(&mut stream).await.unwrap(), "\\x1b[2Jone\n");
        push(&logs, "two");
        assert_eq!(next(&mut stream).await.unwrap(), "two\n");
        logs.close();
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test]
    async fn a_reader_that_was_overtaken_is_told_how_much_it_missed() {
        let logs = Arc::new(Logs::new(4));
        let mut stream = Box::pin(read(Arc::clone(&logs), following(None)));
        for text in ["aaaa", "bbbb", "cccc"] {
            push(&logs, text);
        }
        let text = next(&mut stream).await.unwrap();
        assert_eq!(
            text,
            "[herd: 2 lines were overwritten before they could be read]\ncccc\n"
        );
    }

    #[tokio::test]
    async fn without_follow_the_stream_ends_with_what_there_is() {
        let logs = Arc::new(Logs::new(64));
        push(&logs, "a");
        let mut stream = Box::pin(read(logs, Reading::default()));
        assert_eq!(next(&mut stream).await.unwrap(), "a\n");
        assert_eq!(next(&mut stream).await, None);
    }
}
