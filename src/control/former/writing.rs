//! The thread that writes. The driver hands milestones over and never waits; what finds no room is counted.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime};

use super::super::time::rfc3339;
use super::line::{self, Beginning, Kept};
use crate::core::Generation;
use crate::driver::{Lost, Milestone};
use crate::history::History;

/// At herd's end, what is not written by then is lost.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// The thread, until it has ended.
#[derive(Debug)]
pub struct Writing(Receiver<()>);

impl Writing {
    /// `started`: when this herd did, by which the next knows its sessions.
    pub fn spawn(
        history: History,
        milestones: Receiver<Milestone>,
        started: SystemTime,
        lost: Arc<Lost>,
    ) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let mut writer = Writer::new(history, rfc3339(started), lost);
        thread::Builder::new().name("herd-history".to_owned()).spawn(move || {
            let mut failing = false;
            for milestone in milestones {
                let failed = writer.write(milestone);
                // Once for each time that it begins to fail.
                if let Err(error) = &failed
                    && !failing
                {
                    tracing::warn!(%error, "cannot write the history; sessions that end now will not be known after a restart");
                }
                failing = failed.is_err();
            }
            // Without it, what ended last and was lost would look alive. An error was told when it was lost.
            let _ = writer.settle();
            // Whoever is told may open it.
            drop(writer);
            // Nobody waits if herd ends for another reason.
            let _ = end.send(());
        })?;
        Ok(Self(ended))
    }

    /// Waits until all is written, but not for long: a disk may hang. To be called when the driver hands nothing over any more.
    pub fn finish(self) {
        if self.0.recv_timeout(LAST_WRITES) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the history's last lines were not written in time");
        }
    }
}

/// What is written, and what has to be remembered for that.
pub(super) struct Writer {
    history: History,
    run: String,
    lost: Arc<Lost>,
    /// Lines of beginnings in the file whose sessions have not ended, by generation.
    alive: BTreeMap<u64, Vec<u8>>,
    /// What the file says of it, and what it has to.
    settled: u64,
    to_settle: u64,
}

impl Writer {
    pub(super) fn new(history: History, run: String, lost: Arc<Lost>) -> Self {
        Self {
            history,
            run,
            lost,
            alive: BTreeMap::new(),
            settled: 0,
            to_settle: 0,
        }
    }

    pub(super) fn write(&mut self, milestone: Milestone) -> io::Result<()> {
        match milestone {
            Milestone::Began(view) => {
                self.settle()?;
                let began = Beginning::new(&view, &self.run);
                // Its end may be lost already.
                if began.generation > self.to_settle {
                    let line = line::began(&began)?;
                    self.append(&line)?;
                    self.alive.insert(began.generation, line);
                }
                Ok(())
            }
            Milestone::Ended(burial) => {
                let generation = burial.view.session.generation;
                let line = line::ended(&Kept::new(burial, &self.run));
                let written = line.and_then(|line| {
                    self.settle()?;
                    self.append(&line)
                });
                if written.is_err() {
                    self.lost.add(generation);
                }
                self.alive.remove(&generation.0);
                written
            }
        }
    }

    /// Where ends were lost, that is written before anything else.
    fn settle(&mut self) -> io::Result<()> {
        let Generation(lost) = self.lost.latest();
        if lost > self.to_settle {
            self.to_settle = lost;
            self.alive = self.alive.split_off(&(lost + 1));
        }
        if self.to_settle > self.settled {
            self.append(&line::settled(self.to_settle)?)?;
            self.settled = self.to_settle;
        }
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.history.is_full_for(line) {
            self.history.rotate()?;
            self.begin_file()?;
        }
        self.history.append(line)
    }

    /// The beginnings of all that live go on from file to file: as many of the newest as leave half of it free.
    fn begin_file(&mut self) -> io::Result<()> {
        let mut room = self.history.most() / 2;
        let mut oldest = None;
        for (generation, line) in self.alive.iter().rev() {
            let Some(left) = room.checked_sub(line.len() as u64 + 1) else {
                break;
            };
            (room, oldest) = (left, Some(*generation));
        }
        self.alive = match oldest {
            Some(oldest) => self.alive.split_off(&oldest),
            None => BTreeMap::new(),
        };
        for line in self.alive.values() {
            self.history.append(line)?;
        }
        Ok(())
    }
}
