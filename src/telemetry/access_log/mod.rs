//! The access log of the data plane: a line of JSON for each request, in a file or on stdout.
//!
//! ```text
//! data-plane threads ─ put ─▶ lines that wait, so many and no more ─▶ one thread ─▶ file
//!                                                    SIGUSR1, reload ───┘ (opens another)
//! ```
//! Nobody waits for a disk or a reader: lines that find no room, or that cannot be written, are counted and left out.
//! Deliberately not here: rotation, which is logrotate's, and `fsync`.

mod line;
mod writer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::metrics::counter::Counter;

pub use line::{Line, text};

use self::writer::Writer;
use super::LAST_LINES;
use super::lines::{Fate, Lines};
use crate::config::LogTarget;
use crate::sys::place;

/// Where lines go, opened.
#[derive(Debug)]
pub struct Target {
    /// `None`: stdout, which cannot be opened anew.
    path: Option<PathBuf>,
    to: To,
}

#[derive(Debug)]
enum To {
    File(File),
    Stdout(io::Stdout),
}

impl Target {
    /// Whether it could be opened, as far as a look can tell. Makes nothing.
    pub fn look(target: &LogTarget) -> io::Result<()> {
        match target {
            LogTarget::Stdout => Ok(()),
            LogTarget::File(path) => place::file(path),
        }
    }

    /// Makes the file, readable by its owner and group, where there is none.
    pub fn open(target: &LogTarget) -> io::Result<Self> {
        match target {
            LogTarget::Stdout => Ok(Self {
                path: None,
                to: To::Stdout(io::stdout()),
            }),
            LogTarget::File(path) => Self::file(path.clone()),
        }
    }

    fn file(path: PathBuf) -> io::Result<Self> {
        let to = To::File(open(&path)?);
        Ok(Self { path: Some(path), to })
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.to {
            To::File(file) => file.as_fd(),
            To::Stdout(stdout) => stdout.as_fd(),
        }
    }
}

/// Never waits, also for a FIFO that nobody reads.
fn open(path: &Path) -> io::Result<File> {
    let is_fifo = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    OpenOptions::new()
        // Whoever only writes to a FIFO needs a reader to open it, and loses it with the reader (fifo(7)).
        .read(is_fifo)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// See the module's documentation. Whether requests leave lines is the configuration's matter; without a target they go
/// nowhere.
#[derive(Debug)]
pub struct AccessLog {
    lines: Arc<Lines>,
    /// Set while there is the thread that writes, which is from the first target on.
    writing: OnceLock<()>,
    order: Arc<Mutex<Option<Order>>>,
    dropped: Counter,
}

/// What the writing thread is to do next.
#[derive(Debug)]
enum Order {
    /// Go on there, or nowhere.
    Turn(Option<Target>),
    /// The file may have another name by now: begin one of the old name.
    Reopen,
}

impl AccessLog {
    /// That writes nothing yet. `dropped` counts lines that were left out.
    pub fn new(dropped: Counter) -> Self {
        Self {
            lines: Arc::new(Lines::new()),
            writing: OnceLock::new(),
            order: Arc::default(),
            dropped,
        }
    }

    /// From now on lines go there, or nowhere.
    ///
    /// # Errors
    /// The thread that writes could not be started.
    pub fn turn_to(&self, target: Option<Target>) -> io::Result<()> {
        let is_needed = target.is_some();
        *self.order() = Some(Order::Turn(target));
        if is_needed && self.writing.get().is_none() {
            let mut writer = Writer::new(Arc::clone(&self.order), self.dropped.clone());
            Lines::write_behind(Arc::clone(&self.lines), "access log", move |lines, lost| {
                writer.write(lines, lost);
            })?;
            // Only one task turns it.
            let _ = self.writing.set(());
        }
        self.lines.call();
        Ok(())
    }

    /// Takes one line, with its end.
    pub fn put(&self, line: &[u8]) {
        // A request of the moment between a reload and its target.
        let is_early = self.writing.get().is_none();
        if is_early || self.lines.put(line) == Fate::Lost {
            self.dropped.inc();
        }
    }

    /// The file of this name from now on: logrotate has given the present one another.
    pub fn reopen(&self) {
        // A target that is to come is opened already.
        self.order().get_or_insert(Order::Reopen);
        self.lines.call();
    }

    /// What was put is written, unless that takes too long.
    pub fn flush(&self) {
        if self.writing.get().is_some() {
            self.lines.flush(LAST_LINES);
        }
    }

    fn order(&self) -> std::sync::MutexGuard<'_, Option<Order>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
