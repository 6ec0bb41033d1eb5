//! A worker's output: read always, so that no worker ever waits for herd, and cut into lines.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use super::escape::escape;
use super::logs::{Logs, Stream};

/// A longer line is kept in pieces of this many bytes.
const MAX_LINE: usize = 8 * 1024;

/// Bounds of what a start failure shows.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 4 * 1024;

/// Most bytes that are read at once.
const SCRATCH: usize = 16 * 1024;

thread_local! {
    /// Of all workers: one that says nothing has no buffer.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Reads to the end of file, which comes when the last process that could write is gone. A task for each of a worker's
/// streams: they are read in the order in which something came.
pub(super) async fn pump(fd: OwnedFd, stream: Stream, logs: Arc<Logs>) {
    let mut pipe = match pipe::Receiver::from_owned_fd(fd) {
        Ok(pipe) => pipe,
        Err(e) => return tracing::warn!("a worker's output cannot be read: {e}"),
    };
    let mut lines = Lines::default();
    while std::future::poll_fn(|cx| poll_read(cx, &mut pipe, &mut lines, stream, &logs)).await {}
    lines.finish(|line| logs.push(stream, line, SystemTime::now()));
}

/// Whether more may come.
fn poll_read(
    cx: &mut Context<'_>,
    pipe: &mut pipe::Receiver,
    lines: &mut Lines,
    stream: Stream,
    logs: &Logs,
) -> Poll<bool> {
    READ.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        if let Err(e) = ready!(Pin::new(pipe).poll_read(cx, &mut buf)) {
            tracing::warn!("a worker's output cannot be read on: {e}");
            return Poll::Ready(false);
        }
        let now = SystemTime::now();
        lines.feed(buf.filled(), |line| logs.push(stream, line, now));
        Poll::Ready(!buf.filled().is_empty())
    })
}

/// Cuts a byte stream into lines without their newline (or carriage return and newline).
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    /// The current line was cut already: its end alone is no further line.
    cut: bool,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(Bytes)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    self.partial.extend_from_slice(&window[..end]);
                    bytes = &bytes[end + 1..];
                    if self.partial.last() == Some(&b'\r') {
                        self.partial.pop();
                    }
                    if !(self.cut && self.partial.is_empty()) {
                        line(self.take());
                    }
                    self.cut = false;
                }
                None => {
                    self.partial.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                    if self.partial.len() == MAX_LINE {
                        line(self.take());
                        self.cut = true;
                    }
                }
            }
        }
    }

    fn finish(mut self, mut line: impl FnMut(Bytes)) {
        if !self.partial.is_empty() {
            line(self.take());
        }
    }

    fn take(&mut self) -> Bytes {
        // Its room goes with it: most lines come whole, and a worker that is silent now may be for hours.
        std::mem::take(&mut self.partial).into_boxed_slice().into()
    }
}

/// The last lines, escaped, at most 20 and at most 4 KiB; the oldest is cut where needed.
pub fn tail(logs: &Logs) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    let mut room = TAIL_BYTES;
    for line in logs.tail(TAIL_LINES).into_iter().rev() {
        let text = escape(&line.text).into_owned();
        if text.len() > room {
            let mark = "…";
            let start = text.len() - room.saturating_sub(mark.len());
            let start = (start..=text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(text.len());
            if start < text.len() {
                shown.push(format!("{mark}{}", &text[start..]));
            }
            break;
        }
        room -= text.len();
        shown.push(text);
    }
    shown.reverse();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.feed(piece, |line| out.push(line.to_vec()));
        }
        lines.finish(|line| out.push(line.to_vec()));
        out
    }

    #[test]
    fn lines_are_cut_wherever_the_pieces_end() {
        assert_eq!(cut(&[b"a\nb", b"c\r", b"\n\nd"]), [&b"a"[..], b"bc", b"", b"d"]);
    }

    #[test]
    fn a_line_without_end_comes_in_bounded_pieces() {
        let long = vec![b'x'; 2 * MAX_LINE + 3];
        let lens: Vec<usize> = cut(&[&long]).iter().map(Vec::len).collect();
        assert_eq!(lens, [MAX_LINE, MAX_LINE, 3]);
        let exact = [&long[..MAX_LINE], b"\nb\n"].concat();
        let lens: Vec<usize> = cut(&[&exact]).iter().map(Vec::len).collect();
        assert_eq!(
            lens,
            [MAX_LINE, 1],
            "a newline after a full piece is not an empty line"
        );
    }

    #[test]
    fn a_tail_is_bounded_escaped_and_ends_with_the_newest() {
        let logs = Logs::new(1 << 20);
        for n in 0..30 {
            logs.push(
                Stream::Stderr,
                Bytes::from(format!("\x1b[3{n}m{}", "y".repeat(300))),
                SystemTime::now(),
            );
        }
        let tail = tail(&logs);
        assert!(tail.len() <= TAIL_LINES, "{}", tail.len());
        assert!(tail.iter().map(String::len).sum::<usize>() <= TAIL_BYTES + "…".len());
        assert!(
            tail.last().unwrap().starts_with("\\x1b[329m"),
            "{:?}",
            tail.last()
        );
        assert!(tail[0].starts_with('…'), "{}", tail[0]);
    }
}
