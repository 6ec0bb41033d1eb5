//! Root filesystems from the files of this machine: no registry, no Docker, no network, no root.
//!
//! [`Gatherer`] finds everything a program needs and leaves a [`Tree`]: a description, nothing is
//! written. The same machine and the same request give the same tree, so they give the same digest.
//!
//! What it deliberately does not do: run anything. `ldd` executes the program it is asked about, and a
//! script's further commands cannot be known without running it; those are named by whoever asks.

mod companions;
mod elf;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod gather;
mod libraries;
mod loader_cache;
mod machine;
mod objects;
pub mod packages;
mod placed;
mod script;
mod skeleton;
mod tree;
mod write;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use gather::Gatherer;
pub use machine::Machine;
pub use tree::{Entry, Tree};
pub use write::{WriteError, write};

/// Something that cannot be gathered.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error(
        "there is no program {name} in {}; install it, or name its path",
        joined(searched)
    )]
    Program { name: String, searched: Vec<PathBuf> },
    #[error("{} is not a program: it is no file, or nobody may execute it", path.display())]
    NotAProgram { path: PathBuf },
    #[error("{} cannot be read: {source}; {needed_by} needs it", path.display())]
    Unreadable {
        path: PathBuf,
        needed_by: String,
        source: io::Error,
    },
    #[error("{} needs the library {library}, which this machine does not have", needed_by.display())]
    Library { library: String, needed_by: PathBuf },
    #[error("there is no program {name} in PATH; {} is a script for it", script.display())]
    Interpreter { name: String, script: PathBuf },
    #[error(
        "{} is for {found} and this machine is {machine}; {needed_by} needs it",
        path.display()
    )]
    Architecture {
        path: PathBuf,
        needed_by: String,
        found: String,
        machine: String,
    },
    #[error(
        "{} is a stand-in of {manager}, which chooses the real program when it runs; name that one: \
         `{manager} which {program}` prints its path",
        path.display()
    )]
    Shim {
        path: PathBuf,
        manager: &'static str,
        program: String,
    },
    #[error("{} is {kind}, not a file; name files and directories", path.display())]
    Special { path: PathBuf, kind: &'static str },
    #[error(
        "{} holds no files of its own (/proc, /sys and /dev are made for every worker); name what is needed",
        path.display()
    )]
    NotFiles { path: PathBuf },
    #[error(transparent)]
    Package(#[from] packages::PackageError),
}

fn joined(paths: &[PathBuf]) -> String {
    let list: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    list.join(":")
}
