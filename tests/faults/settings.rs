//! What the herd of a case is told: its herd.yaml and its program.

use std::path::Path;

use crate::matrix::{Case, Shape, State};
use crate::running::HERD;
use crate::supervised::Mode;

/// What a case adds to what all have.
#[derive(Debug, Default, Clone)]
pub(crate) struct Settings {
    /// Further arguments of the victim's worker: `, term=ignore`.
    pub(crate) arguments: String,
    /// Further lines of the victim's kind.
    pub(crate) keys: Vec<String>,
    /// Further members of both kinds' `sandbox`: `, memory: 64M`.
    pub(crate) sandbox: String,
    /// Further members of `network`.
    pub(crate) network: String,
    /// IP:PORT.
    pub(crate) bind: Option<String>,
    /// How long herd drains; a minute if it is not said.
    pub(crate) drain: Option<&'static str>,
    /// The worker is ready at once, though the case's state is the start.
    pub(crate) starts: bool,
    /// A command that becomes herd.
    pub(crate) through: Vec<String>,
}

/// herd.yaml, with the victim's kind first.
pub(crate) fn yaml(case: Case, settings: &Settings, dir: &Path) -> String {
    let bind = settings.bind.as_deref().unwrap_or("127.0.0.1:0");
    let mut keys = settings.keys.clone();
    let mut arguments = settings.arguments.clone();
    match case.state {
        State::Warm => keys.push("min: 1".to_owned()),
        State::Recycled => keys.push("reuse: true".to_owned()),
        State::Starting if arguments.is_empty() && !settings.starts => arguments.push_str(", health=signal"),
        State::Stopping => {
            keys.extend(["ttl: 50ms".to_owned(), "stop_timeout: 30s".to_owned()]);
            arguments.push_str(", term=ignore");
        }
        _ => {}
    }
    let (program, place, sandbox) = match case.shape {
        // Herds that run side by side share a range of ports; of paths each has its own.
        Shape::Bare => ("DIR/faulty", "{{.Socket}}", "sandbox: off".to_owned()),
        Shape::Sandbox => {
            let limits = &settings.sandbox;
            let memory = match case.mode {
                Mode::Own if nix::unistd::geteuid().is_root() => ", memory: 64M",
                _ => "",
            };
            let mount = "mounts: [{ source: DIR/faulty, target: /faulty }]";
            let text = format!("sandbox: {{ rootfs: host, {mount}, pids: 64, tmpfs: 8M{memory}{limits} }}");
            ("/faulty", "{{.Port}}", text)
        }
    };
    let keys: String = keys.iter().map(|key| format!("    {key}\n")).collect();
    let kind = |name: &str, arguments: &str, keys: &str| {
        format!(
            "  {name}:\n    cmd: [{program}, \"{place}\"{arguments}]\n    env: {{ HERD_TEST_TAG: DIR }}\n    \
             health_path: /healthz\n    max: 1\n    {sandbox}\n{keys}"
        )
    };
    let text = format!(
        "network: {{ data_bind: \"{bind}\"{} }}\ndrain_timeout: {}\nworkers:\n{}{}",
        settings.network,
        settings.drain.unwrap_or("60s"),
        kind("w", &arguments, &keys),
        kind("n", "", "")
    );
    text.replace("DIR", &dir.display().to_string())
}

/// `cargo test` builds it before any test runs; `cargo test --test faults` alone does not.
pub(crate) fn put_program(dir: &Path) {
    let built = Path::new(HERD).parent().unwrap().join("examples/faulty");
    assert!(
        built.exists(),
        "{} does not exist: first run `cargo build --example faulty`",
        built.display()
    );
    let copy = dir.join("faulty");
    if !copy.exists() {
        std::fs::copy(built, copy).unwrap();
    }
}
