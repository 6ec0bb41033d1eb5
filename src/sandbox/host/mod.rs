//! What this host can give a sandbox, and how to make it give more: `herd doctor`.
//!
//! ```text
//! files of the host ── Facts::read ──┐
//!                                    ├── checks (pure) ──> one Check for each thing herd can give
//! attempts, each in a ── Probe ──────┘
//! process of its own
//! ```
//!
//! Facts are cheap and say why something is refused; only attempts say whether it is. Nothing here changes the host.

mod cgroups;
mod checks;
mod facts;
mod probe;
mod remedy;

use serde::Serialize;

pub use cgroups::Cgroups;
pub use facts::{Distribution, Facts};
pub use probe::{Outcome, Probe, Runner};
pub use remedy::Cause;

use crate::sys::kernel::Call;

/// One thing that herd can give, or not, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// A sandbox with all defaults needs it.
    pub required: bool,
    /// What was found.
    pub detail: String,
    /// What that means for herd.yaml.
    pub means: String,
    /// What gives it, a command where there is one; `None` where it is given, or nothing can.
    pub fix: Option<String>,
}

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    pub user_namespace: Outcome,
    pub pid_namespace: Outcome,
    pub proc: Outcome,
    pub tmpfs: Outcome,
    pub overlay: Outcome,
    pub network: Outcome,
    pub seccomp: Outcome,
    /// Why a call cannot be made.
    pub clone3: Option<String>,
    pub pidfd: Option<String>,
    pub openat2: Option<String>,
    pub mount_setattr: Option<String>,
}

impl Attempts {
    /// Tries everything. Nothing of it outlives the processes that `runner` makes.
    pub fn make(runner: Runner<'_>) -> Self {
        let refusal = |call: Call| call.refusal().map(|error| error.to_string());
        Self {
            user_namespace: runner(Probe::UserNamespace),
            pid_namespace: runner(Probe::PidNamespace),
            proc: runner(Probe::Proc),
            tmpfs: runner(Probe::Tmpfs),
            overlay: runner(Probe::Overlay),
            network: runner(Probe::Network),
            seccomp: runner(Probe::Seccomp),
            clone3: refusal(Call::Clone3),
            pidfd: refusal(Call::PidfdOpen),
            openat2: refusal(Call::Openat2),
            mount_setattr: refusal(Call::MountSetattr),
        }
    }
}

/// Everything herd can give, by what is written and what was tried.
pub fn checks(facts: &Facts, attempts: &Attempts) -> Vec<Check> {
    checks::all(facts, attempts)
}

/// Whether a sandbox with all defaults can run.
pub fn is_fit(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.ok || !check.required)
}

/// Why this kernel most probably refuses user namespaces to this user, for a message that says that it does.
pub fn why_no_user_namespaces() -> Cause {
    remedy::no_user_namespaces(&Facts::here())
}

#[cfg(test)]
mod tests;
