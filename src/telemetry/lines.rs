//! The way of a log line to stderr or a file, which is not to hold up whoever has written it.
//!
//! stderr is often a pipe, and whoever reads it may stop. The driver logs with every session, so one write that blocks
//! would stop all of herd, and the data plane with every request. Lines are therefore handed to a thread that does nothing but write them; so many may wait,
//! and of those that find no room only the number is kept, which is the first thing that is said when there is.
//!
//! Before there is that thread lines are written where they arise: `herd start` may have none until it has forked its
//! launcher, and what goes wrong until then goes wrong before anybody depends on it.

use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that wait; some thousands of lines.
const WAITING_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Lines {
    state: Mutex<State>,
    /// Something waits, or all is written, or the thread is wanted for something else.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    writer: Writer,
    waiting: Vec<u8>,
    /// Lines that found no room since the last of that was said.
    lost: u64,
    /// The thread is to look after itself, whether something waits or not.
    called: bool,
}

/// What has become of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    /// There was no room.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Not yet: whoever has a line writes it.
    None,
    Idle,
    Busy,
}

impl Lines {
    pub(super) const fn new() -> Self {
        let state = State {
            writer: Writer::None,
            waiting: Vec::new(),
            lost: 0,
            called: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Starts the thread that has `write` take what has come, and the number of lines that were lost before it.
    pub(super) fn write_behind<L, W>(lines: L, thread: &str, mut write: W) -> io::Result<()>
    where
        L: Deref<Target = Self> + Clone + Send + 'static,
        W: FnMut(&[u8], u64) + Send + 'static,
    {
        let own = lines.clone();
        let behind = move || {
            loop {
                let (bytes, lost) = own.next();
                write(&bytes, lost);
            }
        };
        // Under the lock: whoever has a line now may not miss the thread, nor the thread the line.
        let mut state = lines.lock();
        std::thread::Builder::new()
            .name(thread.to_owned())
            .spawn(behind)?;
        state.writer = Writer::Busy;
        Ok(())
    }

    /// Takes one whole line, or several.
    pub(super) fn put(&self, line: &[u8]) -> Fate {
        let mut state = self.lock();
        match state.writer {
            Writer::None => {
                drop(state);
                let _ = io::stderr().write_all(line);
            }
            _ if state.waiting.len() + line.len() > WAITING_MAX => {
                state.lost += 1;
                return Fate::Lost;
            }
            writer => {
                state.waiting.extend_from_slice(line);
                if writer == Writer::Idle {
                    self.changed.notify_all();
                }
            }
        }
        Fate::Taken
    }

    /// Has the thread come by soon, even if there is no line.
    pub(super) fn call(&self) {
        self.lock().called = true;
        self.changed.notify_all();
    }

    /// Returns when all is written, or after `longest`.
    pub(super) fn flush(&self, longest: Duration) {
        let unwritten = |state: &mut State| state.writer == Writer::Busy || !state.waiting.is_empty();
        let _ = self.changed.wait_timeout_while(self.lock(), longest, unwritten);
    }

    /// For the thread that writes: what has come since it last asked, and how many lines were lost meanwhile.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.lock();
        if state.waiting.is_empty() && !state.called {
            state.writer = Writer::Idle;
            self.changed.notify_all();
            let nothing = |state: &mut State| state.waiting.is_empty() && !state.called;
            state = self
                .changed
                .wait_while(state, nothing)
                .unwrap_or_else(PoisonError::into_inner);
            state.writer = Writer::Busy;
        }
        state.called = false;
        (
            std::mem::take(&mut state.waiting),
            std::mem::take(&mut state.lost),
        )
    }

    /// What it guards is whole at every moment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without the lock that `std` has for stderr: who else wants to write there need not wait for it.
pub(super) fn write_all(to: impl AsFd, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(&to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            // Whoever shares it may have made it so.
            Err(Errno::EAGAIN) => {
                poll(
                    &mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)],
                    PollTimeout::NONE,
                )?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One event's way in: a subscriber writes each with a single call.
#[derive(Debug)]
pub(super) struct Event(pub(super) &'static Lines);

impl Write for Event {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Lines whose thread writes to a pipe.
    fn behind(flags: OFlag, tell_lost: fn(u64)) -> (&'static Lines, File) {
        let (read, write): (OwnedFd, OwnedFd) = pipe2(flags | OFlag::O_CLOEXEC).unwrap();
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        let write_on = move |bytes: &[u8], lost| {
            if lost > 0 {
                tell_lost(lost);
            }
            write_all(&write, bytes).unwrap();
        };
        Lines::write_behind(lines, "lines", write_on).unwrap();
        (lines, read.into())
    }

    #[test]
    fn lines_come_whole_and_in_order_and_a_flush_waits_for_them() {
        let (lines, mut read) = behind(OFlag::empty(), |_| panic!("none is lost"));
        let mut all = Vec::new();
        for number in 0..100 {
            let line = format!("line {number}\n");
            lines.put(line.as_bytes());
            all.extend_from_slice(line.as_bytes());
        }
        lines.flush(PATIENCE);
        let mut written = vec![0; all.len()];
        read.read_exact(&mut written).unwrap();
        assert_eq!(written, all);
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up_and_what_was_lost_is_counted() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        for flags in [OFlag::empty(), OFlag::O_NONBLOCK] {
            TOLD.store(0, Ordering::Relaxed);
            let (lines, mut read) = behind(flags, |lost| {
                TOLD.fetch_add(lost, Ordering::Relaxed);
            });
            let line = [b'x'; 1024];
            // Twice as many may be on their way: some wait, some are being written.
            let put = 3 * WAITING_MAX / line.len();
            for _ in 0..put {
                lines.put(&line);
            }
            // The reader is back. What is lost is told before what comes after it is written.
            let lost = || TOLD.load(Ordering::Relaxed) + lines.lock().lost;
            let (mut count, mut part) = (0, [0; 4096]);
            while count < (put - lost() as usize) * line.len() {
                // A pipe that does not block is empty at times.
                count += read.read(&mut part).unwrap_or(0);
            }
            lines.flush(PATIENCE);
            let told = TOLD.load(Ordering::Relaxed) as usize;
            assert!(told > 0 && told < put, "{told} of {put}");
            assert_eq!(count, (put - told) * line.len());
        }
    }
}
