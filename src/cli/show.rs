//! How the verbs show things: columns, durations and sizes for people, JSON and YAML for programs.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use clap::builder::PossibleValue;
use serde::Serialize;

use crate::worker::escape;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Data(Format),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

impl clap::ValueEnum for Output {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Table, Self::Data(Format::Json), Self::Data(Format::Yaml)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            // The name that `herd check` had for it.
            Self::Table => PossibleValue::new("table").alias("text"),
            Self::Data(Format::Json) => PossibleValue::new("json"),
            Self::Data(Format::Yaml) => PossibleValue::new("yaml"),
        })
    }
}

impl Format {
    /// All that a command prints.
    pub(super) fn print(self, value: &impl Serialize) -> anyhow::Result<()> {
        Ok(print(match self {
            Self::Json => serde_json::to_string_pretty(value)? + "\n",
            Self::Yaml => yaml(&serde_json::to_value(value)?)?,
        })?)
    }

    /// One of several that a command prints: in JSON as [`Self::print`] does it, in YAML a document of a stream.
    pub(super) fn print_next(self, value: &impl Serialize) -> anyhow::Result<()> {
        match self {
            Self::Json => self.print(value),
            Self::Yaml => Ok(print(document(&serde_json::to_value(value)?)?)?),
        }
    }

    /// One of several, which came as a line of JSON: in JSON as it is.
    pub(super) fn print_line(self, line: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Json => Ok(print([line, b"\n"].concat())?),
            Self::Yaml => {
                let value = serde_json::from_slice(line).context("herd's answer is not understood")?;
                Ok(print(document(&value)?)?)
            }
        }
    }
}

/// The same as its JSON, for every reader of YAML 1.1 or 1.2.
fn yaml(value: &serde_json::Value) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! {
        // Long texts stay on their line, as in JSON.
        folded_wrap_chars: usize::MAX,
    };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

fn document(value: &serde_json::Value) -> anyhow::Result<String> {
    Ok(format!("---\n{}", yaml(value)?))
}

/// Rows under their headings, columns as wide as their widest cell. What came from outside is escaped.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| escape(cell.as_bytes())))
        .collect();
    let mut widths = headings.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let headings = headings.map(Into::into);
    for row in std::iter::once(&headings).chain(&rows) {
        let start = text.len();
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
    text
}

/// `850ms`, `12s`, `3m12s`, `2h03m`, `4d02h`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `512 B`, `3.1 kB`, `312 MB`: powers of 1000, two or three digits.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    if unit == "B" || value >= 9.95 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

pub(super) fn count(count: usize, noun: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { noun } else { plural })
}

/// To standard output; a reader that has left is an error of kind `BrokenPipe`, which `herd` takes for
/// "enough".
pub(super) fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::problem::Collector;

    #[test]
    fn columns_are_aligned_and_cannot_drive_the_terminal() {
        let rows = [
            ["a".into(), "\x1b[2Jx".into(), "1".into()],
            ["long".into(), String::new(), "22".into()],
        ];
        let text = table(["ID", "B", "C"], &rows);
        assert_eq!(
            text,
            "ID    B         C\na     \\x1b[2Jx  1\nlong            22\n"
        );
    }

    /// Read by herd's own reader of YAML.
    fn read(text: &str) -> serde_json::Value {
        let (tree, problems) = crate::yaml::read(text);
        assert!(problems.is_empty(), "{problems:?} in\n{text}");
        let mut collector = Collector::default();
        let value = crate::yaml::read_as(&mut tree.unwrap(), &mut collector);
        value.unwrap_or_else(|| panic!("not understood:\n{text}"))
    }

    #[test]
    fn yaml_looks_as_people_expect_it() {
        let value = serde_json::json!({
            "sessions": [{ "id": "a", "pid": 7, "age": 1.5, "run": null, "log": [], "death": {} }, "text"],
            "multi": "one\ntwo\n",
            "draining": false,
        });
        let text = "sessions:\n- id: a\n  pid: 7\n  age: 1.5\n  run: null\n  log: []\n  death: {}\n- text\n\
                    multi: |\n  one\n  two\ndraining: false\n";
        assert_eq!(yaml(&value).unwrap(), text);
        assert_eq!(document(&value).unwrap(), format!("---\n{text}"));
    }

    #[test]
    fn whatever_there_is_comes_back_from_yaml_as_it_is_in_json() {
        let pieces = [
            "a",
            "1",
            "0",
            ".",
            "-",
            "+",
            "e",
            "x",
            "o",
            "_",
            ":",
            " ",
            "#",
            "\n",
            "\t",
            "\r",
            "\"",
            "'",
            "\\",
            "\0",
            "\x1b",
            "\x7f",
            "\u{85}",
            "\u{9b}",
            "\u{a0}",
            "\u{2028}",
            "\u{202e}",
            "\u{feff}",
            "\u{fffd}",
            "ä",
            "漢",
            "🐑",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&",
            "*",
            "!",
            "|",
            ">",
            "%",
            "@",
            "`",
            "?",
            "~",
            "=",
            "<<",
            "---",
            "...",
            "null",
            "Null",
            "true",
            "NO",
            "on",
            "y",
            ".inf",
            ".nan",
            "0x1F",
            "0o17",
            "1e3",
            "1_000",
            "12:30:45",
            "2026-01-31T12:00:00Z",
            "2026-01-31",
            "  ",
            "\n\n",
            "- ",
            ": ",
            " #",
            "very long words in a row, ",
        ];
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut texts: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        texts.push(String::new());
        texts.push("word ".repeat(100));
        for _ in 0..20_000 {
            let length = 1 + random(6);
            texts.push((0..length).map(|_| pieces[random(pieces.len())]).collect());
        }
        for text in &texts {
            let value = serde_json::json!({ "key": text, "list": [text, [text], { "deep": text }] });
            let shown = yaml(&value).unwrap();
            assert_eq!(read(&shown), value, "{shown}");
            let drives = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            assert!(!shown.contains(drives), "{shown:?}");
            let value = serde_json::json!({ text: 1 });
            let shown = yaml(&value).unwrap();
            assert_eq!(read(&shown), value, "as a key: {shown}");
            let shown = yaml(&text.clone().into()).unwrap();
            assert_eq!(read(&shown), *text, "alone: {shown}");
        }
        for number in [
            "0",
            "-1",
            "9223372036854775807",
            "9007199254740993",
            "1.0",
            "0.1",
            "1e300",
            "-2.5e-7",
            "3.141592653589793",
        ] {
            let value: serde_json::Value = serde_json::from_str(number).unwrap();
            let shown = yaml(&value).unwrap();
            assert_eq!(read(&shown), value, "{shown}");
        }
    }

    #[test]
    fn durations_have_their_two_leading_units() {
        for (millis, text) in [
            (0, "0ms"),
            (850, "850ms"),
            (12_900, "12s"),
            (192_000, "3m12s"),
            (7_380_000, "2h03m"),
            (352_800_000, "4d02h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_have_two_or_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_960, "10 kB"),
            (312_400_000, "312 MB"),
            (1_999_999, "2.0 MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
