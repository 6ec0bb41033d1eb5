//! `herd init`: a first herd.yaml, for what this machine has.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

/// Write a commented herd.yaml for what is installed here
///
/// Every kind of worker in it runs in a sandbox. A file that exists is left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  herd init                        writes ./herd.yaml
  herd init --config app/herd.yaml

Exit codes: 0 if the file was written, 1 if it exists or cannot be written, 2
for wrong usage.")]
pub struct Init {
    /// The file to write
    #[arg(long, value_name = "FILE", env = "HERD_CONFIG", default_value = "herd.yaml")]
    config: PathBuf,
}

impl Init {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has =
            |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
        let text = text(&has, Path::new("node_modules/playwright").is_dir());
        let file = OpenOptions::new().write(true).create_new(true).open(&self.config);
        let shown = self.config.display();
        match file {
            Ok(mut file) => file
                .write_all(text.as_bytes())
                .with_context(|| format!("cannot write {shown}"))?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                anyhow::bail!("{shown} exists and is left as it is; name another file with --config FILE")
            }
            Err(e) => return Err(e).with_context(|| format!("cannot write {shown}")),
        }
        eprintln!(
            "{shown} is written; `herd start` serves it, `herd doctor` tells whether sandboxes can run here"
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// `has`: whether a program is in PATH; `playwright`: whether its package is installed here.
fn text(has: &dyn Fn(&str) -> bool, playwright: bool) -> String {
    let mut text = "\
# One session, one worker: the first request with an X-Session-ID starts a worker of a kind below.
# The first kind is used unless a request names another with X-Herd-Worker.
# Every key: docs/configuration.md; `herd check` says what is wrong with this file.

defaults:
  ttl: 15m             # a session that nothing holds ends after this
  sandbox:
    rootfs: host       # this machine's programs, read-only; no file of yours, no network
    pids: 256
    # memory: 512M     # needs root or a delegated control group, see `herd doctor`
    # mounts: [{source: ./app, target: /app}]

workers:
"
    .to_owned();
    let mut kind = |lines: &str| {
        // Writing to a String cannot fail.
        let _ = text.write_str(lines);
    };
    if has("python3") {
        kind(
            "  python:
    cmd: [\"python3\", \"-m\", \"http.server\", \"{{.Port}}\"]    # yours instead: any program that listens there
    max: 10

",
        );
    }
    if playwright && has("npx") {
        kind(
            "  browser:
    cmd: [\"npx\", \"playwright\", \"run-server\", \"--port\", \"{{.Port}}\"]
    cwd: /app
    health_path: /
    min: 1
    max: 5
    sandbox:
      profile: browser
      mounts: [{source: ., target: /app}]

",
        );
    }
    kind(
        "  runner:              # built in, for trying things out
    cmd: [\"herd\", \"runner\"]
    health_path: /healthz
    max: 10
",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_installed_the_file_is_valid_and_every_kind_is_sandboxed() {
        for (programs, playwright, kinds) in [
            (vec![], false, vec!["runner"]),
            (vec!["python3"], false, vec!["python", "runner"]),
            (vec!["python3", "npx"], true, vec!["python", "browser", "runner"]),
            (vec!["npx"], false, vec!["runner"]),
        ] {
            let text = text(&|program| programs.contains(&program), playwright);
            let config = crate::config::parse(&text, "herd.yaml").unwrap_or_else(|e| panic!("{e}\n{text}"));
            let names: Vec<_> = config.kinds.iter().map(|kind| kind.name.as_str()).collect();
            assert_eq!(names, kinds);
            assert!(
                config.kinds.iter().all(|kind| kind.sandbox.on().is_some()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_that_exists_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("herd.yaml");
        Init {
            config: config.clone(),
        }
        .run()
        .unwrap();
        let written = std::fs::read(&config).unwrap();
        let error = Init {
            config: config.clone(),
        }
        .run()
        .unwrap_err()
        .to_string();
        assert!(error.contains("exists and is left as it is"), "{error}");
        assert_eq!(std::fs::read(&config).unwrap(), written);
    }
}
