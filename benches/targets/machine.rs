//! What the numbers were taken on.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::lab::{Cores, Lab, program};

/// A machine, its software and how busy it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) virtual_machine: bool,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    pub(crate) cgroups: String,
    pub(crate) pinning: String,
    /// The load average of the last minute, before the first reading.
    pub(crate) load_at_start: f64,
    /// Name and version; absent programs are not listed.
    pub(crate) versions: Vec<(String, String)>,
}

impl Machine {
    pub(crate) fn describe(lab: &Lab) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            cpu: line_after(&cpuinfo, "model name", ':'),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: cpuinfo
                .lines()
                .any(|line| line.starts_with("flags") && line.contains(" hypervisor")),
            memory_gib: line_after(&read("/proc/meminfo"), "MemTotal", ':')
                .trim_end_matches(" kB")
                .parse()
                .map_or(0.0, |kib: f64| kib / (1024.0 * 1024.0)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: line_after(&read("/etc/os-release"), "PRETTY_NAME", '=').replace('"', ""),
            cgroups: cgroups().to_owned(),
            pinning: pinning(lab.cores),
            load_at_start: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
            versions: versions(lab),
        }
    }

    /// Field by field, for people.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let kind = if self.virtual_machine {
            "a virtual machine"
        } else {
            "bare metal"
        };
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        vec![
            ("CPU", format!("{}, {} CPUs, {kind}", self.cpu, self.cpus)),
            ("Memory", format!("{:.1} GiB", self.memory_gib)),
            (
                "System",
                format!(
                    "{}, Linux {}, control groups: {}",
                    self.system, self.kernel, self.cgroups
                ),
            ),
            ("Pinning", self.pinning.clone()),
            ("Load average before", format!("{:.2}", self.load_at_start)),
            ("Versions", versions.join(", ")),
        ]
    }
}

fn pinning(cores: Cores) -> String {
    let Cores {
        proxy,
        load,
        upstream,
    } = cores;
    if load == upstream {
        format!("the measured program alone on CPU {proxy}; load generator and upstream on CPU {load}")
    } else {
        format!(
            "the measured program alone on CPU {proxy}; load generator on CPU {load}; upstream on CPU {upstream}"
        )
    }
}

fn cgroups() -> &'static str {
    let mounts = read("/proc/self/mounts");
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "hybrid",
        (true, false) => "version 1",
        (false, true) => "version 2",
        (false, false) => "none",
    }
}

fn versions(lab: &Lab) -> Vec<(String, String)> {
    let asked = [
        ("haproxy", "haproxy", "-v"),
        ("nginx", "nginx", "-v"),
        ("runc", "runc", "--version"),
        ("crun", "crun", "--version"),
        ("bubblewrap", "bwrap", "--version"),
    ];
    let peers = asked
        .into_iter()
        .filter_map(|(name, file, flag)| Some((name.to_owned(), version(file, flag)?)));
    built(&lab.herd).into_iter().chain(peers).collect()
}

/// What the measured herd says of itself: version, commit, target and compiler.
fn built(herd: &Path) -> Option<(String, String)> {
    let output = Command::new(herd).arg("version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let (name, version) = said.lines().next()?.split_once(' ')?;
    Some((name.to_owned(), version.to_owned()))
}

/// The first word of the answer that begins with a digit.
fn version(name: &str, flag: &str) -> Option<String> {
    let output = Command::new(program(name)?).arg(flag).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split([' ', '\n', '/'])
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn line_after(text: &str, name: &str, separator: char) -> String {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
