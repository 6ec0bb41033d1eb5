//! What `herd top` knows of herd, and what its user has chosen. Knows neither terminal nor clock.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::cli::stop;
use crate::control::views::{HostPressure, Pool, Session, StopReport, Version};

/// Lines of output that are kept.
const LINES: usize = 2000;
/// For how long what came of a deed is shown.
const NOTICE: Duration = Duration::from_secs(8);

/// What herd told, or why it tells nothing.
#[derive(Debug)]
pub(super) enum News {
    Looked(Box<Look>),
    /// It cannot be reached, and is asked again and again.
    Away {
        why: String,
    },
    Stopped {
        id: String,
        generation: u64,
        result: Result<StopReport, String>,
    },
    /// Lines of the output that is followed; `of`: the number of that following.
    Output {
        of: u64,
        lines: Vec<String>,
    },
    OutputEnded {
        of: u64,
        why: String,
    },
}

/// All of one moment.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) sessions: Vec<Session>,
    pub(super) pools: Vec<Pool>,
    pub(super) host: HostPressure,
    pub(super) draining: bool,
    pub(super) version: Version,
}

/// What is to be done for the user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Quit,
    Stop { id: String, generation: u64 },
    Follow { id: String, number: u64 },
    Unfollow,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) session: Session,
    /// Of one processor, since the look before; 1.0 is all of it.
    pub(super) cpu: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Memory,
    Cpu,
    Age,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Most memory, most CPU, newest.
    First,
    Reversed,
}

/// Where keys go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    Filter,
    AskStop { id: String, generation: u64 },
    Help,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Running,
    Paused,
}

/// Whether herd is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Waiting,
    Live,
    Away { since: Instant, why: String },
}

#[derive(Debug)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) bad: bool,
    until: Instant,
}

/// The output of one session's worker.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) id: String,
    number: u64,
    pub(super) lines: VecDeque<String>,
    pub(super) dropped: u64,
    /// Lines from the end; 0 follows.
    pub(super) back: usize,
    pub(super) ended: Option<String>,
}

/// A session's incarnation.
type Name = (String, u64);

#[derive(Debug)]
pub(super) struct App {
    rows: Vec<Row>,
    pub(super) pools: Vec<Pool>,
    pub(super) host: Option<HostPressure>,
    pub(super) draining: bool,
    pub(super) version: Option<Version>,
    pub(super) sort: Sort,
    pub(super) direction: Direction,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) flow: Flow,
    pub(super) link: Link,
    pub(super) output: Option<Output>,
    notice: Option<Notice>,
    chosen: Option<Name>,
    /// Where it stood, for when it is gone.
    place: usize,
    /// Processor time at the last look, by incarnation.
    spent: HashMap<u64, (f64, Instant)>,
    followings: u64,
    /// Rows of the last frame, for a page up or down.
    pub(super) page: usize,
}

impl App {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            pools: Vec::new(),
            host: None,
            draining: false,
            version: None,
            sort: Sort::Memory,
            direction: Direction::First,
            filter: String::new(),
            mode: Mode::List,
            flow: Flow::Running,
            link: Link::Waiting,
            output: None,
            notice: None,
            chosen: None,
            place: 0,
            spent: HashMap::new(),
            followings: 0,
            page: 10,
        }
    }

    pub(super) fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Looked(look) => {
                self.link = Link::Live;
                // Asked of herd all the same, so that its going away is noticed.
                if self.flow == Flow::Running {
                    self.look(*look, now);
                }
            }
            News::Away { why } => {
                let since = match self.link {
                    Link::Away { since, .. } => since,
                    Link::Live | Link::Waiting => now,
                };
                self.link = Link::Away { since, why };
            }
            News::Stopped {
                id,
                generation,
                result,
            } => {
                let (text, bad) = match result {
                    Ok(report) => {
                        // No need to wait for the next look.
                        self.rows.retain(|row| row.session.generation != generation);
                        (stop::sentence(&report).trim_end().to_owned(), false)
                    }
                    Err(why) => (format!("{id} was not stopped: {why}"), true),
                };
                self.notice = Some(Notice {
                    text,
                    bad,
                    until: now + NOTICE,
                });
            }
            News::Output { of, lines } => {
                if let Some(output) = self.output.as_mut().filter(|output| output.number == of) {
                    output.add(lines);
                }
            }
            News::OutputEnded { of, why } => {
                if let Some(output) = self.output.as_mut().filter(|output| output.number == of) {
                    output.ended = Some(why);
                }
            }
        }
    }

    fn look(&mut self, look: Look, now: Instant) {
        let before = std::mem::take(&mut self.spent);
        self.rows = look
            .sessions
            .into_iter()
            .map(|session| {
                let spent = session.usage.map(|used| used.cpu_seconds);
                if let Some(spent) = spent {
                    self.spent.insert(session.generation, (spent, now));
                }
                let cpu = spent.and_then(|spent| {
                    let (was, at) = before.get(&session.generation)?;
                    let elapsed = now.duration_since(*at).as_secs_f64();
                    // Processes that nobody waited for take their time with them.
                    (elapsed > 0.0).then(|| ((spent - was) / elapsed).max(0.0))
                });
                Row { session, cpu }
            })
            .collect();
        self.pools = look.pools;
        self.host = Some(look.host);
        self.draining = look.draining;
        self.version = Some(look.version);
    }

    /// The rows to show, in their order, and which of them is chosen.
    pub(super) fn listed(&self) -> (Vec<&Row>, Option<usize>) {
        let terms: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.has(&terms)).collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Memory => b.memory().cmp(&a.memory()),
                Sort::Cpu => b.cpu.unwrap_or(-1.0).total_cmp(&a.cpu.unwrap_or(-1.0)),
                Sort::Age => a.session.age_ms.cmp(&b.session.age_ms),
            };
            let order = match self.direction {
                Direction::First => order,
                Direction::Reversed => order.reverse(),
            };
            // Among equals the newest first, always: rows shall not jump about.
            order.then_with(|| b.session.generation.cmp(&a.session.generation))
        });
        let at = match &self.chosen {
            _ if rows.is_empty() => None,
            None => Some(0),
            Some((id, generation)) => rows
                .iter()
                .position(|row| row.session.name() == *id && row.session.generation == *generation)
                // Gone: what stands in its place now.
                .or(Some(self.place.min(rows.len() - 1))),
        };
        (rows, at)
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn notice(&self, now: Instant) -> Option<&Notice> {
        self.notice.as_ref().filter(|notice| notice.until > now)
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Deed> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'C')) {
            return Some(Deed::Quit);
        }
        if control || key.modifiers.contains(KeyModifiers::ALT) {
            return None;
        }
        match self.mode.clone() {
            Mode::List => self.key_of_list(key.code),
            Mode::Filter => {
                self.key_of_filter(key.code);
                None
            }
            Mode::Help => {
                self.mode = Mode::List;
                None
            }
            Mode::AskStop { id, generation } => {
                self.mode = Mode::List;
                // Only what says yes does; any other key is a no.
                matches!(key.code, KeyCode::Char('y' | 'Y') | KeyCode::Enter)
                    .then_some(Deed::Stop { id, generation })
            }
        }
    }

    fn key_of_list(&mut self, key: KeyCode) -> Option<Deed> {
        let page = isize::try_from(self.page.max(2) - 1).unwrap_or(1);
        match key {
            KeyCode::Char('q') => return Some(Deed::Quit),
            KeyCode::Char('m') => self.sort_by(Sort::Memory),
            KeyCode::Char('c') => self.sort_by(Sort::Cpu),
            KeyCode::Char('a') => self.sort_by(Sort::Age),
            KeyCode::Char('r') => {
                self.direction = match self.direction {
                    Direction::First => Direction::Reversed,
                    Direction::Reversed => Direction::First,
                }
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char(' ' | 'p') => {
                self.flow = match self.flow {
                    Flow::Running => Flow::Paused,
                    Flow::Paused => Flow::Running,
                }
            }
            KeyCode::Char('x') | KeyCode::Delete => {
                if let Some((id, generation)) = self.named() {
                    self.mode = Mode::AskStop { id, generation };
                }
            }
            KeyCode::Char('l') | KeyCode::Enter => return self.follow(),
            KeyCode::Esc if self.output.is_some() => {
                self.output = None;
                return Some(Deed::Unfollow);
            }
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Home => self.go(isize::MIN),
            KeyCode::End => self.go(isize::MAX),
            // With output open, that is what is read.
            KeyCode::PageUp => self.turn(-page),
            KeyCode::PageDown => self.turn(page),
            _ => {}
        }
        None
    }

    fn key_of_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter | KeyCode::Down => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.len() < 200 => self.filter.push(letter),
            _ => {}
        }
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.direction = Direction::First;
    }

    /// The chosen session.
    fn named(&self) -> Option<Name> {
        let (rows, at) = self.listed();
        let session = &rows.get(at?)?.session;
        Some((session.name(), session.generation))
    }

    fn go(&mut self, by: isize) {
        let (rows, at) = self.listed();
        let Some(at) = at else {
            return;
        };
        let place = at.saturating_add_signed(by).min(rows.len() - 1);
        let session = &rows[place].session;
        self.chosen = Some((session.name(), session.generation));
        self.place = place;
    }

    fn turn(&mut self, by: isize) {
        match &mut self.output {
            Some(output) => {
                let most = output.lines.len().saturating_sub(1);
                output.back = output.back.saturating_add_signed(-by).min(most);
            }
            None => self.go(by),
        }
    }

    fn follow(&mut self) -> Option<Deed> {
        let (id, _) = self.named()?;
        if self.output.as_ref().is_some_and(|output| output.id == id) {
            self.output = None;
            return Some(Deed::Unfollow);
        }
        self.followings += 1;
        let number = self.followings;
        self.output = Some(Output {
            id: id.clone(),
            number,
            lines: VecDeque::new(),
            dropped: 0,
            back: 0,
            ended: None,
        });
        Some(Deed::Follow { id, number })
    }

    /// The rows were drawn: what is chosen by its place alone is now chosen by name.
    pub(super) fn settle(&mut self) {
        let (_, at) = self.listed();
        let named = self.named();
        self.place = at.unwrap_or(0);
        self.chosen = named;
    }
}

impl Row {
    fn has(&self, terms: &[String]) -> bool {
        let name = self.session.name();
        let Session {
            kind, worker, pid, ..
        } = &self.session;
        let worker = worker.as_deref().unwrap_or_default();
        let state = self.session.state.word();
        let pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
        let text = format!("{name} {kind} {state} {worker} {pid}").to_lowercase();
        terms.iter().all(|term| text.contains(term.as_str()))
    }

    fn memory(&self) -> u64 {
        self.session.usage.map_or(0, |used| used.memory_bytes)
    }
}

impl Output {
    fn add(&mut self, lines: Vec<String>) {
        let added = lines.len();
        self.lines.extend(lines);
        // Who reads further up goes on reading there.
        if self.back > 0 {
            self.back += added;
        }
        while self.lines.len() > LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.back = self.back.min(self.lines.len().saturating_sub(1));
    }
}
