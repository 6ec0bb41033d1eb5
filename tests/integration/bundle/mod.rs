//! `herd bundle` as a user runs it: images made here, some of them hostile, and registries, some of them hostile.
//!
//! Attacks aim at files inside the test's own directory only: one that works does no harm beyond it.

mod fake_registry;
mod hostile;
mod image;
mod interop;
mod layers;
mod registry;
mod staging;

use std::path::{Path, PathBuf};
use std::process::Command;

use image::Image;

/// A directory of its own with a place for images and one for bundles.
struct Room {
    directory: tempfile::TempDir,
}

/// What a run of herd said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Room {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("home")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn herd(&self, arguments: &[&str]) -> Command {
        // A shell ignores SIGINT for what it runs in the background, perhaps these tests.
        let mut command = Command::new("env");
        command
            .args(["--default-signal=INT", env!("CARGO_BIN_EXE_herd"), "bundle"])
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(&mut self.herd(arguments))
    }

    /// The image, imported to `out`.
    fn import(&self, image: &Image) -> Said {
        image.write(&self.path("image"));
        self.run(&["import", "image", "--output", "out"])
    }

    fn imported(&self, image: &Image) {
        let said = self.import(image);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }

    /// Refused with this message, and without a trace.
    fn refused(&self, image: &Image, message: &str) {
        let said = self.import(image);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(
            said.stderr.contains(message),
            "expected {message:?}, got {:?}",
            said.stderr
        );
        self.nothing_left();
    }

    fn nothing_left(&self) {
        let left: Vec<_> = names(self.directory.path())
            .into_iter()
            .filter(|name| name == "out" || name.contains("herd"))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }

    fn rootfs(&self, path: &str) -> PathBuf {
        self.path("out/rootfs").join(path)
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.rootfs(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
