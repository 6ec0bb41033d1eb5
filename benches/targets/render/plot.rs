//! Horizontal bars: medians, quartiles and bounds. Colours follow the reader's light or dark scheme, which the
//! plotting crates cannot do.

use std::fmt::Write;

use crate::results::shown;
use crate::samples::Samples;
use crate::table::Row;

const WIDTH: f64 = 860.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 150.0;
const LONGEST: f64 = 560.0;
const BAR: f64 = 18.0;
const TITLE: f64 = 30.0;
const GAP: f64 = 14.0;

const STYLE: &str = "<style>\
text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-weight:600}.herd{fill:#2f7d4f}.peer{fill:#9aa4af}\
.spread{stroke:#1f2328;stroke-width:1.5}.bound{stroke:#c4442f;stroke-width:2;stroke-dasharray:4 3}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.herd{fill:#56b37b}.peer{fill:#59636e}.spread{stroke:#e6edf3}\
.bound{stroke:#ff7b66}}</style>";

/// One panel per row, each with a scale of its own.
pub(super) fn bars(title: &str, rows: &[&Row]) -> String {
    let mut body = String::new();
    let mut top = GAP;
    for row in rows {
        top = panel(&mut body, row, top);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" role=\"img\">\
         <title>{}</title>{STYLE}\n{body}</svg>\n",
        escaped(title)
    )
}

/// Where the next one begins.
fn panel(body: &mut String, row: &Row, top: f64) -> f64 {
    let entrants: Vec<(&str, &Samples)> = std::iter::once(("herd", &row.herd))
        .chain(row.peers.iter().map(|peer| (peer.name.as_str(), &peer.samples)))
        .filter(|(_, samples)| !samples.is_empty())
        .collect();
    let limits: Vec<f64> = row
        .bounds
        .iter()
        .filter_map(|bound| match &bound.against {
            None => Some(bound.limit),
            Some(name) => {
                let peer = row.peers.iter().find(|peer| peer.name == *name)?;
                Some(bound.limit * peer.samples.median()?)
            }
        })
        .collect();
    let highest = entrants
        .iter()
        .filter_map(|(_, samples)| samples.quantile(0.75))
        .chain(limits.iter().copied())
        .fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| LEFT + (value / highest).clamp(0.0, 1.0) * LONGEST;

    let _ = writeln!(
        body,
        "<text class=\"h\" x=\"8\" y=\"{:.1}\">{}: {} ({})</text>",
        top + 16.0,
        escaped(&row.id),
        escaped(&row.what),
        escaped(&row.unit)
    );
    let mut y = top + TITLE;
    for (name, samples) in &entrants {
        let (Some(median), Some((low, high))) = (samples.median(), samples.spread()) else {
            continue;
        };
        let class = if *name == "herd" { "herd" } else { "peer" };
        let middle = y + BAR / 2.0 - 2.0;
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
             <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            y + 12.0,
            escaped(name),
            at(median) - LEFT,
            BAR - 4.0,
            at(low),
            at(high),
            at(median.max(high)) + 8.0,
            y + 12.0,
            shown(Some(median))
        );
        y += BAR;
    }
    for limit in limits {
        let x = at(limit);
        let _ = writeln!(
            body,
            "<line class=\"bound\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{y:.1}\"><title>bound: {}</title></line>",
            top + TITLE - 4.0,
            shown(Some(limit))
        );
    }
    y + GAP
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
