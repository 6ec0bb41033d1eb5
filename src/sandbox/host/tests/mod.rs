//! Hosts as their files describe them, and what herd says to that.

mod cgroups;
mod namespaces;

use std::fs;
use std::path::Path;

use super::*;
use crate::sandbox::cgroup::{Controller, Offer, Version};

/// Somebody who owns none of the files that a test writes.
const USER: u32 = 4242;

const UBUNTU: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nada:x:4242:4242:Ada:/home/ada:/bin/sh\n",
    ),
    (
        "etc/os-release",
        "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nID=ubuntu\nID_LIKE=debian\n",
    ),
    ("etc/subuid", "root:100000:65536\nada:165536:65536\n"),
    ("etc/subgid", "ada:165536:65536\n"),
    ("usr/bin/newuidmap", ""),
    ("usr/bin/newgidmap", ""),
    ("proc/sys/user/max_user_namespaces", "62853\n"),
    ("proc/sys/user/max_pid_namespaces", "62853\n"),
    (
        "proc/sys/kernel/seccomp/actions_avail",
        "kill_process errno allow\n",
    ),
    (
        "proc/self/status",
        "Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n",
    ),
];

const RESTRICTED: (&str, &str) = ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");

const V2: &str = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

struct Host(tempfile::TempDir);

impl Host {
    fn with(files: &[(&str, &str)], more: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (path, text) in files.iter().chain(more) {
            let path = host.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        host
    }

    fn facts(&self, uid: u32) -> Facts {
        let offer = Offer {
            version: Version::V2,
            base: "/sys/fs/cgroup/user.slice/herd.scope".into(),
        };
        let limits = Controller::ALL.map(|controller| (controller, Ok(offer.clone())));
        Facts::read(self.0.path(), uid, "6.8.0-45-generic".to_owned(), limits.into())
    }
}

fn all_fine() -> Attempts {
    let fine = || Ok("fine".to_owned());
    Attempts {
        user_namespace: fine(),
        pid_namespace: fine(),
        proc: fine(),
        tmpfs: fine(),
        overlay: fine(),
        network: fine(),
        seccomp: fine(),
        clone3: None,
        pidfd: None,
        openat2: None,
        mount_setattr: None,
    }
}

/// Everything that takes a user namespace failed.
fn no_user_namespace() -> Attempts {
    let refused = || Err("no rights in a new user namespace (uid_map: EPERM)".to_owned());
    Attempts {
        user_namespace: refused(),
        pid_namespace: refused(),
        proc: refused(),
        tmpfs: refused(),
        overlay: refused(),
        network: refused(),
        ..all_fine()
    }
}

fn check<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks
        .iter()
        .find(|check| check.name == name)
        .unwrap_or_else(|| panic!("no check {name}"))
}

fn lacking(checks: &[Check]) -> Vec<&str> {
    checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| check.name)
        .collect()
}

#[test]
fn a_desktop_with_everything_is_fit() {
    let host = Host::with(UBUNTU, &[("proc/self/mountinfo", V2)]);
    let checks = checks(&host.facts(USER), &all_fine());
    assert!(is_fit(&checks));
    assert_eq!(lacking(&checks), ["idmapped-mounts"], "only root can make those");
    assert_eq!(
        check(&checks, "cgroup-cpu").detail,
        "/sys/fs/cgroup/user.slice/herd.scope is ours to divide"
    );
    assert!(
        checks
            .iter()
            .filter(|check| check.ok)
            .all(|check| check.fix.is_none())
    );
}

#[test]
fn an_old_kernel_or_a_missing_filter_is_no_place_for_herd() {
    let host = Host::with(UBUNTU, &[]);
    let old = Facts {
        release: "5.4.0-150-generic".to_owned(),
        ..host.facts(USER)
    };
    let checked = checks(&old, &all_fine());
    assert_eq!(
        check(&checked, "kernel").means,
        "herd does not start: it needs Linux 5.11 or newer"
    );
    assert!(!is_fit(&checked));

    let unfiltered = Attempts {
        seccomp: Err("the kernel refuses the system call filter: EINVAL".to_owned()),
        ..all_fine()
    };
    let facts = Facts {
        seccomp_actions: Vec::new(),
        ..host.facts(USER)
    };
    let checked = checks(&facts, &unfiltered);
    let seccomp = check(&checked, "seccomp");
    assert!(
        !seccomp.ok && seccomp.detail.ends_with("(CONFIG_SECCOMP_FILTER)"),
        "{}",
        seccomp.detail
    );
    assert!(check(&checked, "no-new-privs").ok && !is_fit(&checked));

    let privileged = Attempts {
        seccomp: Err("no_new_privs did not stay set".to_owned()),
        ..all_fine()
    };
    let checked = checks(&facts, &privileged);
    assert!(!check(&checked, "no-new-privs").ok);
}

#[test]
fn every_attempt_that_fails_is_seen() {
    let host = Host::with(UBUNTU, &[("proc/self/mountinfo", V2)]);
    let facts = host.facts(USER);
    let refused = || Err("no".to_owned());
    let said = || Some("no".to_owned());
    for (attempts, name) in [
        (
            Attempts {
                user_namespace: refused(),
                ..all_fine()
            },
            "user-namespaces",
        ),
        (
            Attempts {
                pid_namespace: refused(),
                ..all_fine()
            },
            "pid-namespaces",
        ),
        (
            Attempts {
                proc: refused(),
                ..all_fine()
            },
            "proc",
        ),
        (
            Attempts {
                tmpfs: refused(),
                ..all_fine()
            },
            "tmpfs",
        ),
        (
            Attempts {
                overlay: refused(),
                ..all_fine()
            },
            "overlayfs",
        ),
        (
            Attempts {
                network: refused(),
                ..all_fine()
            },
            "network-namespaces",
        ),
        (
            Attempts {
                seccomp: refused(),
                ..all_fine()
            },
            "seccomp",
        ),
        (
            Attempts {
                clone3: said(),
                ..all_fine()
            },
            "clone3",
        ),
        (
            Attempts {
                pidfd: said(),
                ..all_fine()
            },
            "pidfd",
        ),
        (
            Attempts {
                openat2: said(),
                ..all_fine()
            },
            "openat2",
        ),
    ] {
        let checked = checks(&facts, &attempts);
        let check = check(&checked, name);
        assert!(
            !check.ok && check.required && check.detail.contains("no"),
            "{name}"
        );
        assert!(!is_fit(&checked), "{name}");
    }
    let checked = checks(
        &host.facts(0),
        &Attempts {
            mount_setattr: said(),
            ..all_fine()
        },
    );
    assert!(!check(&checked, "idmapped-mounts").ok);
}

#[test]
fn names_of_probes_are_read_back() {
    for name in [
        "user-namespace",
        "pid-namespace",
        "proc",
        "pid-one",
        "proc-inside",
        "tmpfs",
        "overlay",
        "network",
        "seccomp",
    ] {
        assert_eq!(Probe::named(name).map(Probe::name), Some(name));
    }
    assert_eq!(Probe::named("x"), None);
}

#[test]
fn this_host_can_be_read() {
    let facts = Facts::here();
    assert!(!facts.release.is_empty() && !facts.user.is_empty());
    assert!(
        Path::new("/proc/self").exists(),
        "the tests need /proc as herd does"
    );
}
