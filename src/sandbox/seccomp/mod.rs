//! System call filters from profiles in Docker's JSON format.
//!
//! ```text
//! strict.json ─┐
//! browser.json ┼─ docker ──> Profile ── compile ──> Filter ── install ──> in force, for good
//! a user's file┘            (rules)               (a program)   in the worker, before its first instruction
//! ```
//!
//! The built-in profiles are files of the same format, so they double as a start for one's own. A profile is
//! evaluated for a worker without capabilities: rules that need one never apply, rules that exclude one always do.
//! Docker reads unknown keys and system calls over; so does this, but [`Profile::notes`] names what had no effect.
//! What Docker would have to ask somebody for (a tracer, a listener) is refused.
//!
//! Differences to Docker, all of them towards refusing: where several rules match a call, the strictest holds; and
//! other instruction sets of the same machine (i386 and x32 on x86_64) stay closed even where a profile opens them.

mod calls;
mod compile;
mod docker;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::sys::seccomp::InstallError;
pub use calls::Arch;

use crate::sys::{kernel, seccomp as sys};

/// The longest profile that is read, bytes; Docker's own has 20 kB.
const LONGEST_FILE: u64 = 1 << 20;

/// Which system calls a worker may make.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// For what no rule is about.
    default: Action,
    rules: Vec<Rule>,
    /// `SECCOMP_FILTER_FLAG_*` bits.
    flags: u64,
    notes: Vec<String>,
}

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Log,
    Errno(u16),
    Trap,
    KillThread,
    KillProcess,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "docker::RawRule")]
struct Rule {
    names: Vec<String>,
    action: Action,
    conditions: Vec<Condition>,
    includes: When,
    excludes: When,
}

/// Where a rule applies, or does not.
#[derive(Debug, Clone, Default, PartialEq)]
struct When {
    /// Names at least one capability.
    capabilities: bool,
    arches: Vec<String>,
    kernel: Option<(u32, u32)>,
}

/// A comparison of one argument, all 64 bits of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "docker::RawCondition")]
struct Condition {
    /// 0 to 5.
    index: u8,
    op: Op,
    value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq { mask: u64 },
}

/// A program for the kernel.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Packed", into = "Packed")]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    flags: u64,
}

/// A filter as it is passed on: code, two jumps and a value for each instruction.
#[derive(Serialize, Deserialize)]
struct Packed {
    program: Vec<(u16, u8, u8, u32)>,
    flags: u64,
}

impl From<Filter> for Packed {
    fn from(filter: Filter) -> Self {
        let program = filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k));
        Self {
            program: program.collect(),
            flags: filter.flags,
        }
    }
}

impl From<Packed> for Filter {
    fn from(packed: Packed) -> Self {
        let program = packed.program.into_iter();
        Self {
            program: program
                .map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
                .collect(),
            flags: packed.flags,
        }
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("the system call profile {file} cannot be read: {source}")]
    Unreadable {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("the system call profile {file} has more than {LONGEST_FILE} bytes")]
    TooLong { file: String },
    /// The message says where, down to the key.
    #[error("{file}:{line}:{column}: {message}")]
    Malformed {
        file: String,
        line: usize,
        column: usize,
        message: String,
    },
}

/// Why a profile makes no program.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error(
        "herd has no table of system calls for this machine ({})",
        std::env::consts::ARCH
    )]
    UnknownMachine,
    #[error("the system call profile makes {0} instructions, and the kernel takes at most 4096")]
    TooLong(usize),
    #[error("a condition of the system call profile cannot be translated: {0}")]
    Condition(#[source] seccompiler::BackendError),
}

impl Profile {
    /// For any program: Docker's default list, and less.
    pub fn strict() -> Self {
        built_in(include_str!("strict.json"))
    }

    /// For Chromium and what is made of it: [`Profile::strict`], and the namespaces of Chromium's own sandbox.
    pub fn browser() -> Self {
        let mut profile = Self::strict();
        profile.rules.extend(built_in(include_str!("browser.json")).rules);
        profile
    }

    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let file = path.display().to_string();
        let mut text = String::new();
        let read = File::open(path).and_then(|open| open.take(LONGEST_FILE + 1).read_to_string(&mut text));
        match read {
            Err(source) => Err(ProfileError::Unreadable { file, source }),
            Ok(len) if len as u64 > LONGEST_FILE => Err(ProfileError::TooLong { file }),
            Ok(_) => Self::parse(&text, &file),
        }
    }

    /// `file` is what errors call it.
    pub fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        let malformed = |path: &str, error: &serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            let message = error.to_string();
            let place = format!(" at line {line} column {column}");
            let message = message.strip_suffix(&place).unwrap_or(&message);
            ProfileError::Malformed {
                file: file.to_owned(),
                line,
                column,
                message: match path {
                    "." | "?" => message.to_owned(),
                    path => format!("{path}: {message}"),
                },
            }
        };
        let mut reader = serde_json::Deserializer::from_str(text);
        let document: docker::Document = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| malformed(&error.path().to_string(), error.inner()))?;
        // Also finds what comes after the document.
        let value = serde_json::from_str(text).map_err(|error| malformed(".", &error))?;
        let unknown = docker::strangers(&value).into_iter().map(|key| {
            format!("{file}: `{key}` means nothing in a system call profile, so it has no effect")
        });
        let closed = document.architectures.iter().filter(|architecture| {
            Arch::HERE.is_some_and(|here| here.others().contains(&architecture.0.as_str()))
        });
        let closed = closed.map(|architecture| {
            format!(
                "{file}: {} is named, but herd opens the machine's own instruction set only; others are killed",
                architecture.0
            )
        });
        // Unknown names are common in lists of what is allowed, which serve many machines and kernels. In a list of
        // what is refused they are more likely to be misspelt, and then something is open that should not be.
        let refused = document.rules.iter().filter(|rule| !rule.action.permits());
        let misspelt = refused
            .flat_map(|rule| &rule.names)
            .filter(|name| !calls::is_known(name))
            .map(|name| {
                format!(
                    "{file}: `{name}` is not a system call herd knows, so nothing is refused by that name"
                )
            });
        Ok(Self {
            notes: unknown.chain(closed).chain(misspelt).collect(),
            default: document.default,
            rules: document.rules,
            flags: document.flags,
        })
    }

    /// What the profile says and has no effect, a sentence each, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// For this machine and its kernel. Worth doing once per herd, not per worker.
    pub fn compile(&self) -> Result<Filter, CompileError> {
        let arch = Arch::HERE.ok_or(CompileError::UnknownMachine)?;
        self.compile_for(arch, kernel::version(&kernel::release()))
    }

    /// For `arch` under a kernel of that version.
    pub fn compile_for(&self, arch: Arch, kernel: (u32, u32)) -> Result<Filter, CompileError> {
        Ok(Filter {
            program: compile::compile(self, arch, kernel)?,
            flags: self.flags,
        })
    }
}

/// The files that are built in are read by every test.
#[allow(clippy::expect_used, reason = "cannot fail for a user: no input is involved")]
fn built_in(text: &str) -> Profile {
    Profile::parse(text, "built-in").expect("a built-in profile is well formed")
}

impl Filter {
    /// Puts this process under the filter, for good, with no_new_privs. The process must have one thread.
    ///
    /// From then on the caller, too, can only do what the profile allows; an `execve` should follow soon.
    pub fn install(&self) -> Result<(), InstallError> {
        sys::install(&self.program, self.flags as libc::c_ulong)
    }

    /// How many instructions the program has.
    pub fn instructions(&self) -> usize {
        self.program.len()
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter")
            .field("instructions", &self.program.len())
            .field("flags", &self.flags)
            .finish()
    }
}

impl Action {
    /// The kernel's order between the answers of several filters (seccomp(2)).
    fn strictness(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Log => 1,
            Self::Errno(_) => 2,
            Self::Trap => 3,
            Self::KillThread => 4,
            Self::KillProcess => 5,
        }
    }

    /// Whether the call happens.
    fn permits(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }
}

impl Rule {
    /// For a worker without capabilities.
    fn applies(&self, arch: Arch, kernel: (u32, u32)) -> bool {
        let arch = |arches: &[String]| arches.iter().any(|name| name == arch.docker());
        let (needs, not) = (&self.includes, &self.excludes);
        let included = !needs.capabilities
            && (needs.arches.is_empty() || arch(&needs.arches))
            && needs.kernel.is_none_or(|oldest| kernel >= oldest);
        let excluded = arch(&not.arches) || not.kernel.is_some_and(|oldest| kernel >= oldest);
        included && !excluded
    }
}

#[cfg(any(fuzzing, test))]
pub mod fuzz;
#[cfg(any(fuzzing, test))]
mod reference;
#[cfg(test)]
mod shaken;
#[cfg(test)]
mod tests;
