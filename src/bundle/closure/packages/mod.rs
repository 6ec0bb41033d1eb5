//! The files of Debian packages installed on this machine, read from dpkg's own database: no dpkg runs.

mod database;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod unpack;

use std::path::Path;

pub use database::Database;
pub use unpack::Unpacked;

use super::Missing;
use super::gather::{Care, Gatherer};
use super::libraries::matches;

/// Why the packages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("there is no package {name} on this machine{}; {hint}", needed(needed_by))]
    NotInstalled {
        name: String,
        needed_by: String,
        hint: &'static str,
    },
    #[error(
        "{name} is one package more than the {most} that are downloaded for a bundle; install some of those that it needs"
    )]
    TooMany { name: String, most: usize },
    #[error(
        "this machine has no Debian package database (/var/lib/dpkg/status: {0}); use programs and files"
    )]
    NoDatabase(std::io::Error),
    #[error("{command} failed: {output}")]
    Command { command: String, output: String },
    #[error("{command} cannot be run: {source}; it comes with Debian")]
    NoCommand {
        command: &'static str,
        source: std::io::Error,
    },
    #[error("a package cannot be unpacked: {0}")]
    Unpack(#[from] std::io::Error),
}

fn needed(by: &str) -> String {
    match by {
        "" => String::new(),
        _ => format!(" ({by} depends on it)"),
    }
}

/// Left out of every package: nothing reads it at run time.
const UNREAD: &[&str] = &[
    "/usr/share/bug",
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/gtk-doc",
    "/usr/share/help",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/menu",
    "/usr/share/metainfo",
    "/usr/share/reportbug",
];

/// What packages make when they are installed, which is in no package, and the packages (by pattern) whose
/// programs read it.
const MADE_AT_INSTALLATION: &[(&str, &str)] = &[
    ("ca-certificates", "/etc/ssl/certs"),
    ("libglib2.0-0*", "/usr/share/glib-2.0/schemas/gschemas.compiled"),
    ("shared-mime-info", "/usr/share/mime"),
    ("fontconfig-config", "/etc/fonts/conf.d"),
];

impl Gatherer<'_> {
    /// Adds the files of an installed package and of what it depends on.
    pub fn package(&mut self, database: &Database, name: &str) -> Result<(), Missing> {
        for package in database.closure(name)? {
            for path in database.files(self.machine, &package)? {
                let unread = UNREAD.iter().any(|directory| path.starts_with(directory));
                // Files can be missing on purpose: dpkg leaves out what its `path-exclude` names.
                if !unread && self.machine.look_through(&path).is_some() {
                    self.want(&path, Care::Found, &format!("the package {}", package.name));
                }
            }
            for (pattern, made) in MADE_AT_INSTALLATION {
                if matches(pattern, &package.name) {
                    self.found(Path::new(made), &package.name)?;
                }
            }
        }
        self.drain()
    }

    fn found(&mut self, path: &Path, needed_by: &str) -> Result<(), Missing> {
        match self.machine.walk(path) {
            Ok(walk) if walk.metadata.is_dir() => {
                self.pass(&walk);
                self.directory(&walk.path, &|_| true, needed_by)
            }
            Ok(_) => {
                self.want(path, Care::Found, needed_by);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }
}
