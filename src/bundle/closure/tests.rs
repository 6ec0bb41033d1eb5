//! Gathering from the machine the tests run on, and from small made-up ones.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::elf::Elf;
use super::*;
use crate::bundle::{PATH, User};

fn search() -> Vec<PathBuf> {
    PATH.split(':').map(PathBuf::from).collect()
}

fn gathered(program: &str) -> Tree {
    let machine = Machine::default();
    let mut gatherer = Gatherer::new(&machine, search());
    gatherer
        .program(program)
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    gatherer.finish(User::ROOT).0
}

fn refused(machine: &Machine, program: &str) -> String {
    Gatherer::new(machine, search())
        .program(program)
        .expect_err("should be refused")
        .to_string()
}

/// Whether the tree has a file at `path`, through its own links.
fn leads_to_a_file(tree: &Tree, path: &Path) -> bool {
    let entry = tree.resolve(path).and_then(|path| tree.entry(&path).cloned());
    matches!(entry, Some(Entry::Copy { .. } | Entry::Made { .. }))
}

#[test]
fn everything_the_loader_would_open_is_in_the_tree() {
    for program in ["/bin/true", "/usr/bin/python3", "/usr/bin/curl", "/usr/bin/git"] {
        if !Path::new(program).exists() {
            crate::skip::skipped(&format!("no {program}"));
            continue;
        }
        let tree = gathered(program);
        assert!(leads_to_a_file(&tree, Path::new(program)), "{program}");
        let output = Command::new("ldd").arg(program).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let opened: Vec<&str> = text
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .collect();
        assert!(opened.len() > 1, "{program}: ldd named only {opened:?}");
        for path in opened {
            assert!(leads_to_a_file(&tree, Path::new(path)), "{program} opens {path}");
        }
    }
}

#[test]
fn whatever_any_object_needs_is_in_the_tree() {
    let tree = gathered("/usr/bin/python3");
    let names: Vec<_> = tree
        .iter()
        .filter_map(|(path, _)| path.file_name()?.to_str())
        .collect();
    let mut objects = 0;
    for (path, entry) in tree.iter() {
        let Entry::Copy { from, .. } = entry else { continue };
        let Ok(Some(elf)) = Elf::read(from) else { continue };
        objects += 1;
        for needed in elf.needed.iter().map(String::as_str) {
            assert!(names.contains(&needed), "{} needs {needed}", path.display());
        }
        if let Some(loader) = elf.interpreter {
            assert!(
                leads_to_a_file(&tree, &loader),
                "{} is started by {}",
                path.display(),
                loader.display()
            );
        }
    }
    assert!(
        objects > 20,
        "only {objects} objects: the extension modules are missing"
    );
}

#[test]
fn no_path_of_a_tree_leads_through_a_link_and_no_privilege_comes_along() {
    let tree = gathered("/bin/su");
    for (path, entry) in tree.iter() {
        let parent = path.parent().unwrap();
        assert!(
            parent == Path::new("/") || matches!(tree.entry(parent), Some(Entry::Directory { .. })),
            "{} is not below a directory",
            path.display()
        );
        if let Entry::Copy { mode, .. } = entry {
            assert_eq!(mode & 0o7022, 0, "{} has mode {mode:o}", path.display());
        }
    }
}

#[test]
fn links_on_the_way_to_a_program_stay_links() {
    let tree = gathered("/usr/bin/awk");
    for path in ["/usr/bin/awk", "/etc/alternatives/awk"] {
        let to = fs::read_link(path).unwrap();
        assert_eq!(tree.entry(Path::new(path)), Some(&Entry::Link { to }), "{path}");
    }
    assert!(leads_to_a_file(&tree, Path::new("/usr/bin/awk")));
}

#[test]
fn the_same_request_gives_the_same_tree() {
    let list = |tree: Tree| {
        tree.iter()
            .map(|(p, e)| (p.to_owned(), e.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list(gathered("/usr/bin/python3")),
        list(gathered("/usr/bin/python3"))
    );
}

/// A directory of programs that are not on the machine.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str, bytes: &[u8], mode: u32) -> String {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_script_brings_its_interpreter_and_what_env_looks_up() {
    let made = Made::new();
    let script = made.file("script", b"#!/usr/bin/env -S python3 -u\n", 0o755);
    let tree = gathered(&script);
    for path in [script.as_str(), "/usr/bin/env", "/usr/bin/python3"] {
        assert!(leads_to_a_file(&tree, Path::new(path)), "{path}");
    }
    let modules = tree
        .iter()
        .filter(|(path, _)| path.ends_with("http/server.py"))
        .count();
    assert_eq!(modules, 1, "the standard library comes with the interpreter");
}

#[test]
fn privileges_are_not_copied() {
    let made = Made::new();
    let program = made.file("set-id", b"#!/bin/sh\n", 0o6777);
    let tree = gathered(&program);
    match tree.entry(Path::new(&program)) {
        Some(Entry::Copy { mode, .. }) => assert_eq!(*mode, 0o755),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_missing_is_named_with_who_needs_it() {
    let made = Made::new();
    let machine = Machine::default();
    let no_interpreter = made.file("no-interpreter", b"#!/no/such/shell\n", 0o755);
    let no_program = made.file("no-program", b"#!/usr/bin/env no-such-program\n", 0o755);
    let plain = made.file("plain", b"text", 0o644);
    let shim = made.file(
        "python3",
        b"#!/usr/bin/env bash\nexec \"/home/x/libexec/pyenv\" exec \"$program\"\n",
        0o755,
    );
    let mut foreign = fs::read("/bin/true").unwrap();
    // e_machine: a PDP-10.
    foreign[18..20].copy_from_slice(&[64, 0]);
    let foreign = made.file("foreign", &foreign, 0o755);
    for (program, expected) in [
        (
            "no-such-program",
            format!("there is no program no-such-program in {PATH}; install it, or name its path"),
        ),
        (
            &no_interpreter,
            format!(
                "/no/such/shell cannot be read: No such file or directory (os error 2); {no_interpreter} needs it"
            ),
        ),
        (
            &no_program,
            format!("there is no program no-such-program in PATH; {no_program} is a script for it"),
        ),
        (
            &plain,
            format!("{plain} is not a program: it is no file, or nobody may execute it"),
        ),
        (
            &shim,
            format!(
                "{shim} is a stand-in of pyenv, which chooses the real program when it runs; name that one: \
                 `pyenv which python3` prints its path"
            ),
        ),
        (
            &foreign,
            format!(
                "{foreign} is for ELF machine 64 and this machine is {}; this bundle needs it",
                std::env::consts::ARCH
            ),
        ),
    ] {
        assert_eq!(refused(&machine, program), expected);
    }
}

#[test]
fn a_missing_library_stops_a_program_and_is_noted_for_a_plug_in() {
    let made = Made::new();
    // As if libc had another name: the string is in the table of strings, length unchanged.
    let mut program = fs::read("/bin/true").unwrap();
    let at = program.windows(10).position(|w| w == b"libc.so.6\0").unwrap();
    program[at..at + 9].copy_from_slice(b"libz!.so!");
    let program = made.file("app/program", &program, 0o755);
    assert_eq!(
        refused(&Machine::default(), &program),
        format!("{program} needs the library libz!.so!, which this machine does not have")
    );

    let machine = Machine::default();
    let mut gatherer = Gatherer::new(&machine, search());
    gatherer.path(&made.dir.path().join("app")).unwrap();
    let (tree, notes) = gatherer.finish(User::ROOT);
    assert!(leads_to_a_file(&tree, Path::new(&program)));
    assert_eq!(
        notes,
        [format!(
            "{program} needs libz!.so!, which this machine does not have"
        )]
    );
}

#[test]
fn directories_come_with_all_that_is_in_them_and_nothing_outside() {
    let made = Made::new();
    made.file("app/data/a", b"a", 0o600);
    made.file("outside/b", b"b", 0o644);
    let root = made.dir.path();
    symlink("../outside/b", root.join("app/file")).unwrap();
    symlink("../outside", root.join("app/directory")).unwrap();
    symlink("nowhere", root.join("app/dangling")).unwrap();
    let machine = Machine::default();
    let mut gatherer = Gatherer::new(&machine, search());
    gatherer.path(&root.join("app")).unwrap();
    let tree = gatherer.finish(User::ROOT).0;
    match tree.entry(&root.join("app/data/a")) {
        Some(Entry::Copy { mode, .. }) => assert_eq!(*mode, 0o600, "what only its owner may read stays so"),
        other => panic!("{other:?}"),
    }
    assert!(
        leads_to_a_file(&tree, &root.join("app/file")),
        "the target of a link to a file"
    );
    for link in ["app/directory", "app/dangling"] {
        assert!(
            matches!(tree.entry(&root.join(link)), Some(Entry::Link { .. })),
            "{link}"
        );
    }
    for kernel in ["/proc", "/sys/kernel", "/dev/null", "/"] {
        let error = Gatherer::new(&machine, search())
            .path(Path::new(kernel))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{kernel} holds no files of its own")),
            "{error}"
        );
    }
}

#[test]
fn a_library_from_elsewhere_is_in_the_loader_cache() {
    let made = Made::new();
    let root = made.dir.path();
    // A machine of its own, whose libz is where only ld.so.conf says.
    let put = |from: &str, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    let tree = gathered("/bin/true");
    let loader = Elf::read(Path::new("/bin/true"))
        .unwrap()
        .unwrap()
        .interpreter
        .unwrap();
    put(loader.to_str().unwrap(), loader.to_str().unwrap());
    put("/bin/true", "/bin/true");
    let libc = tree
        .iter()
        .find_map(|(path, _)| path.ends_with("libc.so.6").then(|| path.to_owned()))
        .unwrap();
    put(libc.to_str().unwrap(), "/opt/odd/libc.so.6");
    made.file("etc/ld.so.conf", b"/opt/odd\n", 0o644);

    let machine = Machine::at(root);
    let mut gatherer = Gatherer::new(&machine, search());
    gatherer.program("/bin/true").unwrap();
    let tree = gatherer.finish(User::ROOT).0;
    assert!(leads_to_a_file(&tree, Path::new("/opt/odd/libc.so.6")));
    let Some(Entry::Made { bytes, .. }) = tree.entry(Path::new("/etc/ld.so.cache")) else {
        panic!("no loader cache");
    };
    assert!(bytes.windows(19).any(|window| window == b"/opt/odd/libc.so.6\0"));
}
