//! How the verbs show things: columns, durations and sizes for people, JSON for programs.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::worker::escape;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Output {
    #[default]
    Table,
    Json,
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

pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
