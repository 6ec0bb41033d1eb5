//! From what is written and what was tried to answers.

use crate::sandbox::cgroup::{Controller, Mounted, Offer, Unavailable};
use crate::sys::kernel;

use super::facts::Facts;
use super::remedy::{self, Cause};
use super::{Attempts, Check, Outcome};

/// How many subordinate ids a whole system's worth of users takes.
pub(super) const RANGE: u64 = 65_536;

/// Whether a sandbox with all defaults needs it.
const REQUIRED: bool = true;
const OPTIONAL: bool = false;

pub(super) fn all(facts: &Facts, attempts: &Attempts) -> Vec<Check> {
    let mut checks = vec![
        kernel_version(facts),
        attempt(
            "user-namespaces",
            &attempts.user_namespace,
            "a sandbox is unprivileged on the host, whatever it is inside",
            "`sandbox:` cannot be used; workers run bare",
            || remedy::no_user_namespaces(facts),
        ),
        apparmor(facts, attempts),
        attempt(
            "pid-namespaces",
            &attempts.pid_namespace,
            "a worker's whole tree dies with it, and sees no other process; `lifetime: strict` can be kept",
            "`sandbox:` cannot be used, and `lifetime: strict` cannot be kept",
            || match &attempts.user_namespace {
                Ok(_) => remedy::no_pid_namespaces(facts),
                Err(_) => remedy::no_user_namespaces(facts),
            },
        ),
        attempt(
            "proc",
            &attempts.proc,
            "a sandbox sees its own processes in /proc",
            "`sandbox:` cannot be used: a sandbox has no /proc",
            || later(attempts, facts, remedy::no_proc(facts)),
        ),
        attempt(
            "tmpfs",
            &attempts.tmpfs,
            "`tmpfs:` limits the bytes and the files of a sandbox's writable layer",
            "`sandbox:` cannot be used: a sandbox has no writable layer",
            || later(attempts, facts, remedy::policy(facts)),
        ),
        attempt(
            "overlayfs",
            &attempts.overlay,
            "sandboxes share one read-only root file system, each with its own changes on top",
            "`sandbox:` cannot be used: `bundle` and `rootfs` cannot be shared between sandboxes",
            || later(attempts, facts, remedy::no_overlay(facts)),
        ),
        attempt(
            "network-namespaces",
            &attempts.network,
            "`network: none` gives a sandbox a loopback interface of its own, and nothing else",
            "`network: none`, the default, cannot be kept; only `network: host` is left",
            || later(attempts, facts, remedy::policy(facts)),
        ),
    ];
    checks.extend(filters(facts, attempts));
    checks.extend([
        call(
            "pidfd",
            &attempts.pidfd,
            "a kill can never hit another process",
            facts,
        ),
        call("clone3", &attempts.clone3, "herd can start its launcher", facts),
        call(
            "openat2",
            &attempts.openat2,
            "no symbolic link leads out of a bundle",
            facts,
        ),
        subordinate_ids(facts),
        idmapped_mounts(facts, attempts),
        cgroup_version(facts),
    ]);
    checks.extend(
        facts
            .cgroups
            .limits
            .iter()
            .map(|(controller, offer)| limits(*controller, offer)),
    );
    checks.push(cgroup_kill(facts));
    checks
}

/// Without a user namespace the attempt did not come to what it is about.
fn later(attempts: &Attempts, facts: &Facts, cause: Cause) -> Cause {
    match attempts.user_namespace {
        Err(_) if !facts.is_root() => remedy::no_user_namespaces(facts),
        _ => cause,
    }
}

fn kernel_version(facts: &Facts) -> Check {
    let ok = kernel::version(&facts.release) >= (5, 11);
    Check {
        name: "kernel",
        ok,
        required: REQUIRED,
        detail: format!("Linux {}", facts.release),
        means: match ok {
            true => "herd runs here".to_owned(),
            false => "herd does not start: it needs Linux 5.11 or newer".to_owned(),
        },
        fix: (!ok)
            .then(|| "install a kernel of your distribution that is 5.11 or newer, and boot it".to_owned()),
    }
}

fn attempt(
    name: &'static str,
    outcome: &Outcome,
    good: &str,
    bad: &str,
    why: impl FnOnce() -> Cause,
) -> Check {
    match outcome {
        Ok(seen) => given(name, REQUIRED, seen, good),
        Err(refusal) => {
            let cause = why();
            Check {
                name,
                ok: false,
                required: REQUIRED,
                detail: format!("{refusal}; {}", cause.what),
                means: bad.to_owned(),
                fix: cause.fix,
            }
        }
    }
}

fn given(name: &'static str, required: bool, detail: &str, means: &str) -> Check {
    Check {
        name,
        ok: true,
        required,
        detail: detail.to_owned(),
        means: means.to_owned(),
        fix: None,
    }
}

/// The switch alone says little: a program with a profile of its own may still make namespaces.
fn apparmor(facts: &Facts, attempts: &Attempts) -> Check {
    let name = "apparmor";
    let key = "kernel.apparmor_restrict_unprivileged_userns";
    let means = "nothing stands in the way of `sandbox:` without root";
    match (facts.apparmor_restricts, &attempts.user_namespace) {
        (None, _) => given(
            name,
            OPTIONAL,
            "this kernel does not restrict user namespaces",
            means,
        ),
        (Some(false), _) => given(name, OPTIONAL, &format!("{key} is 0"), means),
        (Some(true), Ok(_)) if facts.is_root() => given(
            name,
            OPTIONAL,
            &format!("{key} is 1, and you are root"),
            "`sandbox:` works for root",
        ),
        (Some(true), Ok(_)) => given(
            name,
            OPTIONAL,
            &format!("{key} is 1, and herd has a profile"),
            means,
        ),
        (Some(true), Err(_)) => Check {
            name,
            ok: false,
            required: OPTIONAL,
            detail: format!("{key} is 1, and herd has no profile that allows `userns`"),
            means: "without root, `sandbox:` cannot be used".to_owned(),
            fix: remedy::no_user_namespaces(facts).fix,
        },
    }
}

/// One attempt loads a filter, for which no_new_privs has to be set.
fn filters(facts: &Facts, attempts: &Attempts) -> [Check; 2] {
    let good = "`profile:` is in force before a worker's first instruction";
    let bad = "`sandbox:` cannot be used: herd does not start a sandbox without its filter";
    let seccomp = attempt("seccomp", &attempts.seccomp, good, bad, || {
        match facts.seccomp_actions.as_slice() {
            [] => Cause {
                what: "the kernel does not list what a filter may answer (CONFIG_SECCOMP_FILTER)".to_owned(),
                fix: None,
            },
            _ => remedy::policy(facts),
        }
    });
    let no_new_privs = match &attempts.seccomp {
        Err(why) if why.contains("no_new_privs") => Check {
            name: "no-new-privs",
            detail: why.clone(),
            means: bad.to_owned(),
            ..seccomp.clone()
        },
        _ => given(
            "no-new-privs",
            REQUIRED,
            "set, and stayed set",
            "setuid programs in a sandbox give no rights",
        ),
    };
    [seccomp, no_new_privs]
}

fn call(name: &'static str, refusal: &Option<String>, good: &str, facts: &Facts) -> Check {
    match refusal {
        None => given(name, REQUIRED, "the kernel has it", good),
        Some(why) => Check {
            name,
            ok: false,
            required: REQUIRED,
            detail: format!("refused: {why}"),
            means: "herd does not start".to_owned(),
            // Every kernel from 5.11 on has these calls, so something hides them.
            fix: remedy::policy(facts).fix,
        },
    }
}

fn subordinate_ids(facts: &Facts) -> Check {
    let name = "subordinate-ids";
    if facts.is_root() {
        return given(
            name,
            OPTIONAL,
            "root needs none",
            "every session has a range of ids of its own, nobody on the host",
        );
    }
    let Facts { subuids, subgids, .. } = facts;
    let missing: Vec<_> = [("newuidmap", facts.newuidmap), ("newgidmap", facts.newgidmap)]
        .into_iter()
        .filter_map(|(program, there)| (!there).then_some(program))
        .collect();
    let ok = missing.is_empty() && *subuids >= RANGE && *subgids >= RANGE;
    let mut detail = format!("{subuids} uids and {subgids} gids for {}", facts.user);
    if !missing.is_empty() {
        detail.push_str(&format!("; no {}", missing.join(" and no ")));
    }
    Check {
        name,
        ok,
        required: OPTIONAL,
        detail,
        means: match ok {
            true => "`user:` may be any id, and a bundle's files keep their owners".to_owned(),
            false => "a sandbox has one id, yours on the host: `user:` only renames it, and programs that change ids \
                      fail"
                .to_owned(),
        },
        fix: if ok { None } else { remedy::subordinate_ids(facts) },
    }
}

fn idmapped_mounts(facts: &Facts, attempts: &Attempts) -> Check {
    let version = kernel::version(&facts.release);
    let refused = attempts.mount_setattr.is_some() || version < (5, 12);
    let name = "idmapped-mounts";
    if refused || !facts.is_root() {
        let detail = match refused {
            true => format!("mount_setattr is not there ({})", facts.release),
            false => "only root can make them".to_owned(),
        };
        return Check {
            name,
            ok: false,
            required: OPTIONAL,
            detail,
            means: "files of `bundle` belong to whoever owns them on the host; readable by all is enough"
                .to_owned(),
            fix: None,
        };
    }
    let detail = match version {
        (6.., 3..) | (7.., _) => "the kernel has them, on tmpfs too",
        (5, 19..) | (6.., _) => "the kernel has them, below an overlay too",
        _ => "the kernel has them, but not below an overlay (5.19)",
    };
    given(
        name,
        OPTIONAL,
        detail,
        "sessions with different ids share one `bundle` with the right owners",
    )
}

fn cgroup_version(facts: &Facts) -> Check {
    let (ok, detail) = match facts.cgroups.mounted {
        Mounted::Nothing => (false, "none are mounted"),
        Mounted::V1 => (true, "version 1"),
        Mounted::Hybrid => (
            true,
            "hybrid: controllers in version 1, beside an empty version 2",
        ),
        Mounted::V2 => (true, "version 2"),
    };
    Check {
        name: "cgroups",
        ok,
        required: OPTIONAL,
        detail: detail.to_owned(),
        means: match ok {
            true => "see the controllers below".to_owned(),
            false => "`memory` and `cpus` stop the start, unless `require: best-effort`".to_owned(),
        },
        fix: (!ok).then(|| "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned()),
    }
}

fn limits(controller: Controller, offer: &Result<Offer, Unavailable>) -> Check {
    let (name, key) = match controller {
        Controller::Memory => ("cgroup-memory", "memory"),
        Controller::Cpu => ("cgroup-cpu", "cpus"),
        Controller::Pids => ("cgroup-pids", "pids"),
    };
    let ok = offer.is_ok();
    Check {
        name,
        ok,
        required: OPTIONAL,
        detail: match offer {
            Ok(offer) => format!("{} is ours to divide", offer.base.display()),
            Err(why) => why.reason.to_string(),
        },
        means: match (ok, controller) {
            (true, _) => format!("`{key}:` is enforced"),
            (false, Controller::Pids) => {
                format!("`{key}:` is enforced by the sandbox's user namespace alone, and no ending names it")
            }
            (false, _) => format!("`{key}:` stops the start, unless `require: best-effort`"),
        },
        fix: offer.as_ref().err().map(|why| why.fix.clone()),
    }
}

/// Linux 5.14.
fn cgroup_kill(facts: &Facts) -> Check {
    let mounted = matches!(facts.cgroups.mounted, Mounted::V2 | Mounted::Hybrid);
    let ok = facts.cgroups.kill || (mounted && kernel::version(&facts.release) >= (5, 14));
    Check {
        name: "cgroup-kill",
        ok,
        required: OPTIONAL,
        detail: match (ok, mounted) {
            (true, _) => "the kernel has it".to_owned(),
            (false, true) => "the kernel is older than 5.14".to_owned(),
            (false, false) => "cgroup version 2 is not mounted".to_owned(),
        },
        means: match ok {
            true => "one write kills a whole worker, as a second line behind its PID namespace".to_owned(),
            false => "herd kills process by process behind the PID namespace".to_owned(),
        },
        fix: None,
    }
}
