//! The way from a file to a [`Config`].
//!
//! ```text
//! bytes ─utf8─▶ text ─yaml::read─▶ tree ─yaml::read_as─▶ raw::File ─validate─▶ Config
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::model::Config;
use super::problem::{Collector, Problems};
use super::raw;
use super::validate::validate;
use super::yaml::{self, Position, Step};

/// Larger files are refused unread.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "there is no {}; `herd init` writes one for what is installed here, or name another with --config FILE or \
         HERD_CONFIG",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("{} is larger than 1 MiB, which no configuration is; check --config", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} cannot be read: {source}; check the path and its permissions", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Reads and validates the file at `path`.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoadError::Missing {
            path: path.to_owned(),
        },
        _ => LoadError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE_SIZE + 1), &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(parse_bytes(&bytes, &path.display().to_string())?)
}

pub(super) fn parse_bytes(bytes: &[u8], file_name: &str) -> Result<Config, Problems> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file_name),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let lines = yaml::lines(&before);
            let line = lines.len();
            let column = lines.last().map_or(0, |last| last.chars().count()) + 1;
            let byte = bytes[error.valid_up_to()];
            let mut problems = Collector::default();
            let message = format!("byte 0x{byte:02x} is not UTF-8; save the file as UTF-8");
            problems.add(Position { line, column }, "", message);
            Err(problems.finish(&String::from_utf8_lossy(bytes), file_name))
        }
    }
}

/// Validates `text`; `file_name` only appears in messages.
pub fn parse(text: &str, file_name: &str) -> Result<Config, Problems> {
    // A byte order mark is no part of the first key; columns count without it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Collector::default();
    let (tree, mistakes) = yaml::read(text);
    let in_yaml = !mistakes.is_empty();
    for mistake in mistakes {
        problems.add(mistake.at, mistake.path, mistake.message);
    }
    let Some(mut tree) = tree else {
        if !in_yaml {
            empty_file(&mut problems);
        }
        return Err(problems.finish(text, file_name));
    };
    if matches!(tree.value, yaml::Value::Null) {
        empty_file(&mut problems);
        return Err(problems.finish(text, file_name));
    }
    let Some(raw) = yaml::read_as::<raw::File>(&mut tree, &mut problems) else {
        return Err(problems.finish(text, file_name));
    };
    match validate(raw, &tree, &mut problems) {
        Some(config) => Ok(config),
        None => Err(problems.finish(text, file_name)),
    }
}

/// A mistake that only a look at something else shows: at the host, or at the herd that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind whose setting it is; `None`: no kind's.
    pub kind: Option<String>,
    /// `sandbox`, `bundle`; `network`, `tls`, `cert`.
    pub setting: Vec<Step>,
    pub message: String,
}

/// The findings where they stand in the file, which has been read before.
pub fn point_out(path: &Path, findings: Vec<Finding>) -> Problems {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (tree, _) = yaml::read(text);
    let mut problems = Collector::default();
    for Finding {
        kind,
        setting,
        message,
    } in findings
    {
        let steps = |start: &[&str]| -> Vec<Step> {
            let start = start.iter().map(|key| Step::from(*key));
            start.chain(setting.iter().cloned()).collect()
        };
        let (own, default) = match &kind {
            Some(kind) => (steps(&["workers", kind]), steps(&["defaults"])),
            None => (steps(&[]), steps(&[])),
        };
        let found = tree.as_ref().map(|tree| {
            let (own, default) = (tree.locate(&own), tree.locate(&default));
            match !own.complete && default.complete {
                true => default,
                false => own,
            }
        });
        match found {
            Some(found) if found.complete => problems.add(found.value_at, found.name, message),
            // What it would stand in; the key is named all the same.
            Some(found) if !found.name.is_empty() => {
                problems.add(found.key_at, yaml::written(&own), message);
            }
            // Nothing of it is in the file, or the file has gone meanwhile.
            _ => problems.add_about_file(yaml::written(&own), message),
        }
    }
    problems.finish(text, &path.display().to_string())
}

/// Whether the file, which has been read before, has this setting.
pub fn mentions(path: &Path, setting: &[Step]) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (tree, _) = yaml::read(text.strip_prefix('\u{feff}').unwrap_or(&text));
    tree.is_some_and(|tree| tree.locate(setting).complete)
}

fn empty_file(problems: &mut Collector) {
    let message = "is empty; write e.g. workers: {app: {cmd: [\"my-server\", \"--port\", \"{{.Port}}\"]}}";
    problems.add(Position { line: 1, column: 1 }, "", format!("the file {message}"));
}
