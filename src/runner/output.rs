//! The streamed answer of `POST /v1/run`: one JSON object per line.
//!
//! `{"stream":"stdout","data":"…"}` as output comes (`"base64":"…"` instead of `data` where it is not
//! UTF-8), then `{"exit":{"code":0}}` or `{"exit":{"signal":9}}`. Nothing is lost: while the client does
//! not read, the pipes fill and the command waits. The response body owns the command; when the client
//! leaves, the body is dropped and the command's process group dies.

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::{Buf, Bytes};
use data_encoding::BASE64;
use futures_util::stream;
use http::{HeaderValue, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::signal::unix::Signal;

use super::answer::Answer;
use super::command::{Ended, Group, Pipes};

const READ_SIZE: usize = 16 << 10;
/// More than this was not in the pipe when the program ended (pipe(7): `pipe-max-size`).
const LARGEST_PIPE: usize = 1 << 20;

/// A started command and what is still to be told of it.
#[derive(Debug)]
pub(super) struct Running {
    /// `None` once its end was seen and the group was killed.
    group: Option<Group>,
    children: Signal,
    stdin: Option<pipe::Sender>,
    to_write: Bytes,
    stdout: Output,
    stderr: Output,
    lines: VecDeque<Bytes>,
}

impl Running {
    pub(super) fn new(group: Group, children: Signal, pipes: Pipes, to_write: Bytes) -> Self {
        Self {
            group: Some(group),
            children,
            stdin: pipes.stdin,
            to_write,
            stdout: Output::new("stdout", pipes.stdout),
            stderr: Output::new("stderr", pipes.stderr),
            lines: VecDeque::new(),
        }
    }

    pub(super) fn into_answer(self) -> Answer {
        let frames = stream::unfold(self, |mut running| async {
            let line = running.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(line)), running))
        });
        let mut answer = Answer::new(Box::pin(StreamBody::new(frames)));
        answer.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        answer
    }

    /// The next line; `None` after the exit line.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if let Some(ended) = self.group.as_ref()?.ended() {
                self.finish(ended);
                continue;
            }
            tokio::select! {
                _ = self.children.recv() => {}
                () = feed(&mut self.stdin, &mut self.to_write) => {}
                () = self.stdout.read() => self.stdout.take_whole(&mut self.lines),
                () = self.stderr.read() => self.stderr.take_whole(&mut self.lines),
            }
        }
    }

    /// The program has ended: what it left running is killed, what it left in the pipes is told.
    fn finish(&mut self, ended: Ended) {
        self.group = None;
        // Not until end of file: a process that left the group may hold the pipe for ever.
        for output in [&mut self.stdout, &mut self.stderr] {
            output.drain(&mut self.lines);
        }
        self.lines.push_back(line(&match ended {
            Ended::Code(code) => json!({ "exit": { "code": code } }),
            Ended::Signal(signal) => json!({ "exit": { "signal": signal } }),
        }));
    }
}

/// Writes some of stdin; closes it at its end, or when the command does not want more.
async fn feed(stdin: &mut Option<pipe::Sender>, to_write: &mut Bytes) {
    let Some(sender) = stdin else {
        return std::future::pending().await;
    };
    if to_write.is_empty() {
        *stdin = None;
        return;
    }
    match sender.write(to_write).await {
        Ok(written) => to_write.advance(written),
        Err(_) => *stdin = None,
    }
}

/// One of the two output streams.
#[derive(Debug)]
struct Output {
    name: &'static str,
    pipe: Option<pipe::Receiver>,
    /// Read, but not told yet: between reads at most the start of one UTF-8 character.
    pending: Vec<u8>,
}

impl Output {
    fn new(name: &'static str, pipe: Option<pipe::Receiver>) -> Self {
        Self {
            name,
            pipe,
            pending: Vec::new(),
        }
    }

    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        self.pending.reserve(READ_SIZE);
        if matches!(pipe.read_buf(&mut self.pending).await, Ok(0) | Err(_)) {
            self.pipe = None;
        }
    }

    fn drain(&mut self, lines: &mut VecDeque<Bytes>) {
        let Some(pipe) = self.pipe.take() else {
            return self.take_rest(lines);
        };
        // Asked of the kernel: tokio's `try_read` answers from what it last heard, which may be that there is nothing.
        let Ok(pipe) = pipe.into_nonblocking_fd() else {
            return self.take_rest(lines);
        };
        let mut buffer = [0; READ_SIZE];
        let mut left = LARGEST_PIPE;
        while let Ok(count @ 1..) = nix::unistd::read(&pipe, &mut buffer) {
            self.pending.extend_from_slice(&buffer[..count]);
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
        self.take_rest(lines);
    }

    /// Tells what is pending, but keeps a character whose end was not read yet.
    fn take_whole(&mut self, lines: &mut VecDeque<Bytes>) {
        let keep = if self.pipe.is_some() {
            incomplete_tail(&self.pending)
        } else {
            0
        };
        let rest = self.pending.split_off(self.pending.len() - keep);
        self.take_rest(lines);
        self.pending = rest;
    }

    fn take_rest(&mut self, lines: &mut VecDeque<Bytes>) {
        if self.pending.is_empty() {
            return;
        }
        let told = match std::str::from_utf8(&self.pending) {
            Ok(text) => json!({ "stream": self.name, "data": text }),
            Err(_) => json!({ "stream": self.name, "base64": BASE64.encode(&self.pending) }),
        };
        self.pending.clear();
        lines.push_back(line(&told));
    }
}

/// How many bytes at the end are the start of a character that is not there yet.
fn incomplete_tail(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        _ => 0,
    }
}

fn line(value: &serde_json::Value) -> Bytes {
    let mut text = value.to_string();
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_start_of_a_character_is_kept_back() {
        assert_eq!(incomplete_tail("aü".as_bytes()), 0);
        assert_eq!(incomplete_tail(&"aü".as_bytes()[..2]), 1);
        assert_eq!(incomplete_tail(&"a😀".as_bytes()[..4]), 3);
        assert_eq!(
            incomplete_tail(b"a\xff"),
            0,
            "never a character: told as base64 at once"
        );
    }

    #[tokio::test]
    async fn what_came_before_anybody_looked_is_told() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut output = Output::new(
            "stderr",
            Some(pipe::Receiver::from_owned_fd(reader.into()).unwrap()),
        );
        // The runtime has had no chance to hear of it.
        std::io::Write::write_all(&mut writer, b"late").unwrap();
        let mut lines = VecDeque::new();
        output.drain(&mut lines);
        assert_eq!(lines[0], "{\"stream\":\"stderr\",\"data\":\"late\"}\n");
    }

    #[test]
    fn bytes_that_are_not_text_are_told_as_base64() {
        let mut output = Output::new("stderr", None);
        output.pending = vec![0xff, 0];
        let mut lines = VecDeque::new();
        output.take_whole(&mut lines);
        assert_eq!(lines[0], "{\"stream\":\"stderr\",\"base64\":\"/wA=\"}\n");
    }
}
