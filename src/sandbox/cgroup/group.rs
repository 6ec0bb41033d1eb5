//! The group of one sandbox: its limits, its processes, and what came of both.

use std::fmt::Display;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Version;
use super::dir::Dir;
use super::limits::{Controller, Controllers, Cpus, Limits};
use super::open::{GroupId, Hierarchies};

/// One sandbox's directories, one per hierarchy that one of its limits needs.
#[derive(Debug)]
pub struct Group {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    version: Version,
    controllers: Controllers,
    dir: Dir,
}

/// What the kernel did because of the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// Whether the sandbox has used all that its own limit allows: if not, it was the machine that lacked memory.
    pub memory_limit_hit: bool,
    /// Times that a process or thread was refused.
    pub pids_denied: u64,
    /// Time for which the sandbox wanted to run and its quota did not let it, microseconds.
    pub cpu_throttled: u64,
    /// Periods of 100 ms in which that happened.
    pub cpu_periods_throttled: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("{controller} cannot be limited: herd was started without it")]
    Unavailable { controller: Controller },
    #[error("cannot make the control group {}: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot limit {controller}: {} does not take {value:?}: {source}", path.display())]
    Limit {
        controller: Controller,
        path: PathBuf,
        value: String,
        source: io::Error,
    },
}

impl Hierarchies {
    /// Makes a group with `limits`, in which nothing runs yet. Without limits it is no group at all. What was
    /// made is removed again on failure.
    pub fn create(&self, id: GroupId, limits: &Limits) -> Result<Group, CreateError> {
        let needs = limits.needs();
        if let Some(controller) = needs.iter().find(|c| !self.controllers().contains(*c)) {
            return Err(CreateError::Unavailable { controller });
        }
        let name = id.name();
        let mut made = 0;
        let result = self
            .needed(needs)
            .map(|parent| {
                let failed = |source| CreateError::Make {
                    path: parent.dir.path().join(&name),
                    source,
                };
                parent.dir.make(&name).map_err(failed)?;
                made += 1;
                let part = Part {
                    version: parent.version,
                    controllers: parent.controllers.intersection(needs),
                    dir: parent.dir.child(&name).map_err(failed)?,
                };
                part.limit(limits)?;
                Ok(part)
            })
            .collect::<Result<Vec<_>, _>>();
        if result.is_err() {
            for parent in self.needed(needs).take(made) {
                // Empty, so it goes at once; and the first error is the one that matters.
                let _ = parent.dir.remove(&name);
            }
        }
        Ok(Group { parts: result? })
    }

    /// What of a group exists.
    pub fn find(&self, id: GroupId) -> Group {
        let name = id.name();
        let open = |parent: &super::open::Parent| {
            Some(Part {
                version: parent.version,
                controllers: parent.controllers,
                dir: parent.dir.child(&name).ok()?,
            })
        };
        Group {
            parts: self.parents.iter().filter_map(open).collect(),
        }
    }

    fn needed(&self, needs: Controllers) -> impl Iterator<Item = &super::open::Parent> {
        self.parents
            .iter()
            .filter(move |parent| !parent.controllers.intersection(needs).is_empty())
    }
}

impl Group {
    /// Moves a process into it, with all its threads; what it forks from now on is in it too. `pid` is a number
    /// in the caller's PID namespace.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        self.parts
            .iter()
            .try_for_each(|part| part.dir.write("cgroup.procs", &pid.to_string()))
    }

    /// What a process writes to to [`join`]. Whoever opens them needs the right to; whoever writes does not.
    pub fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let door = |part: &Part| {
            part.dir.open_to_write(match part.version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.procs",
            })
        };
        self.parts.iter().map(door).collect()
    }

    /// Kills everything in it that can be seen, and returns at once.
    pub fn kill(&self) -> io::Result<()> {
        self.parts.iter().try_for_each(|part| part.dir.kill())
    }

    /// Bytes in use now, the page cache included.
    pub fn memory(&self) -> Option<u64> {
        let part = self.part(Controller::Memory)?;
        part.number(match part.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        })
    }

    /// What has happened so far; also after everything in it has ended, until it is removed. What the kernel
    /// does not say is zero.
    pub fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(memory) = self.part(Controller::Memory) {
            match memory.version {
                Version::V1 => {
                    outcome.oom_kills = memory.field("memory.oom_control", "oom_kill");
                    // Newer kernels no longer count refusals here (`failcnt`), so the highest use has to tell.
                    let limit = memory.number("memory.limit_in_bytes");
                    let peak = memory.number("memory.max_usage_in_bytes");
                    outcome.memory_limit_hit = peak >= limit && limit.is_some();
                }
                Version::V2 => {
                    outcome.oom_kills = memory.field("memory.events", "oom_kill");
                    outcome.memory_limit_hit = memory.field("memory.events", "oom") > 0;
                }
            }
        }
        if let Some(pids) = self.part(Controller::Pids) {
            outcome.pids_denied = pids.field("pids.events", "max");
        }
        if let Some(cpu) = self.part(Controller::Cpu) {
            outcome.cpu_periods_throttled = cpu.field("cpu.stat", "nr_throttled");
            outcome.cpu_throttled = match cpu.version {
                Version::V1 => cpu.field("cpu.stat", "throttled_time") / 1000,
                Version::V2 => cpu.field("cpu.stat", "throttled_usec"),
            };
        }
        outcome
    }

    fn part(&self, controller: Controller) -> Option<&Part> {
        self.parts
            .iter()
            .find(|part| part.controllers.contains(controller))
    }
}

/// Moves the calling process, which has one thread, into the group of these doors.
///
/// For a thread that moves itself the kernel has nobody to wait for. To move anybody else it stops every fork and exit
/// of the machine, and with version 1 that was seen to take longer than all the rest of a start.
pub fn join(doors: &[BorrowedFd<'_>]) -> io::Result<()> {
    doors.iter().try_for_each(|door| {
        nix::unistd::write(door, b"0")?;
        Ok(())
    })
}

impl Part {
    fn limit(&self, limits: &Limits) -> Result<(), CreateError> {
        let limits = limits.only(self.controllers);
        if let Some(bytes) = limits.memory {
            match self.version {
                Version::V1 => self.limit_memory_v1(bytes)?,
                Version::V2 => self.limit_memory_v2(bytes)?,
            }
        }
        if let Some(cpus) = limits.cpus {
            let set = |file, value: String| self.set(Controller::Cpu, file, value);
            match self.version {
                Version::V1 => {
                    set("cpu.cfs_period_us", Cpus::PERIOD.to_string())?;
                    set("cpu.cfs_quota_us", cpus.quota().to_string())?;
                }
                Version::V2 => set("cpu.max", format!("{} {}", cpus.quota(), Cpus::PERIOD))?,
            }
        }
        if let Some(most) = limits.pids {
            self.set(Controller::Pids, "pids.max", most)?;
        }
        Ok(())
    }

    /// Swap would turn a limit of memory into a machine that thrashes, so there is none.
    fn limit_memory_v1(&self, bytes: u64) -> Result<(), CreateError> {
        // Memory and swap together can never be limited below memory alone, so memory comes first.
        self.set(Controller::Memory, "memory.limit_in_bytes", bytes)?;
        // Not there where the kernel does not count swap; then at least nothing is pushed out by choice.
        if self.dir.has("memory.memsw.limit_in_bytes") {
            self.set(Controller::Memory, "memory.memsw.limit_in_bytes", bytes)?;
        }
        if self.dir.has("memory.swappiness") {
            self.set(Controller::Memory, "memory.swappiness", 0)?;
        }
        Ok(())
    }

    fn limit_memory_v2(&self, bytes: u64) -> Result<(), CreateError> {
        self.set(Controller::Memory, "memory.max", bytes)?;
        if self.dir.has("memory.swap.max") {
            self.set(Controller::Memory, "memory.swap.max", 0)?;
        }
        // Half a sandbox is worth nothing, and its session should end with a reason.
        self.set(Controller::Memory, "memory.oom.group", 1)
    }

    fn set(&self, controller: Controller, file: &str, value: impl Display) -> Result<(), CreateError> {
        let value = value.to_string();
        self.dir.write(file, &value).map_err(|source| CreateError::Limit {
            controller,
            path: self.file(file),
            value,
            source,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(Path::new(name))
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.dir.read(file).ok()?.trim().parse().ok()
    }

    fn field(&self, file: &str, name: &str) -> u64 {
        self.dir
            .read(file)
            .ok()
            .and_then(|text| field(&text, name))
            .unwrap_or_default()
    }
}

/// The number after `name` in a file of `name number` lines.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(key, value)| (key == name).then(|| value.trim().parse().ok())?)
}
