//! Why something is refused, and the command that changes it.

use std::fmt;

use super::facts::{Distribution, Facts};

/// The setting that most probably forbids something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub what: String,
    /// A command for a shell; `None` where no command helps.
    pub fix: Option<String>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fix {
            Some(fix) => write!(f, "{}; `{fix}` changes that", self.what),
            None => f.write_str(&self.what),
        }
    }
}

fn cause(what: &str, fix: impl Into<Option<String>>) -> Cause {
    Cause {
        what: what.to_owned(),
        fix: fix.into(),
    }
}

/// For now and for every boot from now on.
fn sysctl(key: &str, value: &str) -> String {
    format!("echo '{key} = {value}' | sudo tee /etc/sysctl.d/60-herd-{key}.conf && sudo sysctl --system")
}

/// A profile that confines nothing and names the one right that Ubuntu withholds from programs without a profile.
const APPARMOR: &str = "printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile herd %s flags=(unconfined) \
                        {\\n  userns,\\n}\\n' \"$(readlink -f \"$(command -v herd)\")\" | sudo tee /etc/apparmor.d/herd \
                        && sudo apparmor_parser -r /etc/apparmor.d/herd";

pub(super) fn no_user_namespaces(facts: &Facts) -> Cause {
    let limit = "user.max_user_namespaces";
    match facts {
        Facts {
            max_user_namespaces: None,
            ..
        } => cause(
            "this kernel is built without user namespaces (CONFIG_USER_NS)",
            None,
        ),
        Facts {
            max_user_namespaces: Some(0),
            ..
        } => cause("user.max_user_namespaces is 0", sysctl(limit, "10000")),
        Facts {
            unprivileged_userns_clone: Some(false),
            uid: 1..,
            ..
        } => cause(
            "kernel.unprivileged_userns_clone is 0",
            sysctl("kernel.unprivileged_userns_clone", "1"),
        ),
        Facts {
            apparmor_restricts: Some(true),
            uid: 1..,
            ..
        } => cause(
            "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
            APPARMOR.to_owned(),
        ),
        Facts {
            max_pid_namespaces: Some(0),
            ..
        } => no_pid_namespaces(facts),
        _ => policy(facts),
    }
}

pub(super) fn no_pid_namespaces(facts: &Facts) -> Cause {
    match facts.max_pid_namespaces {
        None => cause(
            "this kernel is built without PID namespaces (CONFIG_PID_NS)",
            None,
        ),
        Some(0) => cause(
            "user.max_pid_namespaces is 0",
            sysctl("user.max_pid_namespaces", "10000"),
        ),
        Some(_) => policy(facts),
    }
}

/// Not a setting of the kernel.
pub(super) fn policy(facts: &Facts) -> Cause {
    if facts.container {
        cause(
            "no sysctl forbids it, so the container's seccomp filter or AppArmor profile does",
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt \
             systempaths=unconfined …"
                .to_owned(),
        )
    } else if facts.filtered {
        cause(
            "no sysctl forbids it, so the seccomp filter that this process is under does",
            None,
        )
    } else {
        cause(
            "no sysctl forbids it, so a security module or a container's policy probably does (`sudo journalctl -k -g \
             'apparmor|avc|seccomp'` may show it)",
            None,
        )
    }
}

/// `/proc` is covered in part.
pub(super) fn no_proc(facts: &Facts) -> Cause {
    if facts.container {
        cause(
            "parts of this container's /proc are masked, and a fresh one would show them",
            "docker run --security-opt systempaths=unconfined …   # podman: --security-opt unmask=ALL"
                .to_owned(),
        )
    } else {
        cause(
            "something is mounted over parts of /proc, and a fresh one would show them (`grep ' /proc/' \
             /proc/self/mountinfo` names it)",
            None,
        )
    }
}

/// A file system or another part of the kernel may be a module that nobody has loaded.
pub(super) fn no_overlay(facts: &Facts) -> Cause {
    if facts.container {
        policy(facts)
    } else {
        cause(
            "the kernel has no overlayfs, or its module is not loaded",
            "echo overlay | sudo tee /etc/modules-load.d/herd.conf && sudo modprobe overlay".to_owned(),
        )
    }
}

pub(super) fn subordinate_ids(facts: &Facts) -> Option<String> {
    let mut commands = Vec::new();
    if !(facts.newuidmap && facts.newgidmap) {
        commands.push(match facts.distribution {
            Distribution::Debian | Distribution::Other => "sudo apt-get install uidmap",
            Distribution::Fedora => "sudo dnf install shadow-utils",
            Distribution::Arch => "sudo pacman -S shadow",
            Distribution::Alpine => "sudo apk add shadow-uidmap",
            Distribution::Suse => "sudo zypper install shadow",
        });
    }
    let ranges = format!(
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {}",
        facts.user
    );
    if facts.subuids < super::checks::RANGE || facts.subgids < super::checks::RANGE {
        commands.push(&ranges);
    }
    (!commands.is_empty()).then(|| commands.join(" && "))
}
