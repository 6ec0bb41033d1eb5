//! What `herd version` tells of this build: from `HERD_COMMIT`, or git, and the compiler.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=HERD_COMMIT");
    let given = env::var("HERD_COMMIT").ok().filter(|commit| !commit.is_empty());
    // Debug builds do not ask git: everything would be compiled anew after each commit.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| release.then(commit).flatten());
    println!("cargo:rustc-env=HERD_BUILD_COMMIT={}", commit.unwrap_or_default());
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=HERD_BUILD_TARGET={target}");
    let compiler = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let version = said(&compiler, &["--version"]);
    let number = version.as_deref().and_then(|text| text.split(' ').nth(1));
    println!("cargo:rustc-env=HERD_BUILD_RUSTC={}", number.unwrap_or_default());
}

/// Of the repository that this is built in; nothing in an unpacked release.
fn commit() -> Option<String> {
    // Appended to by every commit and checkout.
    let log = said("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    said(
        "git",
        &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
    )
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
