//! The signals that herd obeys: two of them end it, one has it read its file again, one open its access log anew.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::driver::{Cause, Reloads, Shutdown};
use crate::telemetry::access_log::AccessLog;

/// After a second signal: for killed trees to be reaped. The kernel needs milliseconds.
const REAP_LIMIT: Duration = Duration::from_secs(10);

/// SIGINT, SIGTERM, SIGHUP and SIGUSR1.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// For `access_log`.
    reopen: tokio::signal::unix::Signal,
    access_log: Arc<AccessLog>,
    terminal: Terminal,
}

impl Signals {
    pub(super) fn listen(access_log: Arc<AccessLog>) -> anyhow::Result<Self> {
        // Whoever started herd may have blocked them, and that is inherited.
        SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1])
            .thread_unblock()
            .context("cannot unblock signals")?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            access_log,
            terminal: Terminal::look(),
        })
    }

    /// The next one that asks for an end. Others ask for a reload, and are answered by one if there are many.
    async fn next(&mut self, reloads: &Reloads) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.reopen.recv() => {
                    self.access_log.reopen();
                    continue;
                }
                _ = self.hangup.recv() => {
                    // Whoever sat there has gone, and has not asked for anything.
                    if self.terminal == Terminal::There && Terminal::look() == Terminal::None {
                        return;
                    }
                }
            }
            let ended = tokio::select! {
                _ = reloads.ask(Cause::Signal) => false,
                _ = self.interrupt.recv() => true,
                _ = self.terminate.recv() => true,
            };
            if ended {
                return;
            }
        }
    }

    /// The first signal drains, the second ends everything. Resolves only if that does not help.
    pub(super) async fn obey(&mut self, ask: mpsc::Sender<Shutdown>, reloads: &Reloads) -> anyhow::Error {
        for shutdown in [Shutdown::Drain, Shutdown::Now] {
            self.next(reloads).await;
            // The driver is gone only if this future is about to be dropped.
            let _ = ask.send(shutdown).await;
        }
        tokio::time::sleep(REAP_LIMIT).await;
        anyhow::anyhow!("some workers were not reaped within {REAP_LIMIT:?} of being killed")
    }
}

/// Whether herd was started at a terminal. SIGHUP is what a reload is asked for by, and what the kernel and shells send
/// when a terminal goes: a herd in the foreground of one ends with it, as it always has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    There,
    None,
}

impl Terminal {
    fn look() -> Self {
        match std::fs::File::open("/dev/tty") {
            Ok(_) => Self::There,
            Err(_) => Self::None,
        }
    }
}
