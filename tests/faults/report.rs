//! What the cases observed, as a file of results and as docs/reliability.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::matrix::{Case, Fault, NOT_APPLICABLE};
use crate::watch::Gone;

/// One case that passed.
#[derive(Debug)]
pub(crate) struct Observed {
    case: Case,
    client: String,
    survived: &'static str,
    gone: Option<Gone>,
}

impl Observed {
    /// Fails where the client saw what it may not.
    pub(crate) fn new(
        case: Case,
        client: impl Into<String>,
        allowed: &[&str],
        survived: &'static str,
    ) -> Self {
        let client = client.into();
        assert!(
            allowed.contains(&client.as_str()),
            "{}: the client saw {client:?}, not one of {allowed:?}",
            case.name()
        );
        Self {
            case,
            client,
            survived,
            gone: None,
        }
    }

    /// Of several clients, or of one at several times.
    pub(crate) fn of_all(
        case: Case,
        seen: &BTreeSet<String>,
        allowed: &[&str],
        survived: &'static str,
    ) -> Self {
        let wrong: Vec<_> = seen
            .iter()
            .filter(|one| !allowed.contains(&one.as_str()))
            .collect();
        assert!(
            wrong.is_empty() && !seen.is_empty(),
            "{}: clients saw {seen:?}; {wrong:?} are not of {allowed:?}",
            case.name()
        );
        let client = seen.iter().map(String::as_str).collect::<Vec<_>>().join(" / ");
        Self {
            case,
            client,
            survived,
            gone: None,
        }
    }

    pub(crate) fn in_time(mut self, gone: Gone) -> Self {
        self.gone = Some(gone);
        self
    }
}

/// The results of one run.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) seed: u64,
    pub(crate) form: &'static str,
    rows: Mutex<Vec<Value>>,
}

impl Results {
    pub(crate) fn new(seed: u64, form: &'static str) -> Self {
        Self {
            seed,
            form,
            rows: Mutex::default(),
        }
    }

    pub(crate) fn add(&self, observed: &Observed, took: Duration) {
        let Observed {
            case,
            client,
            survived,
            gone,
        } = observed;
        let row = json!({
            "fault": case.fault.name(),
            "state": case.state.name(),
            "shape": case.shape.name(),
            "who": case.who(),
            "client": client,
            "survived": survived,
            "gone_ms": gone.map(|gone| gone.after.as_secs_f64() * 1e3),
            "ratio": gone.map(|gone| gone.ratio),
            "took_s": took.as_secs_f64(),
        });
        self.rows.lock().unwrap().push(row);
    }

    /// Returns where to.
    pub(crate) fn write(&self, failed: u64) -> PathBuf {
        let path = file();
        let rows = self.rows.lock().unwrap();
        let whole = json!({
            "herd": env!("CARGO_PKG_VERSION"),
            "kernel": first_line("/proc/sys/kernel/osrelease"),
            "processors": std::thread::available_parallelism().map_or(1, usize::from),
            "load": first_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            "seed": self.seed,
            "form": self.form,
            "failed": failed,
            "rows": *rows,
        });
        std::fs::write(&path, format!("{whole:#}\n")).unwrap();
        path
    }
}

fn first_line(file: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim_end().to_owned()
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/faults.json")
}

const COLUMNS: [(&str, &str); 4] = [
    ("bare", "root"),
    ("bare", "user"),
    ("sandbox", "root"),
    ("sandbox", "user"),
];

/// docs/reliability.md, from the results of the latest run.
pub(crate) fn render() -> String {
    let path = file();
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; run the suite first", path.display()));
    let results: Value = serde_json::from_str(&text).unwrap();
    let empty = Vec::new();
    let rows = results["rows"].as_array().unwrap_or(&empty);
    let mut page = include_str!("reliability.md").to_owned();
    page = page.replace("{run}", &run_line(&results, rows.len()));
    page = page.replace("{matrix}", &matrix(rows));
    page = page.replace("{weak}", &further(rows));
    page.replace("{left out}", &left_out())
}

fn run_line(results: &Value, count: usize) -> String {
    let text = |name: &str| results[name].as_str().unwrap_or("?").to_owned();
    format!(
        "herd {}, Linux {}, {} processors, load average at the end {}; seed {}, form `{}`: {count} cases passed, {} failed.",
        text("herd"),
        text("kernel"),
        results["processors"],
        text("load"),
        results["seed"],
        text("form"),
        results["failed"],
    )
}

fn is(row: &Value, fault: &str, state: &str) -> bool {
    row["fault"] == fault && row["state"] == state
}

fn matrix(rows: &[Value]) -> String {
    let mut page = String::from(
        "| Fault | State | Client saw | Survived | bare, root | bare, user | sandbox, root | sandbox, user |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for fault in Fault::ALL {
        for state in states(rows, fault.name()) {
            let of: Vec<&Value> = rows.iter().filter(|row| is(row, fault.name(), &state)).collect();
            let in_columns = |row: &&&Value| {
                COLUMNS
                    .iter()
                    .any(|(shape, who)| row["shape"] == *shape && row["who"] == *who)
            };
            let shown: Vec<&&Value> = of.iter().filter(in_columns).collect();
            if shown.is_empty() {
                continue;
            }
            let every = |name: &str| {
                let texts = shown.iter().filter_map(|row| row[name].as_str());
                let all: BTreeSet<&str> = texts.flat_map(|text| text.split(" / ")).collect();
                all.into_iter().collect::<Vec<_>>().join(" / ")
            };
            write!(
                page,
                "| {} | {state} | {} | {} |",
                fault.name(),
                every("client"),
                every("survived")
            )
            .unwrap();
            for (shape, who) in COLUMNS {
                let cell = shown
                    .iter()
                    .find(|row| row["shape"] == shape && row["who"] == who)
                    .map_or_else(|| "–".to_owned(), |row| cell(row));
                write!(page, " {cell} |").unwrap();
            }
            page.push('\n');
        }
    }
    page
}

/// In the order of the code.
fn states(rows: &[Value], fault: &str) -> Vec<String> {
    let mut found = Vec::new();
    for case in Case::all() {
        let state = case.state.name().to_owned();
        if case.fault.name() == fault
            && !found.contains(&state)
            && rows.iter().any(|row| is(row, fault, &state))
        {
            found.push(state);
        }
    }
    found
}

fn cell(row: &Value) -> String {
    match (row["gone_ms"].as_f64(), row["ratio"].as_f64()) {
        (Some(ms), Some(ratio)) => format!("{ms:.1} ms, {ratio:.1}×"),
        _ => "held".to_owned(),
    }
}

/// The modes that have no column.
fn further(rows: &[Value]) -> String {
    let mut of: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let (shape, who) = (
            row["shape"].as_str().unwrap_or_default(),
            row["who"].as_str().unwrap_or_default(),
        );
        if !COLUMNS.contains(&(shape, who)) {
            of.entry(format!("{shape}, {who}"))
                .or_default()
                .push(row["ratio"].as_f64().unwrap_or(0.0));
        }
    }
    let mut page =
        String::from("| Set-up | Cases that passed | Slowest, beside a bare kill |\n|---|---|---|\n");
    for (name, ratios) in of {
        let most = ratios.iter().copied().fold(0.0, f64::max);
        writeln!(page, "| {name} | {} | {most:.1}× |", ratios.len()).unwrap();
    }
    page
}

fn left_out() -> String {
    let mut reasons: BTreeMap<(&str, &str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (case, why) in Case::left_out() {
        reasons
            .entry((case.fault.name(), case.shape.name(), why))
            .or_default()
            .insert(case.who());
    }
    let mut page = String::new();
    for (what, why) in NOT_APPLICABLE {
        writeln!(page, "- {what}: {why}.").unwrap();
    }
    for ((fault, shape, why), who) in reasons {
        let who: Vec<&str> = who.into_iter().collect();
        writeln!(page, "- {fault} ({shape}; {}): {why}.", who.join(", ")).unwrap();
    }
    page
}
