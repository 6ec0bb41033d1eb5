//! Sessions that have ended, kept over herd's own end: one line of JSON each in herd's [`History`].
//!
//! A thread of its own writes them; the driver hands them over and never waits, and what finds no room is counted. Their
//! generations go on where the former herd's ended, so that one stands for one session over all of them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::time::rfc3339;
use super::views::Session;
use crate::core::Generation;
use crate::driver::{Burial, Lost};
use crate::history::History;

/// Of former herds, as many as are remembered of this one.
const KEPT: usize = 1000;
/// No herd comes near this generation; a broken line may.
const LARGEST: u64 = 1 << 53;
/// At herd's end, what is not written by then is lost.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// What a line holds. Fields may be added; those that are not known are passed over.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    session: Session,
    /// The worker's last lines, escaped.
    #[serde(default)]
    log: Vec<String>,
}

/// The sessions of the herds before this one.
#[derive(Debug, Default)]
pub struct Former {
    /// Oldest first.
    kept: Vec<Kept>,
    lost: Option<Arc<Lost>>,
}

impl Former {
    pub fn read(history: &History) -> io::Result<Self> {
        let lines = history.read()?;
        let latest = lines.len().saturating_sub(KEPT);
        let (mut kept, mut strange) = (Vec::new(), 0);
        for line in &lines[latest..] {
            match serde_json::from_slice::<Kept>(line) {
                // Those of this herd go on after it.
                Ok(one) if one.session.generation < LARGEST => kept.push(one),
                // The end of a file that a kill cut short, or of a herd that knew more.
                _ => strange += 1,
            }
        }
        if strange > 0 {
            tracing::info!(
                lines = strange,
                "lines of the history are not understood and are passed over"
            );
        }
        kept.sort_by_key(|one: &Kept| one.session.generation);
        Ok(Self { kept, lost: None })
    }

    /// Where this herd's generations begin.
    pub fn last_generation(&self) -> Generation {
        Generation(self.kept.last().map_or(0, |one| one.session.generation))
    }

    /// Counts what finds no room.
    pub fn counting(mut self, lost: Arc<Lost>) -> Self {
        self.lost = Some(lost);
        self
    }

    /// How many endings of this herd were not kept.
    pub(super) fn lost(&self) -> u64 {
        self.lost.as_ref().map_or(0, |lost| lost.count())
    }

    /// Oldest first.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.kept.iter().map(|one| &one.session)
    }

    /// Of one name, newest first.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = &Session> {
        self.sessions()
            .filter(move |session| session.name() == name)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
    }

    /// The last lines of the newest of a name, or of the one of the generation `only`.
    pub(super) fn log(&self, name: &str, only: Option<u64>) -> Option<&[String]> {
        let asked = |one: &&Kept| {
            only.is_none_or(|only| one.session.generation == only) && one.session.name() == name
        };
        self.kept.iter().rev().find(asked).map(|one| &*one.log)
    }
}

/// The thread that writes.
#[derive(Debug)]
pub struct Writing(Receiver<()>);

impl Writing {
    /// `started`: when this herd did, by which the next knows its sessions.
    pub fn spawn(
        mut history: History,
        burials: Receiver<Burial>,
        started: SystemTime,
        lost: Arc<Lost>,
    ) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let run = rfc3339(started);
        thread::Builder::new().name("herd-history".to_owned()).spawn(move || {
            let mut failing = false;
            for burial in burials {
                let failed = write(&mut history, burial, &run);
                if failed.is_err() {
                    lost.add();
                }
                // Once for each time that it begins to fail.
                if let Err(error) = &failed
                    && !failing
                {
                    tracing::warn!(%error, "cannot write the history; sessions that end now will not be known after a restart");
                }
                failing = failed.is_err();
            }
            // Whoever is told may open it.
            drop(history);
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

fn write(history: &mut History, Burial { view, log }: Burial, run: &str) -> io::Result<()> {
    let now = SystemTime::now();
    let kept = Kept {
        session: Session {
            run: Some(run.to_owned()),
            ..Session::new(view, now)
        },
        log,
    };
    history.append(&serde_json::to_vec(&kept)?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::{EndReason, Exit, SessionId, SessionRef, WorkerId};
    use crate::driver::{Burials, SessionState, SessionView};
    use crate::worker::{Death, Logs, Sandboxing, Stream};

    fn burial(id: &str, generation: u64) -> Burial {
        let logs = Logs::new(1 << 20);
        let text = Bytes::from_static(b"\x1b[2Jfarewell");
        logs.push(Stream::Stdout, text, SystemTime::now());
        let log = crate::worker::tail(&logs);
        let view = SessionView {
            session: SessionRef {
                id: SessionId::parse(id.as_bytes()).unwrap(),
                generation: Generation(generation),
            },
            kind: "browser".to_owned(),
            sandboxing: Some(Sandboxing::On),
            config: Some(crate::core::ConfigGeneration(1)),
            outdated: false,
            state: SessionState::Ended(EndReason::Disconnected),
            worker: Some(WorkerId(generation)),
            pid: Some(4711),
            endpoint: None,
            created: SystemTime::now() - Duration::from_secs(60),
            holders: 0,
            streams: 0,
            holds: 0,
            ends: None,
            ended: Some(SystemTime::now()),
            death: Some(Death {
                pids: vec![1, 2],
                processes: 2,
                memory: 5,
                took: Duration::from_millis(2),
                survivors: 0,
                exit: Exit::Signal(9),
            }),
            since_left: Some(Duration::from_millis(3)),
        };
        Burial { view, log }
    }

    /// Written by a herd that has ended, and read by the next.
    fn kept(dir: &std::path::Path, burials: Vec<Burial>) -> Former {
        let history = History::open(dir, 1 << 20).unwrap();
        let (sender, receiver) = mpsc::channel();
        let writing = Writing::spawn(history, receiver, SystemTime::UNIX_EPOCH, Arc::default()).unwrap();
        for burial in burials {
            sender.send(burial).unwrap();
        }
        drop(sender);
        writing.finish();
        Former::read(&History::open(dir, 1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn all_there_is_to_tell_of_an_ending_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let former = kept(dir.path(), vec![burial("a", 1), burial("b", 2), burial("a", 3)]);
        assert_eq!(former.last_generation(), Generation(3));
        let of_a: Vec<u64> = former.of("a").map(|session| session.generation).collect();
        assert_eq!(of_a, [3, 1], "the newest first");
        let session = former.of("b").next().unwrap();
        assert_eq!(session.run.as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(session.reason.as_deref(), Some("disconnected"));
        assert_eq!(session.disconnect_to_dead_ms, Some(3.0));
        let death = session.death.as_ref().unwrap();
        assert_eq!((death.processes, death.signal, death.status), (2, Some(9), None));
        let log = former.log("b", None).unwrap();
        assert_eq!(log, ["\\x1b[2Jfarewell"], "escaped, as everywhere");
        assert!(former.log("b", Some(2)).is_some() && former.log("b", Some(1)).is_none());
        assert!(former.log("c", None).is_none());
    }

    #[test]
    fn what_cannot_be_written_is_counted_too() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let history = History::open(&gone, 1000).unwrap();
        std::fs::remove_dir_all(&gone).unwrap();
        let (sender, receiver) = mpsc::channel();
        let lost = Arc::<Lost>::default();
        let writing = Writing::spawn(history, receiver, SystemTime::UNIX_EPOCH, Arc::clone(&lost)).unwrap();
        // The first still finds the file that was there; the others would need another.
        for generation in 1..=3 {
            sender.send(burial("a", generation)).unwrap();
        }
        drop(sender);
        writing.finish();
        assert_eq!(lost.count(), 2);
    }

    #[test]
    fn lines_of_a_newer_herd_are_read_and_broken_ones_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        drop(kept(dir.path(), vec![burial("a", 1), burial("b", 2)]));
        let path = dir.path().join("history.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        let impossible = first.replace("\"generation\":1,", "\"generation\":18446744073709551615,");
        assert_ne!(impossible, first);
        let newer = text.replacen('{', r#"{"of_tomorrow":{"deep":[1]},"#, 1);
        std::fs::write(
            &path,
            format!("{newer}{}\nnull\n\"text\"\n{}", impossible, &text[..40]),
        )
        .unwrap();
        let former = kept(dir.path(), vec![burial("c", 7)]);
        let ids: Vec<&str> = former.sessions().map(|session| &*session.id).collect();
        assert_eq!(ids, ["a", "b", "c"]);
    }

    #[test]
    fn what_a_slow_disk_has_no_room_for_is_counted_and_nobody_waits() {
        let (burials, received) = Burials::channel();
        let lost = burials.lost();
        for number in 0..4102 {
            burials.push(burial("a", number));
        }
        assert_eq!(lost.count(), 6);
        assert_eq!(Former::default().counting(lost).lost(), 6);
        drop(received);
    }
}
