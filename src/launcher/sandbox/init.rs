//! The first process of a sandbox: libcontainer's last steps, then PID 1.
//!
//! libcontainer calls [`Executor::validate`] when namespaces, root and capabilities are in place; here the
//! process is locked up for good, and what was locked is read back. Then it waits, so that a *created* sandbox
//! costs nothing but a little memory, until it is told what to run. The program is its child, never itself: PID 1
//! ignores the signals it does not handle, and somebody has to reap orphans. Commands beside the program are its
//! children, too, and have its confinement from birth.
//!
//! No untrusted code has run in the sandbox until the program's `execve`, so nothing up to there races with anything.
//! What is done for commands afterwards does: see [`super::super::by_descriptor`].

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use caps::CapSet;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use oci_spec::runtime::Spec;

use crate::sandbox::cgroup;
use crate::sys::fd;
use crate::sys::fork::exit_now;

use super::super::keeper::{Guarding, Keeper, signals};
use super::super::parked;
use super::super::wire::{self, Ask};
use super::plan::Plan;

/// Descriptors by number: the executor is copied from process to process, as they are.
#[derive(Debug, Clone)]
pub(super) struct Init {
    pub(super) plan: Arc<Plan>,
    /// See [`super::identity::Identity::rename`].
    pub(super) rename: Option<u32>,
    /// Of the sandbox's control group.
    pub(super) doors: Vec<RawFd>,
    pub(super) parking: Option<RawFd>,
    /// From here come the program, first, and commands beside it.
    pub(super) orders: RawFd,
    pub(super) stdout: RawFd,
    pub(super) stderr: RawFd,
    pub(super) status: RawFd,
}

impl Executor for Init {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.lock_up()
            .map_err(ExecutorValidationError::ArgValidationError)
    }

    /// The program's environment is its own; this process needs none.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let status = self.serve();
        exit_now(status)
    }
}

impl Init {
    fn lock_up(&self) -> Result<(), String> {
        let step = |what: &'static str| move |e: nix::Error| format!("cannot {what}: {}", e.desc());
        prctl::set_name(c"herd-init").map_err(step("set its name"))?;
        if let Some(parking) = self.parking {
            // SAFETY: as for the doors below.
            parked::park(unsafe { BorrowedFd::borrow_raw(parking) });
        }
        // Also where control groups count: in its user namespace the worker's processes are counted alone.
        if let Some(most) = self.plan.most_processes {
            setrlimit(Resource::RLIMIT_NPROC, most, most).map_err(step("limit the number of processes"))?;
        }
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("forbid core dumps"))?;
        // SAFETY: the keeper's copies of the descriptors stay open until this process is made, and so do these.
        let doors: Vec<_> = self
            .doors
            .iter()
            .map(|raw| unsafe { BorrowedFd::borrow_raw(*raw) })
            .collect();
        // Before the second user namespace, in which the owner of the group's files is nobody.
        cgroup::join(&doors).map_err(|e| format!("cannot put the sandbox into its control group: {e}"))?;
        if let Some(name) = self.rename {
            rename(name)?;
        }
        for set in [
            CapSet::Ambient,
            CapSet::Bounding,
            CapSet::Effective,
            CapSet::Inheritable,
            CapSet::Permitted,
        ] {
            caps::clear(None, set).map_err(|e| format!("cannot drop capabilities: {e}"))?;
        }
        // The worker may have the same uid; it must not be able to look into this process, or at its binary.
        prctl::set_dumpable(false).map_err(step("hide from the worker"))?;
        self.plan
            .filter
            .install()
            .map_err(|e| format!("cannot load the system call filter: {e}"))?;
        verify()
    }

    fn serve(&self) -> i32 {
        if fd::close_all_except(&[self.orders, self.stdout, self.stderr, self.status]).is_err() {
            return 1;
        }
        // SAFETY: the numbers are this process's own copies of open descriptors, named nowhere else in it.
        let [orders, stdout, stderr, status] = [self.orders, self.stdout, self.stderr, self.status]
            .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
        let mut keeper = Keeper::new(status, Guarding::Sandbox);
        let Ok(signals) =
            nix::sys::signalfd::SignalFd::with_flags(&signals(), nix::sys::signalfd::SfdFlags::SFD_CLOEXEC)
        else {
            keeper.failed("the sandbox's first process cannot watch its signals".to_owned());
            return 1;
        };
        let program = match wire::receive(orders.as_fd(), &mut Vec::new()) {
            Ok(Some((Ask::Run { program }, _))) => program,
            // The keeper has gone without a word: so does this. It asks for nothing else before.
            Ok(None | Some(_)) => return 1,
            Err(e) => {
                keeper.failed(format!("the sandbox cannot read what to run: {e}"));
                return 1;
            }
        };
        keeper.start(&program, stdout, stderr);
        keeper.watch(&signals, Some(orders), &program);
        0
    }
}

/// A further user namespace in which this process, the only id there is, has another number.
fn rename(name: u32) -> Result<(), String> {
    let failed = |what: &'static str| move |e: std::io::Error| format!("cannot {what} the worker's id: {e}");
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| failed("make a user namespace for")(e.into()))?;
    // Only a dumpable process may write its own maps.
    prctl::set_dumpable(true).map_err(|e| failed("map")(e.into()))?;
    let map = format!("{name} 0 1\n");
    for (file, text) in [
        ("setgroups", "deny"),
        ("uid_map", map.as_str()),
        ("gid_map", map.as_str()),
    ] {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(failed("map"))?;
    }
    Ok(())
}

/// What protects the host is read back: libcontainer reports some failures only to its log.
fn verify() -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| format!("cannot verify the sandbox: {e}"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let wanted = [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ];
    for (name, value) in wanted {
        if field(name) != Some(value) {
            return Err(format!(
                "the sandbox is not what it should be: {name} is {:?}, not {value}",
                field(name)
            ));
        }
    }
    Ok(())
}
