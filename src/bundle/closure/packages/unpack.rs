//! Packages that are not installed: downloaded by apt, which checks their signatures, and unpacked beside
//! each other. Neither takes root, and nothing of a package runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PackageError;
use super::database::Database;
use crate::bundle::closure::machine::Machine;

/// More packages than any bundle needs; bounds what a strange set of dependencies can make this download.
const MOST: usize = 500;

/// Packages unpacked for one bundle.
#[derive(Debug)]
pub struct Unpacked {
    directory: PathBuf,
    count: usize,
}

impl Unpacked {
    /// In `directory`, which exists and which somebody else removes.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, count: 0 }
    }

    /// Makes a package and its dependencies part of `machine` and `database`, as far as they are not
    /// installed. `progress` is told of each download.
    pub fn fetch(
        &mut self,
        name: &str,
        machine: &mut Machine,
        database: &mut Database,
        progress: &dyn Fn(&str),
    ) -> Result<(), PackageError> {
        loop {
            let mut absent: Vec<(String, String)> = Vec::new();
            database.closure_or(name, |name, needed_by| {
                absent.push((name.to_owned(), needed_by.to_owned()));
                Ok(())
            })?;
            absent.dedup_by(|a, b| a.0 == b.0);
            if absent.is_empty() {
                return Ok(());
            }
            for (name, needed_by) in absent {
                if database.find(&name).is_some() {
                    continue;
                }
                if self.count >= MOST {
                    return Err(PackageError::TooMany { name, most: MOST });
                }
                progress(&name);
                self.one(&name, machine, database)?;
                if database.find(&name).is_none() {
                    return Err(PackageError::NotInstalled {
                        name,
                        needed_by,
                        hint: "apt has no package that provides it; name one that does under packages:",
                    });
                }
            }
        }
    }

    fn one(
        &mut self,
        name: &str,
        machine: &mut Machine,
        database: &mut Database,
    ) -> Result<(), PackageError> {
        self.count += 1;
        let place = self.directory.join(format!("{:03}", self.count));
        let root = place.join("root");
        fs::create_dir_all(&root)?;
        run(
            "apt-get",
            Command::new("apt-get")
                .args(["download", "-q", "--"])
                .arg(name)
                .current_dir(&place),
        )?;
        let archive = fs::read_dir(&place)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| PackageError::Command {
                command: format!("apt-get download {name}"),
                output: "it left no .deb file".to_owned(),
            })?;
        let control = run("dpkg-deb", Command::new("dpkg-deb").arg("-f").arg(&archive))?;
        run(
            "dpkg-deb",
            Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root),
        )?;
        fs::remove_file(&archive)?;
        for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
            let merged = machine
                .look(&Path::new("/").join(name))
                .is_ok_and(|(_, metadata)| metadata.is_symlink());
            if merged && root.join(name).is_dir() {
                merge(&root.join(name), &root.join("usr").join(name))?;
            }
        }
        let mut files = Vec::new();
        list(&root, Path::new("/"), &mut files)?;
        database.add_unpacked(&control, files);
        machine.lay_over(&root);
        Ok(())
    }
}

/// Moves what is in `from` into `to`; older packages still have /lib where the machine has a link.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() && target.is_dir() {
            merge(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), target)?;
        }
    }
    fs::remove_dir(from)
}

fn list(on_disk: &Path, path: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(on_disk)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = path.join(entry.file_name());
        into.push(path.clone());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &path, into)?;
        }
    }
    Ok(())
}

/// Runs one of Debian's tools to its end; what it printed.
fn run(name: &'static str, command: &mut Command) -> Result<String, PackageError> {
    // Messages are shown as they come: in one language.
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| PackageError::NoCommand {
            command: name,
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    Err(PackageError::Command {
        command: format!("{name} {}", arguments.join(" ")),
        output: said.trim().replace('\n', "; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_packages_are_told_as_that() {
        let mut unpacked = Unpacked {
            directory: "/nowhere".into(),
            count: MOST,
        };
        let mut machine = Machine::at(Path::new("/nowhere"));
        let error = unpacked
            .fetch("one-more", &mut machine, &mut Database::default(), &|name| {
                panic!("{name} is fetched")
            })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "one-more is one package more than the 500 that are downloaded for a bundle; install some of those that it needs"
        );
    }
}
