//! Which limits there can be: versions of control groups, and whose they are.

use super::*;

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
