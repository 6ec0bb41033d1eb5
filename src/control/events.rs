//! The journal as server-sent events (the HTML standard's `text/event-stream`).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::timeout;

use super::answer::Problem;
use super::router::Asked;
use super::views;
use crate::driver::{Entry, Journal};

const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that are taken from the journal at once. A frame is made only when the one before has been sent.
const BATCH: usize = 64;

/// Where a reader has got to: the epoch of a herd and the number of an event, `1764288000000-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    epoch: u64,
    number: u64,
}

impl Position {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let (epoch, last) = text.split_once('-')?;
        Some(Self {
            epoch: number(epoch)?,
            number: number(last)?,
        })
    }
}

/// What a reader wants to see.
#[derive(Debug, Default)]
struct Wanted {
    session: Option<String>,
    kinds: Option<HashSet<String>>,
}

impl Wanted {
    fn has(&self, event: &views::Event) -> bool {
        let session = self.session.as_deref();
        session.is_none_or(|id| event.what.session() == Some(id))
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| event.what.kind().is_some_and(|kind| kinds.contains(kind)))
    }
}

impl Wanted {
    /// The number from which on there are so many of the events that are wanted, or as many as are kept.
    fn last(&self, journal: &Journal, most: u64) -> u64 {
        let end = journal.next();
        if self.session.is_none() && self.kinds.is_none() {
            return end.saturating_sub(most);
        }
        let (mut found, mut next) = (VecDeque::new(), 0);
        loop {
            let (entries, _) = journal.since(next, BATCH);
            let Some(last) = entries.last() else {
                break;
            };
            next = last.number + 1;
            let epoch = journal.epoch();
            let numbered = entries
                .into_iter()
                .map(|entry| (entry.number, views::Event::new(epoch, entry)));
            found.extend(
                numbered
                    .filter(|(_, event)| self.has(event))
                    .map(|(number, _)| number),
            );
            while found.len() as u64 > most {
                found.pop_front();
            }
        }
        found.front().copied().unwrap_or(end)
    }
}

struct Reader {
    journal: Arc<Journal>,
    next: u64,
    wanted: Wanted,
    follow: bool,
    /// Made and not sent yet.
    ready: VecDeque<Bytes>,
}

pub(super) fn read(
    journal: Arc<Journal>,
    asked: &Asked<'_>,
    kinds: Option<HashSet<&str>>,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, Problem> {
    let query = &asked.query;
    let header = asked.request.headers().get("last-event-id");
    let after = match header {
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .and_then(Position::parse)
                .ok_or_else(|| Problem::bad_request("Last-Event-ID is not the id of an event"))?,
        ),
        None => query.value("after").and_then(Position::parse),
    };
    let wanted = Wanted {
        session: query.value("session").map(str::to_owned),
        kinds: kinds.map(|kinds| kinds.into_iter().map(str::to_owned).collect()),
    };
    let mut ready = VecDeque::new();
    let next = match after {
        // A reader of the herd before this one has missed what that one did since; it gets all there is of this one.
        Some(after) if after.epoch != journal.epoch() => {
            ready.push_back(lost(&journal, 0, None));
            0
        }
        // An event that has not happened yet cannot have been seen.
        Some(after) => after.number.saturating_add(1).min(journal.next()),
        None => wanted.last(&journal, query.number("replay").unwrap_or(0)),
    };
    let reader = Reader {
        next,
        wanted,
        follow: query.value("follow") != Some("false"),
        journal,
        ready,
    };
    // At once, so that the reader knows that it is connected.
    let first = stream::iter([Bytes::from_static(b":\n\n")]);
    let rest = stream::unfold(reader, |mut reader| async {
        let text = reader.text().await?;
        Some((text, reader))
    });
    Ok(futures_util::StreamExt::chain(first, rest))
}

impl Reader {
    async fn text(&mut self) -> Option<Bytes> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Some(text);
            }
            let (entries, missed) = self.journal.since(self.next, BATCH);
            if missed > 0 {
                self.next += missed;
                self.ready.push_back(lost(&self.journal, self.next, Some(missed)));
                continue;
            }
            if let Some(last) = entries.last() {
                self.next = last.number + 1;
                let mut text = Vec::new();
                for entry in entries {
                    let event = views::Event::new(self.journal.epoch(), entry);
                    if self.wanted.has(&event) {
                        write(&event, &mut text);
                    }
                }
                if !text.is_empty() {
                    return Some(text.into());
                }
                continue;
            }
            if !self.follow {
                return None;
            }
            if timeout(HEARTBEAT, self.journal.wait_for(self.next))
                .await
                .is_err()
            {
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }
}

/// That events before `next` were missed; a reader that comes back with its id goes on at `next`.
fn lost(journal: &Journal, next: u64, missed: Option<u64>) -> Bytes {
    let event = views::Event::lost(journal.epoch(), next, missed);
    let mut text = Vec::new();
    write(&event, &mut text);
    text.into()
}

/// JSON has no line ends outside of strings, where they are escaped: one `data` line holds it.
fn write(event: &views::Event, text: &mut Vec<u8>) {
    let start = text.len();
    if let Some(id) = &event.id {
        text.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    text.extend_from_slice(format!("event: {}\ndata: ", event.what.name()).as_bytes());
    match serde_json::to_writer(&mut *text, event) {
        Ok(()) => text.extend_from_slice(b"\n\n"),
        // Cannot be: the type has nothing that JSON lacks.
        Err(_) => text.truncate(start),
    }
}

impl views::Event {
    fn new(epoch: u64, entry: Entry) -> Self {
        Self {
            id: Some(format!("{epoch}-{}", entry.number)),
            at: super::time::rfc3339(entry.at),
            what: entry.event.into(),
        }
    }

    fn lost(epoch: u64, next: u64, missed: Option<u64>) -> Self {
        Self {
            id: next.checked_sub(1).map(|last| format!("{epoch}-{last}")),
            at: super::time::rfc3339(std::time::SystemTime::now()),
            what: views::What::EventsLost { missed },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_two_numbers() {
        let position = |epoch, number| Some(Position { epoch, number });
        assert_eq!(
            Position::parse("1764288000000-17"),
            position(1_764_288_000_000, 17)
        );
        for wrong in [
            "",
            "17",
            "-17",
            "1-",
            "1-+2",
            "1-2-3",
            "a-1",
            "1-99999999999999999999",
        ] {
            assert_eq!(Position::parse(wrong), None, "{wrong:?}");
        }
    }
}
