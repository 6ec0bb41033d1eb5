//! Who may have user namespaces, and which ids in them.

use super::*;

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
