//! docs/dependencies.md says the truth about Cargo.toml and Cargo.lock.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The direct dependencies, each with the versions Cargo.lock has of it.
fn named() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lock = file("Cargo.lock");
    let locked = |name: &str| -> BTreeSet<String> {
        let entry = format!("name = \"{name}\"\nversion = \"");
        lock.match_indices(&entry)
            .map(|(at, _)| lock[at + entry.len()..].split('"').next().unwrap().to_owned())
            .collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .flat_map(|package| package["dependencies"].as_array().unwrap())
        .filter(|dependency| dependency["path"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .map(|name| (name.to_owned(), locked(name)))
        .collect()
}

/// Crate and version of each row that links to where the crate is kept.
fn documented() -> BTreeMap<String, String> {
    let text = file("docs/dependencies.md");
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains("](https://"));
    rows.map(|row| {
        let cells: Vec<_> = row.split(" | ").collect();
        let name = cells[0].trim_start_matches("| ").trim_matches('`');
        (name.to_owned(), cells[4].to_owned())
    })
    .collect()
}

#[test]
fn every_direct_dependency_is_documented_with_its_version() {
    let (named, documented) = (named(), documented());
    assert!(named.len() > 20, "only {} dependencies seen", named.len());
    let absent: Vec<_> = named
        .keys()
        .filter(|name| !documented.contains_key(*name))
        .collect();
    assert!(absent.is_empty(), "docs/dependencies.md lacks {absent:?}");
    for (name, version) in &documented {
        let locked = named.get(name);
        let Some(locked) = locked else {
            panic!("docs/dependencies.md lists {name}, which Cargo.toml no longer has");
        };
        assert!(
            locked.contains(version),
            "{name} is {version} in docs/dependencies.md, locked is {locked:?}"
        );
    }
}
