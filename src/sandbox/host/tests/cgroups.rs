//! Which limits there can be: versions of control groups, and what herd would find in them.

use crate::sandbox::cgroup::{Controller, Mounted, Offer, Reason, Unavailable, Version};

use super::*;

#[test]
fn limits_are_told_as_a_start_of_herd_would_tell_them() {
    let base = Path::new("/sys/fs/cgroup/user.slice/app.scope");
    let refused = |controller, reason: Reason, fix: &str| {
        let fix = fix.to_owned();
        Err(Unavailable {
            controller,
            reason,
            fix,
        })
    };
    let not_passed_down = Reason::NotPassedDown {
        path: base.to_owned(),
    };
    let shared = Reason::Shared {
        path: base.to_owned(),
        pids: vec![7, 8],
    };
    let delegate = "start herd with `systemd-run --user --scope -p Delegate=yes herd start`";
    let mut facts = Host::with(UBUNTU, &[("proc/self/mountinfo", V2)]).facts(USER);
    facts.cgroups.limits = vec![
        (
            Controller::Memory,
            Ok(Offer {
                version: Version::V2,
                base: base.to_owned(),
            }),
        ),
        (
            Controller::Cpu,
            refused(Controller::Cpu, not_passed_down, "let systemd pass it on"),
        ),
        (Controller::Pids, refused(Controller::Pids, shared, delegate)),
    ];
    let checks = checks(&facts, &all_fine());
    assert!(is_fit(&checks), "limits are no part of the defaults' needs");
    for (name, ok, detail, fix) in [
        (
            "cgroup-memory",
            true,
            "/sys/fs/cgroup/user.slice/app.scope is ours to divide",
            None,
        ),
        (
            "cgroup-cpu",
            false,
            "the controller is not passed down to the control group /sys/fs/cgroup/user.slice/app.scope",
            Some("let systemd pass it on"),
        ),
        (
            "cgroup-pids",
            false,
            "the control group /sys/fs/cgroup/user.slice/app.scope holds other processes than herd ([7, 8]), and it is \
             not delegated",
            Some(delegate),
        ),
    ] {
        let check = check(&checks, name);
        assert_eq!(
            (check.ok, check.detail.as_str(), check.fix.as_deref()),
            (ok, detail, fix),
            "{name}"
        );
    }
}

#[test]
fn the_kill_file_is_looked_for_in_the_group_of_this_process() {
    let files = [
        ("proc/self/mountinfo", V2),
        ("proc/self/cgroup", "0::/user.slice/herd.scope\n"),
    ];
    let with = |files: &[(&str, &str)]| {
        let old = Facts {
            release: "5.12.0".to_owned(),
            ..Host::with(UBUNTU, files).facts(USER)
        };
        check(&checks(&old, &all_fine()), "cgroup-kill").ok
    };
    assert!(!with(&files), "the kernel is too old");
    assert!(with(
        &[
            &files[..],
            &[("sys/fs/cgroup/user.slice/herd.scope/cgroup.kill", "")]
        ]
        .concat()
    ));
}

#[test]
fn versions_of_control_groups_are_told_apart() {
    let memory = "30 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let joint = "31 24 0:29 /docker/1 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
    let systemd = "32 24 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    let unified = "33 24 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    for (mounts, version) in [
        (String::new(), Mounted::Nothing),
        (systemd.to_owned(), Mounted::Nothing),
        (format!("{memory}{joint}{systemd}"), Mounted::V1),
        (format!("{memory}{joint}{unified}"), Mounted::Hybrid),
        (V2.to_owned(), Mounted::V2),
    ] {
        let host = Host::with(
            UBUNTU,
            &[
                ("proc/self/mountinfo", &mounts),
                (
                    "proc/self/cgroup",
                    "9:cpu,cpuacct:/docker/1/a\n8:memory:/m\n0::/\n",
                ),
            ],
        );
        assert_eq!(host.facts(0).cgroups.mounted, version, "{mounts}");
    }
}
