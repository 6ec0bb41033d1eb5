//! The thread that has the file.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use memchr::memchr_iter;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prometheus_client::metrics::counter::Counter;

use super::{Order, Target};

/// How often a writer that waits for a reader looks whether it is wanted elsewhere, ms.
const LOOK: u16 = 100;

#[derive(Debug)]
pub(super) struct Writer {
    target: Option<Target>,
    order: Arc<Mutex<Option<Order>>>,
    dropped: Counter,
    health: Health,
    end: End,
}

/// Whether the last lines could be written: an outage is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Failing,
}

/// How the file ends, as far as this herd has written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// In the middle of a line.
    Torn,
}

/// Why not everything was written.
#[derive(Debug)]
enum Stopped {
    Failed(Errno),
    /// There is something else to do than to wait for a reader.
    Called,
}

impl Writer {
    pub(super) fn new(order: Arc<Mutex<Option<Order>>>, dropped: Counter) -> Self {
        Self {
            target: None,
            order,
            dropped,
            health: Health::Well,
            end: End::Whole,
        }
    }

    /// `lost` lines came before these and found no room.
    pub(super) fn write(&mut self, lines: &[u8], lost: u64) {
        if lost > 0 {
            tracing::warn!(
                lines = lost,
                "the access log is not written fast enough: lines are missing"
            );
        }
        self.obey();
        let Some(target) = &self.target else {
            return;
        };
        if lines.is_empty() {
            return;
        }
        let mut written = 0;
        let mut result = Ok(());
        if self.end == End::Torn {
            // What is there of a line spoils no other.
            result = write_all(target, b"\n", &mut 0, &self.order);
        }
        if result.is_ok() {
            self.end = End::Whole;
            result = write_all(target, lines, &mut written, &self.order);
        }
        if written > 0 && lines[written - 1] != b'\n' {
            self.end = End::Torn;
        }
        let left = memchr_iter(b'\n', &lines[written..]).count() as u64;
        self.dropped.inc_by(left);
        match result {
            Err(Stopped::Failed(error)) if self.health == Health::Well => {
                tracing::error!(error = %error.desc(), "cannot write the access log; lines are missing until that is mended");
                self.health = Health::Failing;
            }
            Err(_) => {}
            Ok(()) => self.recovered(),
        }
    }

    fn recovered(&mut self) {
        if self.health == Health::Failing {
            tracing::info!("the access log is written again");
            self.health = Health::Well;
        }
    }

    fn obey(&mut self) {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner).take();
        let next = match order {
            None => return,
            Some(Order::Turn(target)) => target,
            Some(Order::Reopen) => {
                let Some(path) = self.target.as_ref().and_then(|target| target.path.clone()) else {
                    return;
                };
                match Target::file(path.clone()) {
                    Ok(target) => {
                        tracing::info!(path = %path.display(), "access log opened anew");
                        Some(target)
                    }
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "cannot open the access log anew; going on with the open file");
                        return;
                    }
                }
            }
        };
        self.target = next;
        self.end = End::Whole;
    }
}

fn write_all(
    to: impl AsFd,
    bytes: &[u8],
    written: &mut usize,
    order: &Mutex<Option<Order>>,
) -> Result<(), Stopped> {
    while *written < bytes.len() {
        match nix::unistd::write(&to, &bytes[*written..]) {
            Ok(more) => *written += more,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut wait = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                let ready = poll(&mut wait, PollTimeout::from(LOOK));
                if let Err(error) = ready
                    && error != Errno::EINTR
                {
                    return Err(Stopped::Failed(error));
                }
                if order.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                    return Err(Stopped::Called);
                }
            }
            Err(error) => return Err(Stopped::Failed(error)),
        }
    }
    Ok(())
}
