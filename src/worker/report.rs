//! What a keeper says of its worker.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use crate::core::{Exit, Limit, Status};
use crate::launcher::Report;
use crate::sandbox::cgroup::Outcome;
use crate::sys::process::Census;

/// No report comes near this, in bytes; what is longer is not one.
const LINE_MAX: usize = 64 * 1024;
/// Bytes read at a time: reports are short and rare, and a keeper that says nothing has no buffer here.
const ONCE: usize = 1024;

/// Reads the status pipe.
#[derive(Debug)]
pub(super) struct ReportReader {
    pipe: pipe::Receiver,
    /// Read, and not looked at yet.
    unread: Vec<u8>,
    /// What has come of the present line, up to its limit.
    line: Vec<u8>,
    created: bool,
    exec_failure: Option<String>,
    status: Option<Status>,
    outcome: Outcome,
    left: Census,
}

/// How a worker's main process ended by itself, and what ended with it.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) census: Census,
}

impl ReportReader {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        Ok(Self {
            pipe: pipe::Receiver::from_owned_fd(fd)?,
            unread: Vec::new(),
            line: Vec::new(),
            created: false,
            exec_failure: None,
            status: None,
            outcome: Outcome::default(),
            left: Census::default(),
        })
    }

    /// Until the sandbox waits for its program, or why it never will. Cancel-safe.
    pub(super) async fn created(&mut self) -> Result<(), String> {
        while !self.created {
            if let Some(message) = self.exec_failure.take() {
                return Err(message);
            }
            if !self.next().await {
                return Err("the sandbox's keeper ended while it was being made".to_owned());
            }
        }
        Ok(())
    }

    /// Until the main process has ended, or the keeper has without a word. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        while self.status.is_none() && self.exec_failure.is_none() && self.next().await {}
    }

    pub(super) async fn read_out(&mut self) {
        while self.next().await {}
    }

    /// The program could not be run, and why.
    pub(super) fn exec_failure(&mut self) -> Option<String> {
        self.exec_failure.take()
    }

    /// How the main process ended, which limit it had met, and what ended with it; complete once all is read.
    pub(super) fn end(&self) -> Option<Ended> {
        let mut census = self.left.clone();
        // And itself.
        census.processes += 1;
        Some(Ended {
            exit: self.exit()?,
            census,
        })
    }

    fn exit(&self) -> Option<Exit> {
        let status = self.status?;
        let outcome = &self.outcome;
        let limit = if status == Status::Code(0) {
            None
        } else if outcome.oom_kills > 0 && outcome.memory_limit_hit {
            Some(Limit::Memory)
        } else if outcome.oom_kills > 0 {
            Some(Limit::HostMemory)
        } else if outcome.pids_denied > 0 {
            Some(Limit::Processes {
                refused: outcome.pids_denied,
            })
        } else if outcome.cpu_periods_throttled > 0 {
            Some(Limit::Processor {
                waited: std::time::Duration::from_micros(outcome.cpu_throttled),
            })
        } else {
            None
        };
        Some(match (status, limit) {
            (status, Some(limit)) => Exit::Limited { status, limit },
            (Status::Code(code), None) => Exit::Code(code),
            (Status::Signal(signal), None) => Exit::Signal(signal),
        })
    }

    /// Reads once; nothing comes at the end of the stream. `false`: it cannot be read.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut bytes = [0; ONCE];
        let mut buf = ReadBuf::new(&mut bytes);
        let read = ready!(Pin::new(&mut self.pipe).poll_read(cx, &mut buf));
        self.unread.extend_from_slice(buf.filled());
        Poll::Ready(read.is_ok())
    }

    /// Takes in one line. Cancel-safe: nothing is lost between two awaits.
    async fn next(&mut self) -> bool {
        loop {
            if self.unread.is_empty() && !std::future::poll_fn(|cx| self.poll_fill(cx)).await {
                return false;
            }
            let over = self.unread.is_empty();
            let end = self.unread.iter().position(|b| *b == b'\n');
            let here = end.unwrap_or(self.unread.len());
            // One byte over the limit is kept: it tells a long line from one that just fits.
            let room = (LINE_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&self.unread[..here.min(room)]);
            match end {
                Some(end) => drop(self.unread.drain(..=end)),
                None => self.unread = Vec::new(),
            }
            if end.is_some() || (over && !self.line.is_empty()) {
                break;
            }
            if over {
                return false;
            }
        }
        let line = std::mem::take(&mut self.line);
        if line.len() > LINE_MAX {
            tracing::warn!("a keeper is not understood: a line of more than {LINE_MAX} bytes");
            return true;
        }
        match serde_json::from_slice(&line) {
            Ok(Report::ExecFailed { message }) => self.exec_failure = Some(message),
            Ok(Report::Created) => self.created = true,
            // The first word counts: the program's own end, before what follows from it.
            Ok(Report::Exited { code }) => self.status = self.status.or(Some(Status::Code(code))),
            Ok(Report::Signalled { signal }) => self.status = self.status.or(Some(Status::Signal(signal))),
            Ok(Report::Left { processes, memory }) => {
                // Their numbers are those of a namespace that is gone.
                self.left = Census {
                    pids: Vec::new(),
                    processes,
                    memory,
                }
            }
            Ok(Report::Limits { outcome }) => self.outcome = outcome,
            Ok(Report::Note { message }) => tracing::debug!("{message}"),
            Err(e) => tracing::warn!("a keeper is not understood: {e}"),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::reader;
    use super::*;

    /// How a program ended by this status, where the kernel did that because of memory.
    async fn ended(code: i32, oom_kills: u64, memory_limit_hit: bool) -> Option<Exit> {
        let outcome = Outcome {
            oom_kills,
            memory_limit_hit,
            ..Outcome::default()
        };
        let mut said = Vec::new();
        for report in [Report::Exited { code }, Report::Limits { outcome }] {
            serde_json::to_writer(&mut said, &report).unwrap();
            said.push(b'\n');
        }
        let mut reader = reader(&said);
        reader.read_out().await;
        reader.end().map(|end| end.exit)
    }

    #[tokio::test]
    async fn whose_memory_was_used_up_is_told() {
        let of = |limit| {
            let status = Status::Code(137);
            Some(Exit::Limited { status, limit })
        };
        assert_eq!(ended(137, 1, true).await, of(Limit::Memory));
        assert_eq!(ended(137, 1, false).await, of(Limit::HostMemory));
        assert_eq!(
            ended(137, 0, true).await,
            Some(Exit::Code(137)),
            "nobody was killed"
        );
        assert_eq!(ended(0, 1, true).await, Some(Exit::Code(0)), "it ended well");
    }
}
