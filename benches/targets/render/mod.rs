//! A saved run as docs/benchmarks.md, with one plot per group.
//!
//! Nothing is edited by hand there. What people have to say about a row stands in benches/explanations.json.

mod plot;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::groups::GROUPS;
use crate::results::{Results, judged, shown};
use crate::samples::Samples;
use crate::table::{Row, Verdict};

const INTRODUCTION: &str = "\
# Benchmarks

<!-- Written by `cargo bench --bench targets -- render`; edit benches/explanations.json instead. -->

herd against other programs that do the same work, on one machine, in one run:

```sh
.ci/setup                                                        # or: apt-get install haproxy nginx-light runc crun bubblewrap
cargo bench --bench targets -- --out run.json                    # measures, prints the table
cargo bench --bench targets -- render run.json                   # writes this page
```

Everybody meets the same load generator and the same upstream ([their source](../benches/targets/load)); the peers'
configurations are in [benches/targets/peers](../benches/targets/peers). Readings are taken in turns, herd, peer, herd,
peer …, with another one first each round; the first round is discarded. Shown are medians and, in parentheses, the
quartiles. CPU time is what the kernel's scheduler counted for the threads of the measured program alone. A bound is
judged by the ratio of the medians. These are readings of one machine: compare ratios, not numbers.
";

/// Writes docs/benchmarks.md and docs/benchmarks/*.svg.
pub(crate) fn render(results: &Results) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let explanations = explanations(&root.join("benches/explanations.json"))?;
    let plots = root.join("docs/benchmarks");
    fs::create_dir_all(&plots)?;
    let mut page = format!("{INTRODUCTION}\n## The machine\n\n| | |\n|---|---|\n");
    for (name, value) in results.machine.lines() {
        writeln!(page, "| {name} | {value} |")?;
    }
    writeln!(page, "| Rounds | {} |", results.rounds)?;
    if results.quick {
        page.push_str("\n**These are quick readings: they show that everything works and judge nothing.**\n");
    }
    for group in GROUPS {
        let rows: Vec<&Row> = results
            .rows
            .iter()
            .filter(|row| group.rows.contains(&row.id.as_str()))
            .collect();
        if rows.is_empty() {
            continue;
        }
        fs::write(
            plots.join(format!("{}.svg", group.id)),
            plot::bars(group.what, &rows),
        )?;
        write!(
            page,
            "\n## {}\n\n![Medians and quartiles](benchmarks/{}.svg)\n\n{}",
            capitalised(group.what),
            group.id,
            table(&rows)
        )?;
        page.push_str(&remarks(&rows, &explanations));
    }
    for failure in &results.failures {
        writeln!(page, "\n**Could not be measured:** {failure}")?;
    }
    let path = root.join("docs/benchmarks.md");
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// By the row's id. One for a row that does not exist is a mistake: rows' ids never change.
fn explanations(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let explanations: BTreeMap<String, String> =
        serde_json::from_str(&text).with_context(|| format!("{} is not a map of texts", path.display()))?;
    for id in explanations.keys() {
        let known = GROUPS.iter().any(|group| group.rows.contains(&id.as_str()));
        anyhow::ensure!(known, "{} explains {id:?}, which is no row", path.display());
    }
    Ok(explanations)
}

fn table(rows: &[&Row]) -> String {
    let mut text = "| Row | | herd | Peers | Bound | Value | |\n|---|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let peers: Vec<String> = row
            .peers
            .iter()
            .map(|peer| format!("{} {}", peer.name, with_spread(&peer.samples)))
            .collect();
        let judged: Vec<[String; 3]> = row.bounds.iter().map(|bound| judged(row, bound)).collect();
        let column = |at: usize| {
            let cells: Vec<&str> = judged.iter().map(|cells| cells[at].as_str()).collect();
            cells.join("<br>")
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} {} | {} | {} | {} | {} |",
            row.id,
            row.what,
            with_spread(&row.herd),
            row.unit,
            peers.join("<br>"),
            column(0),
            column(1),
            column(2)
        );
    }
    text
}

fn with_spread(samples: &Samples) -> String {
    let median = shown(samples.median());
    match samples.spread() {
        Some((low, high)) if samples.readings().len() > 1 => {
            format!("{median} ({}–{})", shown(Some(low)), shown(Some(high)))
        }
        _ => median,
    }
}

/// What rows say of themselves, and what people say of them. A shortfall that nobody has explained is named.
fn remarks(rows: &[&Row], explanations: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for row in rows {
        let short = row
            .bounds
            .iter()
            .any(|bound| row.verdict(bound) == Verdict::Short);
        let explained = explanations.get(&row.id).map(String::as_str);
        let unexplained = short.then_some("*Short, and not explained yet.*");
        let said: Vec<&str> = [row.note.as_deref(), explained.or(unexplained)]
            .into_iter()
            .flatten()
            .collect();
        if !said.is_empty() {
            let _ = writeln!(text, "- `{}`: {}", row.id, said.join(" "));
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("\n{text}")
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
