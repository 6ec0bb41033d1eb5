//! The benchmark command: herd against its peers, on the machine it runs on.
//!
//! ```sh
//! cargo bench --bench targets                          # every row
//! cargo bench --bench targets -- get- tunnel-bulk      # rows whose ids begin so
//! cargo bench --bench targets -- --quick               # proves that it works, judges nothing
//! cargo bench --bench targets -- render FILE.json      # docs/benchmarks.md and its plots
//! ```
//!
//! | module | what |
//! |---|---|
//! | `samples`, `table`, `results` | repeated readings; a row with its bounds; a whole run as JSON |
//! | `lab`, `machine`, `process` | what every group gets; the machine described; children, pinned and ended |
//! | `load` | the load generator and the upstream behind every proxy |
//! | `peers` | herd, haproxy and nginx, started for the same job |
//! | `data`, `memory` | rows about requests, tunnels and connections |
//! | `life` | rows about starts, ends and sessions, with the raw floor of a start |
//! | `render` | a run as Markdown and plots |
//!
//! Nothing outside this repository is built: peers are the distribution's packages, and a row whose peer is
//! not installed is *unmeasured*, not a failure.

#![deny(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command's output")]

mod data;
mod groups;
mod interrupt;
mod lab;
mod life;
mod load;
mod machine;
mod memory;
mod peers;
mod process;
mod render;
mod results;
mod samples;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::groups::GROUPS;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::results::Results;

/// Measures herd against its peers and prints the table of targets
#[derive(Debug, Parser)]
#[command(name = "targets", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Action>,
    /// Only rows whose ids begin with one of these
    rows: Vec<String>,
    /// Few, short readings: shows that everything works, judges nothing
    #[arg(long)]
    quick: bool,
    /// Readings per row, after a discarded one [default: 7, with --quick 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Where the results go
    #[arg(long, default_value = "target/benchmarks.json")]
    out: PathBuf,
    /// The herd that is measured, if not the one that was built with this
    #[arg(long, default_value = env!("CARGO_BIN_EXE_herd"), hide_default_value = true)]
    herd: PathBuf,
    /// The rows there are
    #[arg(long)]
    list: bool,
    /// What `cargo bench` adds to every command line
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    #[command(hide = true)]
    LifeJail(life::Jail),
    /// Print the table of saved results
    Show { file: PathBuf },
    /// Write docs/benchmarks.md and its plots from saved results
    Render { file: PathBuf },
    #[command(hide = true)]
    Upstream(load::upstream::Upstream),
    #[command(hide = true)]
    Floor(load::floor::Floor),
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Some(Action::LifeJail(jail)) => jail.run().map(|()| ExitCode::SUCCESS),
        Some(Action::Show { file }) => {
            print!("{}", Results::load(&file)?.table());
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Render { file }) => {
            println!("{}", render::render(&Results::load(&file)?)?.display());
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Upstream(upstream)) => upstream.run().map(|()| ExitCode::SUCCESS),
        Some(Action::Floor(floor)) => floor.run().map(|()| ExitCode::SUCCESS),
        None if cli.list => {
            for group in GROUPS {
                println!("{}: {}", group.id, group.what);
                group.rows.iter().for_each(|row| println!("  {row}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        None => measure(&cli),
    }
}

fn measure(cli: &Cli) -> anyhow::Result<ExitCode> {
    let rounds = cli.rounds.unwrap_or(if cli.quick { 2 } else { 7 });
    let lab = Lab::open(&cli.herd, rounds, cli.quick, cli.rows.clone())?;
    let chosen: Vec<_> = GROUPS
        .iter()
        .filter(|group| group.rows.iter().any(|row| lab.wants(row)))
        .collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "no row begins with {:?}; see --list",
        cli.rows
    );
    let mut results = Results::new(Machine::describe(&lab), &lab);
    let mut failed = false;
    for group in chosen {
        lab.say(&format!("=== {}: {}", group.id, group.what));
        match (group.run)(&lab) {
            Ok(rows) => results.rows.extend(rows),
            Err(e) if lab.interrupted() => {
                lab.say(&format!("stopped: {e:#}"));
                return Ok(ExitCode::from(130));
            }
            Err(e) => {
                failed = true;
                lab.say(&format!("!!! {} FAILED: {e:#}", group.id));
                results.failures.push(format!("{}: {e:#}", group.id));
            }
        }
        // After every group: what was measured outlives what comes.
        save(&results, &cli.out)?;
    }
    print!("{}", results.table());
    lab.say(&format!("saved as {}", cli.out.display()));
    Ok(ExitCode::from(u8::from(failed)))
}

fn save(results: &Results, path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    results.save(path)
}
