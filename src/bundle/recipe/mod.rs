//! Recipes: what a bundle is made of, in a file.
//!
//! ```text
//! DIR/bundle.yaml ──read──▶ Recipe ──build──▶ Gatherer ──▶ Tree ──▶ Staging ──▶ the bundle
//!      every mistake in one run     │
//!                                   └ herd bundle from-host makes one from its arguments
//! ```
//!
//! A recipe takes from this machine, and only with [`Network::Fetch`] from Debian's archive. It has no
//! commands to run: what a bundle is made of can be read off, and building one cannot do anything else.

mod build;
mod raw;
mod read;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use build::{BuildError, Network, Progress, build};
#[cfg(any(fuzzing, test))]
pub(super) use read::parse;
pub use read::{FILE, RecipeError, read};

use super::User;

/// What goes into a bundle, and what runs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// For people; becomes the bundle's source.
    pub source: String,
    /// Where programs are looked up.
    pub search_path: Vec<PathBuf>,
    /// A bundle to start from; none: nothing but what is named here.
    pub base: Option<PathBuf>,
    /// Names or paths of programs of this machine.
    pub programs: Vec<String>,
    /// Debian packages.
    pub packages: Vec<String>,
    /// Files and directories of this machine, at their own paths.
    pub with: Vec<PathBuf>,
    pub files: Vec<Copied>,
    /// Symbolic links, and what they point to.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// Paths in the bundle that are left out.
    pub without: Vec<PathBuf>,
    pub env: BTreeMap<String, String>,
    /// Program and arguments; empty: the first program.
    pub entry: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<User>,
    pub labels: BTreeMap<String, String>,
}

/// A file or directory that is copied to another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub source: PathBuf,
    pub target: PathBuf,
    /// Permission bits; none: those of the source, without set-id bits and write access for others.
    pub mode: Option<u32>,
}

impl Recipe {
    /// Nothing but programs and files of this machine; `path` is the PATH of who asks.
    pub fn from_host(
        path: &std::ffi::OsStr,
        programs: Vec<String>,
        with: Vec<PathBuf>,
        packages: Vec<String>,
    ) -> Self {
        // A relative entry means whatever directory one is in; no program of this machine is found that way.
        let own = std::env::split_paths(path).filter(|directory| directory.is_absolute());
        Self {
            search_path: own.chain(system_path()).collect(),
            source: format!("this machine: {}", programs.join(" ")),
            base: None,
            programs,
            packages,
            with,
            files: Vec::new(),
            links: BTreeMap::new(),
            without: Vec::new(),
            env: BTreeMap::new(),
            entry: Vec::new(),
            cwd: None,
            user: None,
            labels: BTreeMap::new(),
        }
    }
}

/// Where every system has its programs: what a recipe means by a name does not depend on who builds it.
fn system_path() -> impl Iterator<Item = PathBuf> {
    super::PATH.split(':').map(PathBuf::from)
}
