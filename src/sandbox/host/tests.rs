//! Hosts as their files describe them, and what herd says to that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

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
    ("run/systemd/system/x", ""),
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

    /// Lets everybody write there, as a delegated group lets its owner.
    fn open(self, paths: &[&str]) -> Self {
        for path in paths {
            let path = self.0.path().join(path);
            let mode = if path.is_dir() { 0o777 } else { 0o666 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        self
    }

    fn facts(&self, uid: u32) -> Facts {
        Facts::read(self.0.path(), uid, "6.8.0-45-generic".to_owned())
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
    let session = "sys/fs/cgroup/user.slice/herd.scope";
    let files = ["", "/cgroup.procs", "/cgroup.subtree_control"].map(|file| format!("{session}{file}"));
    let controllers = format!("{session}/cgroup.controllers");
    let host = Host::with(
        UBUNTU,
        &[
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/user.slice/herd.scope\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
            (&controllers, "cpu memory pids\n"),
            (&files[1], ""),
            (&files[2], ""),
        ],
    )
    .open(&files.each_ref().map(String::as_str));
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
fn ubuntu_24_04_wants_an_apparmor_profile() {
    let host = Host::with(UBUNTU, &[RESTRICTED]);
    let checks = checks(&host.facts(USER), &no_user_namespace());
    assert!(!is_fit(&checks));
    for name in [
        "user-namespaces",
        "pid-namespaces",
        "proc",
        "tmpfs",
        "overlayfs",
        "network-namespaces",
    ] {
        let check = check(&checks, name);
        assert_eq!(
            check.detail,
            "no rights in a new user namespace (uid_map: EPERM); AppArmor restricts user namespaces \
             (kernel.apparmor_restrict_unprivileged_userns is 1)"
        );
        let fix = check.fix.as_deref().unwrap();
        assert!(
            fix.contains("userns,") && fix.ends_with("sudo apparmor_parser -r /etc/apparmor.d/herd"),
            "{fix}"
        );
    }
    let apparmor = check(&checks, "apparmor");
    assert!(!apparmor.ok && apparmor.fix.is_some());
    // The switch stays on once there is a profile.
    let with_profile = super::checks(&host.facts(USER), &all_fine());
    let apparmor = check(&with_profile, "apparmor");
    assert_eq!(
        (apparmor.ok, apparmor.detail.as_str()),
        (
            true,
            "kernel.apparmor_restrict_unprivileged_userns is 1, and herd has a profile"
        )
    );
}

#[test]
fn the_setting_that_forbids_user_namespaces_is_named() {
    let sysctl = |key: &str, value: &str| {
        Some(format!(
            "echo '{key} = {value}' | sudo tee /etc/sysctl.d/60-herd-{key}.conf && sudo sysctl --system"
        ))
    };
    let (limit, clone) = ("user.max_user_namespaces", "kernel.unprivileged_userns_clone");
    for (file, text, uid, what, fix) in [
        (
            "proc/sys/user/max_user_namespaces",
            "0\n",
            USER,
            "user.max_user_namespaces is 0",
            sysctl(limit, "10000"),
        ),
        (
            "proc/sys/user/max_user_namespaces",
            "0\n",
            0,
            "user.max_user_namespaces is 0",
            sysctl(limit, "10000"),
        ),
        (
            "proc/sys/user/max_user_namespaces",
            "",
            USER,
            "this kernel is built without user namespaces (CONFIG_USER_NS)",
            None,
        ),
        (
            "proc/sys/kernel/unprivileged_userns_clone",
            "0\n",
            USER,
            "kernel.unprivileged_userns_clone is 0",
            sysctl(clone, "1"),
        ),
        (
            "proc/sys/user/max_pid_namespaces",
            "0\n",
            USER,
            "user.max_pid_namespaces is 0",
            sysctl("user.max_pid_namespaces", "10000"),
        ),
        (
            "proc/self/status",
            "Seccomp:\t2\n",
            USER,
            "no sysctl forbids it, so the seccomp filter that this process is under does",
            None,
        ),
    ] {
        let host = Host::with(UBUNTU, &[(file, text)]);
        let cause = remedy::no_user_namespaces(&host.facts(uid));
        assert_eq!((cause.what.as_str(), cause.fix), (what, fix), "{file} {text}");
    }
    // Neither switch holds root back.
    let host = Host::with(
        UBUNTU,
        &[RESTRICTED, ("proc/sys/kernel/unprivileged_userns_clone", "0")],
    );
    let cause = remedy::no_user_namespaces(&host.facts(0));
    assert_eq!(
        cause.to_string(),
        "no sysctl forbids it, so a security module or a container's policy probably does (`sudo journalctl -k -g \
         'apparmor|avc|seccomp'` may show it)"
    );
}

#[test]
fn inside_docker_the_containers_options_are_named() {
    let host = Host::with(
        UBUNTU,
        &[(".dockerenv", ""), ("proc/self/status", "Seccomp:\t2\n")],
    );
    let masked = Attempts {
        proc: Err("a PID namespace's own /proc cannot be mounted: EPERM".to_owned()),
        ..all_fine()
    };
    let facts = host.facts(0);
    let checked = checks(&facts, &masked);
    let proc = check(&checked, "proc");
    assert!(proc.detail.contains("are masked"), "{}", proc.detail);
    assert!(proc.fix.as_deref().unwrap().contains("systempaths=unconfined"));
    assert!(!is_fit(&checked));
    let filtered = Attempts {
        clone3: Some("ENOSYS: Function not implemented".to_owned()),
        ..no_user_namespace()
    };
    let checked = checks(&facts, &filtered);
    for name in ["user-namespaces", "clone3"] {
        let fix = check(&checked, name).fix.as_deref().unwrap();
        assert!(fix.contains("--security-opt seccomp=unconfined"), "{name}: {fix}");
    }
}

#[test]
fn subordinate_ids_take_ranges_and_both_programs() {
    let usermod = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada";
    for (files, detail, fix) in [
        (vec![], "65536 uids and 65536 gids for ada", None),
        (
            vec![("etc/subuid", "ada:1:65535")],
            "65535 uids and 65536 gids for ada",
            Some(usermod.to_owned()),
        ),
        (
            vec![("etc/subuid", "ada:1:40000\n4242:90000:40000\n")],
            "80000 uids and 65536 gids for ada",
            None,
        ),
        (
            vec![("etc/subuid", ""), ("etc/subgid", "# nothing\n")],
            "0 uids and 0 gids for ada",
            Some(usermod.to_owned()),
        ),
    ] {
        let host = Host::with(UBUNTU, &files);
        let checks = checks(&host.facts(USER), &all_fine());
        let ids = check(&checks, "subordinate-ids");
        assert_eq!(
            (ids.detail.as_str(), ids.ok, &ids.fix),
            (detail, fix.is_none(), &fix)
        );
        assert!(is_fit(&checks), "one id is enough for the defaults");
    }
    for (release, install) in [
        ("ID=debian", "sudo apt-get install uidmap"),
        (
            "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
            "sudo dnf install shadow-utils",
        ),
        ("ID=arch", "sudo pacman -S shadow"),
        ("ID=alpine", "sudo apk add shadow-uidmap"),
        (
            "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"",
            "sudo zypper install shadow",
        ),
    ] {
        let host = Host::with(UBUNTU, &[("etc/os-release", release)]);
        fs::remove_file(host.0.path().join("usr/bin/newuidmap")).unwrap();
        let checks = checks(&host.facts(USER), &all_fine());
        let ids = check(&checks, "subordinate-ids");
        assert_eq!(ids.detail, "65536 uids and 65536 gids for ada; no newuidmap");
        assert_eq!(ids.fix.as_deref(), Some(install));
    }
}

/// A host with version 2, this process in `group`, which offers `controllers`.
fn v2(group: &str, controllers: &str, systemd: bool) -> Host {
    let own = format!("0::{group}\n");
    let file = |name: &str| format!("sys/fs/cgroup{group}/{name}");
    let (offered, procs, subtree) = (
        file("cgroup.controllers"),
        file("cgroup.procs"),
        file("cgroup.subtree_control"),
    );
    let host = Host::with(
        UBUNTU,
        &[
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", &own),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
            (&offered, controllers),
            (&procs, ""),
            (&subtree, ""),
        ],
    );
    if !systemd {
        fs::remove_dir_all(host.0.path().join("run/systemd")).unwrap();
    }
    host
}

fn limits_of(host: &Host, uid: u32, name: &str) -> (bool, String, Option<String>) {
    let checks = checks(&host.facts(uid), &all_fine());
    assert!(is_fit(&checks), "limits are no part of the defaults' needs");
    let check = check(&checks, name).clone();
    (check.ok, check.detail, check.fix)
}

#[test]
fn a_login_session_has_no_groups_of_its_own() {
    let group = "/user.slice/user-4242.slice/session-3.scope";
    let host = v2(group, "cpu memory pids\n", true);
    let expected = (
        false,
        format!("/sys/fs/cgroup{group} belongs to somebody else"),
        Some("systemd-run --user --scope -p Delegate=yes herd start".to_owned()),
    );
    assert_eq!(limits_of(&host, USER, "cgroup-memory"), expected);
    assert!(limits_of(&host, 0, "cgroup-memory").0, "root may");
}

#[test]
fn a_controller_that_is_not_handed_down_is_told_from_one_that_does_not_exist() {
    let group = "/user.slice/user@4242.service/app.slice/herd.scope";
    let own = [
        format!("sys/fs/cgroup{group}"),
        format!("sys/fs/cgroup{group}/cgroup.procs"),
        format!("sys/fs/cgroup{group}/cgroup.subtree_control"),
    ];
    let own = own.each_ref().map(String::as_str);
    let host = v2(group, "memory pids\n", true).open(&own);
    assert!(limits_of(&host, USER, "cgroup-pids").0);
    let (ok, detail, fix) = limits_of(&host, USER, "cgroup-cpu");
    assert_eq!(
        (ok, detail),
        (false, format!("not handed down to /sys/fs/cgroup{group}"))
    );
    assert!(fix.unwrap().contains("Delegate=cpu cpuset io memory pids"));

    let host = v2("/herd", "memory pids\n", false).open(&[
        "sys/fs/cgroup/herd",
        "sys/fs/cgroup/herd/cgroup.procs",
        "sys/fs/cgroup/herd/cgroup.subtree_control",
    ]);
    let (_, _, fix) = limits_of(&host, USER, "cgroup-cpu");
    assert_eq!(
        fix.as_deref(),
        Some("echo +cpu | sudo tee /sys/fs/cgroup/cgroup.subtree_control")
    );

    fs::write(
        host.0.path().join("sys/fs/cgroup/cgroup.controllers"),
        "cpu pids\n",
    )
    .unwrap();
    fs::write(
        host.0.path().join("sys/fs/cgroup/herd/cgroup.controllers"),
        "cpu pids\n",
    )
    .unwrap();
    let (ok, detail, fix) = limits_of(&host, USER, "cgroup-memory");
    assert_eq!(
        (ok, detail.as_str()),
        (false, "the kernel does not offer this controller")
    );
    assert!(fix.unwrap().contains("cgroup_enable=memory"));
}

#[test]
fn without_systemd_a_group_is_handed_over_by_hand() {
    let (ok, _, fix) = limits_of(&v2("/", "cpu memory pids\n", false), USER, "cgroup-cpu");
    assert!(!ok);
    assert_eq!(
        fix.as_deref(),
        Some(
            "sudo mkdir -p /sys/fs/cgroup/herd && sudo chown -R ada /sys/fs/cgroup/herd && echo $$ | sudo tee \
             /sys/fs/cgroup/herd/cgroup.procs   # in the shell that starts herd"
        )
    );
}

#[test]
fn a_containers_groups_are_read_only() {
    let host = v2("/", "cpu memory pids\n", false);
    fs::write(
        host.0.path().join("proc/self/mountinfo"),
        V2.replace(" rw,nosuid", " ro,nosuid"),
    )
    .unwrap();
    let (ok, detail, fix) = limits_of(&host, 0, "cgroup-pids");
    assert_eq!(
        (ok, detail.as_str()),
        (false, "/sys/fs/cgroup is mounted read-only")
    );
    assert!(fix.unwrap().contains("writable-cgroups=true"));
}

#[test]
fn versions_of_control_groups_are_told_apart() {
    let memory = "30 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let joint = "31 24 0:29 /docker/1 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
    let systemd = "32 24 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    let unified = "33 24 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    for (mounts, version) in [
        (String::new(), Version::None),
        (systemd.to_owned(), Version::None),
        (format!("{memory}{joint}{systemd}"), Version::V1),
        (format!("{memory}{joint}{unified}"), Version::Hybrid),
        (V2.to_owned(), Version::V2),
    ] {
        let host = Host::with(
            UBUNTU,
            &[
                ("proc/self/mountinfo", &mounts),
                (
                    "proc/self/cgroup",
                    "9:cpu,cpuacct:/docker/1/a\n8:memory:/m\n0::/\n",
                ),
                ("sys/fs/cgroup/memory/m/tasks", ""),
                ("sys/fs/cgroup/cpu,cpuacct/a/tasks", ""),
            ],
        );
        let root = host.facts(0).cgroups;
        assert_eq!(root.version, version, "{mounts}");
        if matches!(version, Version::V1 | Version::Hybrid) {
            let directory = |path: &str| path.to_owned();
            assert_eq!(
                root.memory,
                Limits::Possible {
                    directory: directory("/sys/fs/cgroup/memory/m")
                }
            );
            // What is above the root of the mount is not visible.
            let cpu = directory("/sys/fs/cgroup/cpu,cpuacct/a");
            assert_eq!(
                root.cpu,
                Limits::Possible {
                    directory: cpu.clone()
                }
            );
            assert_eq!(root.pids, Limits::Absent);
            assert_eq!(host.facts(USER).cgroups.cpu, Limits::NotOurs { directory: cpu });
        }
    }
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
