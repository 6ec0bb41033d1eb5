//! Mistakes of a file and how they are shown.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::tree::{self, Position};

/// Longer lines (bytes) are no help to look at and are not shown.
const WIDEST: usize = 400;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `workers.browser.max`; empty where no key is concerned.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
    /// That line of the file; empty where it is about the file, and no line of it.
    pub source: String,
}

/// Every mistake of one file, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    pub file: String,
    pub list: Vec<Problem>,
}

/// `8:12: workers.browser.max: …`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            path,
            message,
            ..
        } = self;
        let separator = if path.is_empty() { "" } else { ": " };
        write!(f, "{line}:{column}: ")?;
        // Keys and values of the file are in both, and a terminal may be where this goes.
        for char in [path.as_str(), separator, message]
            .into_iter()
            .flat_map(str::chars)
        {
            match char.is_control() {
                true => write!(f, "{}", char.escape_default())?,
                false => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{problem}", self.file)?;
            if problem.source.trim().is_empty() || problem.source.len() > WIDEST {
                continue;
            }
            let number = problem.line.to_string();
            let margin = " ".repeat(number.len());
            // Tabs and control bytes would shift the caret (or worse, drive the terminal).
            let shown: String = problem
                .source
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            let before = " ".repeat(problem.column - 1);
            write!(f, "\n {number} | {shown}\n {margin} | {before}^")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Gathers mistakes, in any order, each once.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    /// Without a place: about the file as a whole.
    found: Vec<(Option<Position>, String, String)>,
}

impl Collector {
    /// More than anyone reads in one run; bounds the work on a file that is wrong throughout.
    const MOST: usize = 200;

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= Self::MOST
    }

    pub(crate) fn add(&mut self, at: Position, path: impl Into<String>, message: impl Into<String>) {
        self.gather((Some(at), path.into(), message.into()));
    }

    /// About something that no line says.
    pub(crate) fn add_about_file(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.gather((None, path.into(), message.into()));
    }

    fn gather(&mut self, problem: (Option<Position>, String, String)) {
        if !self.is_full() && !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }

    /// A mistake at exactly this key was already reported.
    pub(crate) fn mentions(&self, path: &str) -> bool {
        self.found.iter().any(|(_, reported, _)| reported == path)
    }

    /// A mistake somewhere inside this key was already reported.
    pub(crate) fn mentions_inside(&self, path: &str) -> bool {
        let inside = |reported: &str| {
            reported
                .strip_prefix(path)
                .is_some_and(|r| r.starts_with(['.', '[']))
        };
        self.found.iter().any(|(_, reported, _)| inside(reported))
    }

    pub(crate) fn finish(mut self, text: &str, file: &str) -> Problems {
        self.found.sort();
        let lines = tree::lines(text);
        let last = Position {
            line: lines.len(),
            column: lines.last().map_or(0, |l| l.chars().count()) + 1,
        };
        let list = self.found.into_iter().map(|(at, path, message)| {
            let source = |line: usize| lines.get(line - 1).copied().unwrap_or_default().to_owned();
            let (Position { line, column }, source) = match at {
                // The parser places "the end came too early" on a line that does not exist.
                Some(at) if at.line > last.line => (last, source(last.line)),
                Some(at) => (at, source(at.line)),
                None => (Position { line: 1, column: 1 }, String::new()),
            };
            Problem {
                line,
                column,
                path,
                message,
                source,
            }
        });
        Problems {
            file: file.to_owned(),
            list: list.collect(),
        }
    }
}
