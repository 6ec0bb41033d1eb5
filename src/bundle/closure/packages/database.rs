//! dpkg's database: which packages there are, what they need, which files are theirs.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use super::PackageError;
use crate::bundle::closure::machine::Machine;

/// Packages that only configure others while these are installed. As dependencies they are left out, as
/// are those marked Essential: no program of a bundle may count on them.
const FOR_INSTALLATION: &[&str] = &[
    "adduser",
    "cdebconf",
    "debconf",
    "debconf-2.0",
    "dpkg",
    "init-system-helpers",
    "install-info",
    "libpam-systemd",
    "perl-base",
    "sensible-utils",
    "systemd",
    "ucf",
];

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub name: String,
    architecture: String,
    essential: bool,
    /// Each a list of alternatives.
    depends: Vec<Vec<String>>,
    provides: Vec<String>,
}

/// The installed packages of one machine.
#[derive(Debug, Default)]
pub struct Database {
    packages: Vec<Package>,
    by_name: HashMap<String, Vec<usize>>,
    /// Of packages that were unpacked for this bundle and are in no list of dpkg's.
    unpacked: HashMap<String, Vec<PathBuf>>,
}

impl Database {
    pub fn read(machine: &Machine) -> Result<Self, PackageError> {
        let bytes = machine
            .read(Path::new("/var/lib/dpkg/status"))
            .map_err(PackageError::NoDatabase)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// From the text of dpkg's status file.
    pub(super) fn parse(status: &str) -> Self {
        let mut database = Self::default();
        for stanza in status.split("\n\n") {
            let fields = fields(stanza);
            if fields.get("Status").is_some_and(|s| s.ends_with(" installed")) {
                database.insert(&fields);
            }
        }
        database
    }

    /// Adds a package that was unpacked: its control file, and its files' paths.
    pub(super) fn add_unpacked(&mut self, control: &str, files: Vec<PathBuf>) -> Option<Package> {
        let package = self.insert(&fields(control))?;
        self.unpacked.insert(package.name.clone(), files);
        Some(package)
    }

    fn insert(&mut self, fields: &HashMap<&str, String>) -> Option<Package> {
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let depends = [field("Pre-Depends"), field("Depends")];
        let package = Package {
            name: fields.get("Package")?.clone(),
            architecture: field("Architecture").to_owned(),
            essential: field("Essential") == "yes",
            depends: depends.into_iter().flat_map(relations).collect(),
            provides: relations(field("Provides")).into_iter().flatten().collect(),
        };
        let index = self.packages.len();
        for name in package.provides.iter().chain([&package.name]) {
            self.by_name.entry(name.clone()).or_default().push(index);
        }
        self.packages.push(package.clone());
        Some(package)
    }

    /// The package of that name, or one that stands for it; this machine's own architecture first.
    pub(super) fn find(&self, name: &str) -> Option<&Package> {
        let (bare, architecture) = name.split_once(':').map_or((name, None), |(n, a)| (n, Some(a)));
        let candidates = || {
            self.by_name
                .get(bare)
                .into_iter()
                .flatten()
                .map(|i| &self.packages[*i])
        };
        let native = |package: &&Package| match architecture {
            Some(wanted) if wanted != "any" => package.architecture == wanted,
            _ => package.architecture == "all" || package.architecture == native(),
        };
        candidates()
            .filter(native)
            .find(|package| package.name == bare)
            .or_else(|| candidates().find(native))
    }

    /// A package and all it depends on, each once.
    pub(super) fn closure(&self, name: &str) -> Result<Vec<Package>, PackageError> {
        self.closure_or(name, |name, needed_by| {
            Err(PackageError::NotInstalled {
                name: name.to_owned(),
                needed_by: needed_by.to_owned(),
                hint: "install it, or build with --fetch",
            })
        })
    }

    /// As [`Database::closure`]; `absent` is told of each package that is not there, and who needs it.
    pub(super) fn closure_or(
        &self,
        name: &str,
        mut absent: impl FnMut(&str, &str) -> Result<(), PackageError>,
    ) -> Result<Vec<Package>, PackageError> {
        let mut found: Vec<Package> = Vec::new();
        let mut seen = HashSet::new();
        let mut queue = VecDeque::from([(vec![name.to_owned()], String::new())]);
        while let Some((alternatives, needed_by)) = queue.pop_front() {
            let Some(package) = alternatives.iter().find_map(|name| self.find(name)) else {
                absent(alternatives.first().map_or("", String::as_str), &needed_by)?;
                continue;
            };
            let is_dependency = !needed_by.is_empty();
            if is_dependency && (package.essential || FOR_INSTALLATION.contains(&package.name.as_str())) {
                continue;
            }
            if !seen.insert((package.name.clone(), package.architecture.clone())) {
                continue;
            }
            queue.extend(package.depends.iter().map(|d| (d.clone(), package.name.clone())));
            found.push(package.clone());
        }
        Ok(found)
    }

    /// The paths a package consists of.
    pub(super) fn files(&self, machine: &Machine, package: &Package) -> Result<Vec<PathBuf>, PackageError> {
        if let Some(files) = self.unpacked.get(&package.name) {
            return Ok(files.clone());
        }
        let Package {
            name, architecture, ..
        } = package;
        let lists = [format!("{name}.list"), format!("{name}:{architecture}.list")];
        let bytes = lists
            .iter()
            .find_map(|list| machine.read(&Path::new("/var/lib/dpkg/info").join(list)).ok())
            .ok_or_else(|| PackageError::NotInstalled {
                name: name.clone(),
                needed_by: String::new(),
                hint: "dpkg knows it, but not its files (/var/lib/dpkg/info); reinstall it",
            })?;
        let text = String::from_utf8_lossy(&bytes);
        let paths = text.lines().filter(|line| line.starts_with('/') && *line != "/.");
        Ok(paths.map(PathBuf::from).collect())
    }
}

/// Debian's name for this machine's architecture.
fn native() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

/// The fields of one stanza (deb822(5)), continuation lines joined.
fn fields(stanza: &str) -> HashMap<&str, String> {
    let mut fields: HashMap<&str, String> = HashMap::new();
    let mut last = None;
    for line in stanza.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = last.and_then(|name| fields.get_mut(name)) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.insert(name, value.trim().to_owned());
            last = Some(name);
        }
    }
    fields
}

/// `a (>= 1) | b:any, c` → `[[a, b], [c]]`. Versions are not kept: what is installed together fits together.
fn relations(text: &str) -> Vec<Vec<String>> {
    text.split(',')
        .map(|group| {
            group
                .split('|')
                .filter_map(|relation| relation.split(['(', '[', '<']).next().map(str::trim))
                .filter(|name| !name.is_empty())
                .map(|name| name.trim_end_matches(":any").to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|group| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STATUS: &str = "\
Package: app
Status: install ok installed
Architecture: all
Depends: libold (>= 1) | libnew, shell,
 virtual:any
Description: an app
 with: a colon

Package: libnew
Status: install ok installed
Architecture: all
Depends: app

Package: shell
Status: install ok installed
Architecture: all
Essential: yes

Package: real
Status: install ok installed
Architecture: all
Provides: virtual (= 1), other

Package: gone
Status: deinstall ok config-files
Architecture: all

Package: broken
Status: install ok installed
Architecture: all
Depends: absent
";

    fn database() -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        let info = root.path().join("var/lib/dpkg/info");
        fs::create_dir_all(&info).unwrap();
        fs::write(root.path().join("var/lib/dpkg/status"), STATUS).unwrap();
        fs::write(info.join("app.list"), "/.\n/usr\n/usr/bin\n/usr/bin/app\n").unwrap();
        let machine = Machine::at(root.path());
        (root, machine)
    }

    fn names(packages: &[Package]) -> Vec<&str> {
        packages.iter().map(|package| package.name.as_str()).collect()
    }

    #[test]
    fn dependencies_come_along_and_essential_ones_do_not() {
        let (_root, machine) = database();
        let database = Database::read(&machine).unwrap();
        let found = database.closure("app").unwrap();
        assert_eq!(names(&found), ["app", "libnew", "real"]);
        // Whoever names an essential package gets it.
        assert_eq!(names(&database.closure("shell").unwrap()), ["shell"]);
        let files = database.files(&machine, &found[0]).unwrap();
        assert_eq!(files, ["/usr", "/usr/bin", "/usr/bin/app"].map(PathBuf::from));
    }

    #[test]
    fn an_absent_package_is_named_with_who_needs_it() {
        let (_root, machine) = database();
        let database = Database::read(&machine).unwrap();
        for (name, expected) in [
            (
                "broken",
                "there is no package absent on this machine (broken depends on it); install it, or build with --fetch",
            ),
            (
                "gone",
                "there is no package gone on this machine; install it, or build with --fetch",
            ),
        ] {
            assert_eq!(database.closure(name).unwrap_err().to_string(), expected);
        }
    }
}
