//! The edges between modules, as docs/ARCHITECTURE.md has them, and where `unsafe` may stand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and what of the crate it may use beside itself, as the table of modules in docs/ARCHITECTURE.md has it:
/// `| `name` | what it is | uses |`. `None`: everything.
fn edges() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| module |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [module, _, uses] = cells[..] else {
            panic!("not a module, what it is and what it uses: {row}");
        };
        let uses = (uses != "everything").then(|| {
            let names = uses.split(", ").map(|name| name.trim_matches('`').to_owned());
            names.filter(|name| !name.is_empty()).collect()
        });
        (module.trim_matches('`').to_owned(), uses)
    })
    .collect()
}

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
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(under), &mut paths);
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
    let tests = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests]
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or("")))
}

/// The modules that the code names, with the lines: of `crate::a::b` a, of `crate::{a, b::{c, d}}` a and b.
fn mentions(text: &str) -> Vec<(usize, String)> {
    let code: Vec<_> = code(text).map(|(_, line)| line).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => heads(list),
            None => vec![name(rest)],
        };
        // A name with a capital is no module.
        let names = names.into_iter().filter(|name| !name.is_empty());
        found.extend(names.map(|name| (line, name.to_owned())));
    }
    found
}

fn name(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_lowercase() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// What the list that ends with the next closing brace of its own begins its elements with.
fn heads(list: &str) -> Vec<&str> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.push(name(list[start..at].trim_start()));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn modules_depend_in_one_direction() {
    let edges = edges();
    let mut wrong = Vec::new();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (path, text) in sources("src") {
        let path = path
            .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
            .unwrap()
            .to_owned();
        let module = path
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        if ["lib", "main", "fuzzing"].contains(&module) {
            continue;
        }
        let Some(allowed) = edges.get(module) else {
            wrong.push(format!("{module} is no row of docs/ARCHITECTURE.md's modules"));
            continue;
        };
        for (number, name) in mentions(&text) {
            if name == module {
                continue;
            }
            if allowed.as_ref().is_some_and(|allowed| !allowed.contains(&name)) {
                wrong.push(format!("src/{}:{number}: {module} uses {name}", path.display()));
            }
            used.insert((module.to_owned(), name));
        }
    }
    let listed = edges.iter().flat_map(|(module, uses)| {
        let uses = uses.iter().flatten();
        uses.map(move |name| (module.clone(), name.clone()))
    });
    for (module, name) in listed.filter(|edge| !used.contains(edge)) {
        wrong.push(format!(
            "docs/ARCHITECTURE.md lets {module} use {name}, which it does not"
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lists_of_uses_are_read() {
    let text = "use crate::{core::{A, b}, sys, Top};\nlet x = crate::driver::X; // crate::cli\n\
                use crate::{\n    access,\n    yaml::read,\n};\n#[cfg(test)]\nmod tests {\nuse crate::proxy;";
    let found: Vec<_> = mentions(text)
        .into_iter()
        .map(|(line, name)| format!("{line} {name}"))
        .collect();
    assert_eq!(found, ["1 core", "1 sys", "2 driver", "3 access", "3 yaml"]);
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
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
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
