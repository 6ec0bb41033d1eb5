//! Where the dynamic loader of this machine finds shared libraries.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::elf::{Abi, Elf};
use super::machine::Machine;

/// Most files an `include` may lead to; a circle of them ends here.
const MOST_FILES: usize = 200;

/// The search path of glibc or musl, with what was found on it.
#[derive(Debug)]
pub(super) struct Libraries {
    configured: Vec<PathBuf>,
    found: HashMap<(String, Abi, Libc), Option<PathBuf>>,
}

/// Whose loader it is: they search differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Libc {
    Gnu,
    Musl,
}

impl Libc {
    pub(super) fn of(interpreter: Option<&Path>) -> Self {
        let name = interpreter.and_then(Path::file_name).map(|n| n.to_string_lossy());
        match name {
            Some(name) if name.starts_with("ld-musl-") => Self::Musl,
            _ => Self::Gnu,
        }
    }
}

impl Libraries {
    pub(super) fn of(machine: &Machine) -> Self {
        let mut configured = Vec::new();
        let mut read = HashSet::new();
        read_conf(machine, Path::new("/etc/ld.so.conf"), &mut configured, &mut read);
        Self {
            configured,
            found: HashMap::new(),
        }
    }

    /// The path under which the loader opens `name`, if `first` (its run paths) or the system has it for
    /// this `abi`. Files of another one are passed over, as the loader does.
    pub(super) fn find(
        &mut self,
        machine: &Machine,
        name: &str,
        abi: Abi,
        libc: Libc,
        first: &[PathBuf],
    ) -> Option<PathBuf> {
        // A name with a slash is a path, searched for nowhere (ld.so(8)).
        if name.contains('/') {
            let path = PathBuf::from(name);
            return (path.is_absolute() && fits(machine, &path, abi)).then_some(path);
        }
        for directory in first {
            let path = directory.join(name);
            if fits(machine, &path, abi) {
                return Some(path);
            }
        }
        if let Some(known) = self.found.get(&(name.to_owned(), abi, libc)) {
            return known.clone();
        }
        let found = self
            .system(machine, abi, libc)
            .into_iter()
            .map(|directory| directory.join(name))
            .find(|path| fits(machine, path, abi));
        self.found.insert((name.to_owned(), abi, libc), found.clone());
        found
    }

    fn system(&self, machine: &Machine, abi: Abi, libc: Libc) -> Vec<PathBuf> {
        if libc == Libc::Musl {
            let listed = machine
                .read(Path::new(&format!("/etc/ld-musl-{}.path", abi.name())))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let text = listed.unwrap_or_else(|_| "/lib:/usr/local/lib:/usr/lib".to_owned());
            return text
                .split([':', '\n'])
                .filter(|p| !p.is_empty())
                .map(PathBuf::from)
                .collect();
        }
        let mut directories = self.configured.clone();
        if let Some(triplet) = abi.multiarch() {
            directories.extend([
                format!("/lib/{triplet}").into(),
                format!("/usr/lib/{triplet}").into(),
            ]);
        }
        if abi.is_64 {
            directories.extend(["/lib64".into(), "/usr/lib64".into()]);
        }
        directories.extend(["/lib".into(), "/usr/lib".into()]);
        directories
    }
}

fn fits(machine: &Machine, path: &Path, abi: Abi) -> bool {
    machine
        .walk(path)
        .is_ok_and(|walk| matches!(Elf::read(&walk.on_disk), Ok(Some(elf)) if elf.abi == abi))
}

/// The directories of a file in the format of ldconfig(8).
fn read_conf(machine: &Machine, file: &Path, into: &mut Vec<PathBuf>, read: &mut HashSet<PathBuf>) {
    if read.len() >= MOST_FILES || !read.insert(file.to_owned()) {
        return;
    }
    let Ok(bytes) = machine.read(file) else {
        return;
    };
    for line in String::from_utf8_lossy(&bytes).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.split_once(char::is_whitespace) {
            Some(("include", patterns)) => {
                for pattern in patterns.split_whitespace() {
                    let beside = file.parent().unwrap_or(Path::new("/"));
                    for included in expand(machine, &beside.join(pattern)) {
                        read_conf(machine, &included, into, read);
                    }
                }
            }
            Some(("hwcap", _)) => {}
            _ => {
                for directory in line.split([' ', '\t', ':', ',']).filter(|d| d.starts_with('/')) {
                    // `dir=TYPE`, a relic of libc5.
                    let directory = PathBuf::from(directory.split('=').next().unwrap_or(directory));
                    if !into.contains(&directory) {
                        into.push(directory);
                    }
                }
            }
        }
    }
}

/// The files that match a pattern whose last component may hold wildcards, in the order of their names.
pub(super) fn expand(machine: &Machine, pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy();
    if !name.contains(['*', '?']) {
        return vec![pattern.to_owned()];
    }
    let names = machine
        .walk(directory)
        .and_then(|walk| machine.list(&walk.path))
        .unwrap_or_default();
    names
        .into_iter()
        .filter(|entry| matches(&name, &entry.to_string_lossy()))
        .map(|entry| directory.join(entry))
        .collect()
}

/// Shell wildcards, as far as `*` and `?`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stood, and how much it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn wildcards_match_like_a_shell() {
        assert!(matches("*.conf", "libc.conf"));
        assert!(matches("python3.*", "python3.11"));
        assert!(matches("a?c*", "abcd"));
        assert!(matches("*", ""));
        assert!(!matches("*.conf", "libc.conf.bak"));
        assert!(!matches("python3.*", "python3"));
    }

    #[test]
    fn the_loader_configuration_is_read_with_its_includes() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/ld.so.conf.d");
        fs::create_dir_all(&etc).unwrap();
        fs::write(
            root.path().join("etc/ld.so.conf"),
            "include ld.so.conf.d/*.conf\n/opt/last # why\n",
        )
        .unwrap();
        fs::write(etc.join("b.conf"), "/opt/b:/opt/b2\n# /opt/no\n").unwrap();
        fs::write(etc.join("a.conf"), "include /etc/ld.so.conf\n/opt/a=libc6\n").unwrap();
        fs::write(etc.join("c.conf~"), "/opt/no\n").unwrap();
        let libraries = Libraries::of(&Machine::at(root.path()));
        assert_eq!(
            libraries.configured,
            ["/opt/a", "/opt/b", "/opt/b2", "/opt/last"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_library_of_another_machine_is_passed_over() {
        let machine = Machine::default();
        let mut libraries = Libraries::of(&machine);
        let mut find = |abi| libraries.find(&machine, "libc.so.6", abi, Libc::Gnu, &[]);
        assert!(find(Abi::NATIVE).is_some());
        assert_eq!(
            find(Abi {
                machine: 0xbeef,
                ..Abi::NATIVE
            }),
            None
        );
    }
}
