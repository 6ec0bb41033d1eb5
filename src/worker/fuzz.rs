//! A keeper's words, by whomever they were written: the subject of `crate::fuzzing` in this module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::report::ReportReader;
use crate::core::{Exit, Status};
use crate::launcher::Report;

/// What a pipe holds without a reader, in bytes.
const PIPE: usize = 64 * 1024;

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

pub fn report(input: &[u8]) {
    let input = &input[..input.len().min(PIPE)];
    let understood = || {
        input
            .split(|b| *b == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
    };
    let ends = understood().find_map(|report| match report {
        Report::Exited { code } => Some(Status::Code(code)),
        Report::Signalled { signal } => Some(Status::Signal(signal)),
        _ => None,
    });
    let created = understood()
        .find_map(|report| match report {
            Report::Created => Some(true),
            Report::ExecFailed { .. } => Some(false),
            _ => None,
        })
        .unwrap_or(false);
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let read = tokio::time::timeout(Duration::from_secs(20), async {
                let mut reader = reader(input);
                assert_eq!(reader.created().await.is_ok(), created);
                let mut reader = self::reader(input);
                reader.ended().await;
                reader.read_out().await;
                reader.end().map(|end| end.exit)
            });
            let exit = read.await.expect("a pipe whose writer is gone is waited for");
            let status = exit.map(|exit| match exit {
                Exit::Code(code) => Status::Code(code),
                Exit::Signal(signal) => Status::Signal(signal),
                Exit::Limited { status, .. } => status,
                Exit::KeeperLost => panic!("a status pipe does not say that"),
            });
            assert_eq!(status, ends, "{}", input.escape_ascii());
        });
    });
}

/// Reads `input` and then the end.
pub(super) fn reader(input: &[u8]) -> ReportReader {
    let (read, write) = std::io::pipe().unwrap();
    File::from(std::os::fd::OwnedFd::from(write))
        .write_all(input)
        .unwrap();
    ReportReader::new(read.into()).unwrap()
}
