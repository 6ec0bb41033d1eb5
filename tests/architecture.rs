//! The edges between modules, and where `unsafe` may stand. See `docs/ARCHITECTURE.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

/// A module and what of the crate it may use.
const EDGES: &[(&str, &[&str])] = &[
    ("causes", &["causes"]),
    ("core", &["core"]),
    ("yaml", &["yaml"]),
    ("bundle", &["bundle", "sys", "yaml"]),
    ("sandbox", &["sandbox", "sys"]),
    ("sys", &["sys", "core"]),
    (
        "launcher",
        &["launcher", "bundle", "sandbox", "sys", "core", "config", "causes"],
    ),
    ("config", &["config", "sandbox", "core", "yaml"]),
    (
        "worker",
        &["worker", "launcher", "sandbox", "sys", "config", "core"],
    ),
    ("access", &["access", "config", "core"]),
    ("metrics", &["metrics"]),
    ("telemetry", &["telemetry", "worker", "config", "sys", "causes"]),
    ("history", &["history", "sys"]),
    (
        "driver",
        &["driver", "access", "worker", "config", "core", "metrics"],
    ),
    (
        "proxy",
        &[
            "proxy",
            "access",
            "driver",
            "worker",
            "config",
            "core",
            "sys",
            "metrics",
            "telemetry",
        ],
    ),
    (
        "control",
        &[
            "control", "access", "driver", "history", "worker", "config", "core", "metrics", "sys",
        ],
    ),
    ("runner", &["runner", "core"]),
];

/// Files that start other programs. herd itself, once it has threads, has its launcher do it, and clippy.toml forbids
/// `spawn` with an argued exception each; `status` and `output` fork as well, and tests use them everywhere.
const STARTERS: &[(&str, &str)] = &[
    (
        "launcher/subordinate.rs",
        "newuidmap and newgidmap, before herd has threads",
    ),
    ("runner/command.rs", "the built-in worker's commands"),
    ("cli/run.rs", "herd run is a client"),
    ("cli/doctor.rs", "herd doctor looks at the host and ends"),
    (
        "bundle/registry/credentials.rs",
        "herd bundle is a command of its own",
    ),
    (
        "bundle/closure/packages/unpack.rs",
        "herd bundle is a command of its own",
    ),
];

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    fn collect(path: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, into),
                false => into.push(path),
            }
        }
    }
    let mut paths = Vec::new();
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(under);
    match place.is_dir() {
        true => collect(&place, &mut paths),
        false => paths.push(place.with_extension("rs")),
    }
    // A file or directory of that name is a module of unit tests.
    let of_tests = |path: &Path| path.ends_with("tests.rs") || path.iter().any(|part| part == "tests");
    let within = Path::new(env!("CARGO_MANIFEST_DIR"));
    paths.retain(|path| {
        path.extension().is_some_and(|e| e == "rs") && !of_tests(path.strip_prefix(within).unwrap())
    });
    assert!(
        !paths.is_empty(),
        "{under} has no Rust files: this test looks in the wrong place"
    );
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Code lines with their numbers: no comments, and nothing from the unit tests at a file's end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or("")))
}

fn mentions<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    line.match_indices(prefix)
        .map(|(at, _)| {
            let name = &line[at + prefix.len()..];
            &name[..name
                .find(|c: char| !c.is_ascii_lowercase() && c != '_')
                .unwrap_or(name.len())]
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn modules_depend_in_one_direction() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (module, allowed) in EDGES {
        for (path, text) in sources(&format!("src/{module}")) {
            for (number, line) in code(&text) {
                for used in mentions(line, "crate::") {
                    seen += 1;
                    if !allowed.contains(&used) {
                        wrong.push(format!("{}:{number}: {module} uses {used}", path.display()));
                    }
                }
            }
        }
    }
    assert!(
        seen > 50,
        "only {seen} uses seen: this test no longer recognises them"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_uses_nothing_but_std() {
    for (path, text) in sources("src/core") {
        for (number, line) in code(&text) {
            let foreign = [
                "tokio",
                "hyper",
                "nix::",
                "libc::",
                "tracing",
                "serde",
                "std::net",
                "std::fs",
                "std::process",
            ]
            .into_iter()
            .chain(["Instant", "SystemTime", "std::thread", "std::io"])
            .find(|name| line.contains(name));
            assert_eq!(foreign, None, "{}:{number}: {line}", path.display());
        }
    }
}

#[test]
fn unsafe_stands_only_in_sys_and_launcher() {
    let mut inside = 0;
    for (path, text) in sources("src") {
        let allowed = path
            .components()
            .any(|c| c.as_os_str() == "sys" || c.as_os_str() == "launcher");
        for (number, line) in code(&text) {
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl"]
                .into_iter()
                .any(|u| line.contains(u));
            if is_unsafe && allowed {
                inside += 1;
            }
            assert!(!is_unsafe || allowed, "{}:{number}: {line}", path.display());
        }
    }
    assert!(
        inside > 0,
        "no unsafe seen at all: this test no longer recognises it"
    );
}

#[test]
fn only_these_start_programs() {
    let starts = |(_, text): &(PathBuf, String)| code(text).any(|(_, line)| line.contains("Command::new("));
    let found: Vec<PathBuf> = sources("src")
        .into_iter()
        .filter(starts)
        .map(|(path, _)| path)
        .collect();
    for path in &found {
        assert!(
            STARTERS.iter().any(|(starter, _)| path.ends_with(starter)),
            "{} starts a program; where herd has threads, only its launcher may",
            path.display()
        );
    }
    assert_eq!(found.len(), STARTERS.len(), "one of them starts none any more");
}
