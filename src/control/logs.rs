//! A worker's output as a stream of text lines, escaped for the terminal they end on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::body::Frame;
use tokio::sync::watch;

use super::told;
use crate::worker::{Line, Logs, escape};

/// What one frame carries at most, bytes; roughly, since a line is not split.
const FRAME: usize = 64 << 10;

/// What happens at the end of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    Stop,
    /// Go on until the worker, herd or the reader ends.
    Follow,
}

struct Reader {
    logs: Arc<Logs>,
    follow: Follow,
    /// The first line that was not taken from the ring yet.
    next: u64,
    taken: VecDeque<Line>,
    stopping: watch::Receiver<bool>,
}

/// The last `tail` lines (all, if `None`), then what `follow` says.
pub(super) fn read(
    logs: Arc<Logs>,
    tail: Option<usize>,
    follow: Follow,
    stopping: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let taken = VecDeque::from(logs.tail(tail.unwrap_or(usize::MAX)));
    // With `tail=0`, only what comes from now on.
    let next = match (taken.back(), logs.tail(1).last()) {
        (Some(last), _) | (None, Some(last)) => last.sequence + 1,
        (None, None) => 0,
    };
    let reader = Reader {
        logs,
        follow,
        next,
        taken,
        stopping,
    };
    stream::unfold(reader, |mut reader| async {
        let text = reader.text().await?;
        Some((Ok(Frame::data(text)), reader))
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
            if self.follow == Follow::Stop {
                return None;
            }
            tokio::select! {
                more = self.logs.wait_for(self.next) => if !more { return None },
                () = told(&mut self.stopping) => return None,
            }
        }
        while text.len() < FRAME
            && let Some(line) = self.taken.pop_front()
        {
            text.push_str(&escape(&line.text));
            text.push('\n');
        }
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

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

    async fn next(
        stream: &mut (impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin),
    ) -> Option<String> {
        let Ok(frame) = stream.next().await?;
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn followed_lines_come_as_they_are_written_until_the_worker_ends() {
        let logs = Arc::new(Logs::new(1 << 20));
        push(&logs, "old");
        push(&logs, "\x1b[2Jone");
        let (_stop, stopping) = watch::channel(false);
        let mut stream = Box::pin(read(Arc::clone(&logs), Some(1), Follow::Follow, stopping));
        assert_eq!(next(&mut stream).await.unwrap(), "\\x1b[2Jone\n");
        push(&logs, "two");
        assert_eq!(next(&mut stream).await.unwrap(), "two\n");
        logs.close();
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test]
    async fn a_reader_that_was_overtaken_is_told_how_much_it_missed() {
        let logs = Arc::new(Logs::new(4));
        let (_stop, stopping) = watch::channel(false);
        let mut stream = Box::pin(read(Arc::clone(&logs), None, Follow::Follow, stopping));
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
    async fn without_follow_the_stream_ends_with_what_there_is_and_herds_end_ends_any() {
        let logs = Arc::new(Logs::new(64));
        push(&logs, "a");
        let (stop, stopping) = watch::channel(false);
        let mut stream = Box::pin(read(Arc::clone(&logs), None, Follow::Stop, stopping.clone()));
        assert_eq!(next(&mut stream).await.unwrap(), "a\n");
        assert_eq!(next(&mut stream).await, None);

        let mut followed = Box::pin(read(logs, Some(0), Follow::Follow, stopping));
        stop.send_replace(true);
        assert_eq!(next(&mut followed).await, None);
    }
}
