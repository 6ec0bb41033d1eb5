//! What can be limited, and by how much.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the kernel limits by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of controllers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controllers(u8);

impl Controllers {
    pub const NONE: Self = Self(0);

    pub fn contains(self, controller: Controller) -> bool {
        self.0 & (1 << controller as u8) != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Controller> {
        Controller::ALL.into_iter().filter(move |c| self.contains(*c))
    }
}

impl From<Controller> for Controllers {
    fn from(controller: Controller) -> Self {
        Self(1 << controller as u8)
    }
}

impl FromIterator<Controller> for Controllers {
    fn from_iter<I: IntoIterator<Item = Controller>>(controllers: I) -> Self {
        controllers
            .into_iter()
            .fold(Self::NONE, |all, one| all.union(one.into()))
    }
}

/// Processor time, in thousandths of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cpus(u32);

impl Cpus {
    /// A hundredth of a processor: the kernel takes no quota below 1 ms in each period of 100 ms.
    pub const LEAST: Self = Self(10);

    /// `None` below [`Cpus::LEAST`].
    pub fn from_milli(milli: u32) -> Option<Self> {
        (milli >= Self::LEAST.0).then_some(Self(milli))
    }

    pub fn milli(self) -> u32 {
        self.0
    }

    /// Microseconds of processor time in each [`Cpus::PERIOD`].
    pub(super) fn quota(self) -> u64 {
        u64::from(self.0) * Self::PERIOD / 1000
    }

    /// Microseconds; the kernel's default, and what every container runtime uses.
    pub(super) const PERIOD: u64 = 100_000;
}

/// The limits of one sandbox. What is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes; rounded down to whole pages by the kernel.
    pub memory: Option<u64>,
    pub cpus: Option<Cpus>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// What has to be there to enforce them.
    pub fn needs(&self) -> Controllers {
        let wanted = [
            (Controller::Memory, self.memory.is_some()),
            (Controller::Cpu, self.cpus.is_some()),
            (Controller::Pids, self.pids.is_some()),
        ];
        wanted.into_iter().filter(|(_, is)| *is).map(|(c, _)| c).collect()
    }

    /// What of them `controllers` can enforce.
    #[must_use]
    pub fn only(self, controllers: Controllers) -> Self {
        Self {
            memory: self.memory.filter(|_| controllers.contains(Controller::Memory)),
            cpus: self.cpus.filter(|_| controllers.contains(Controller::Cpu)),
            pids: self.pids.filter(|_| controllers.contains(Controller::Pids)),
        }
    }
}
