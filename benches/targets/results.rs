//! A whole run, as it is saved and as a terminal shows it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::table::{Bound, Relation, Row, Verdict};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
    pub(crate) rows: Vec<Row>,
    /// Groups that could not be measured although they should have been.
    pub(crate) failures: Vec<String>,
}

impl Results {
    pub(crate) fn new(machine: Machine, lab: &Lab) -> Self {
        Self {
            machine,
            rounds: lab.rounds,
            quick: lab.quick,
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} holds no results", path.display()))
    }

    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// One line per bound, and one per row without.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![["row", "herd", "peers", "bound", "value", ""].map(str::to_owned)];
        for row in &self.rows {
            let peers: Vec<String> = row
                .peers
                .iter()
                .map(|peer| format!("{} {}", peer.name, shown(peer.samples.median())))
                .collect();
            let herd = format!("{} {}", shown(row.herd.median()), row.unit);
            let mut first = [row.id.clone(), herd, peers.join(", ")];
            for bound in row
                .bounds
                .iter()
                .map(Some)
                .chain(row.bounds.is_empty().then_some(None))
            {
                let [id, herd, peers] = std::mem::take(&mut first);
                let judged = bound.map_or_else(Default::default, |bound| judged(row, bound));
                let [limit, value, verdict] = judged;
                lines.push([id, herd, peers, limit, value, verdict]);
            }
        }
        let mut text = columns(&lines);
        if self.quick {
            text.push_str("These are quick readings: they show that everything works and judge nothing.\n");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        text
    }
}

/// Limit, value and verdict of a bound.
pub(crate) fn judged(row: &Row, bound: &Bound) -> [String; 3] {
    let relation = match bound.relation {
        Relation::AtMost => "≤",
        Relation::AtLeast => "≥",
        Relation::Exactly => "=",
    };
    let (unit, value) = match &bound.against {
        Some(peer) => (
            format!("× {peer}"),
            row.value(bound).map(|ratio| format!("{ratio:.2}×")),
        ),
        None => (
            format!(" {}", row.unit),
            row.value(bound).map(|value| shown(Some(value))),
        ),
    };
    let verdict = match row.verdict(bound) {
        Verdict::Pass => "pass",
        Verdict::Short => "SHORT",
        Verdict::Unmeasured => "unmeasured",
    };
    [
        format!("{relation} {}{unit}", bound.limit),
        value.unwrap_or_else(|| "–".to_owned()),
        verdict.to_owned(),
    ]
}

/// Three significant digits; a dash for what was not measured.
pub(crate) fn shown(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
