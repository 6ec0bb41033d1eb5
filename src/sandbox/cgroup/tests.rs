//! Where the kernel's own words lead: `/proc/self/cgroup` and `/proc/self/mountinfo` of several kinds of machine.

use std::path::Path;

use super::limits::{Controller, Controllers, Cpus, Limits};
use super::place::{Place, Places};
use super::why::{Host, Reason};
use super::{Version, group};

/// A systemd of version 241 on version 1, in an ssh session.
const V1: (&str, &str) = (
    "\
11:pids:/user.slice/user-0.slice/session-4.scope
10:cpuset:/
9:blkio:/user.slice
8:perf_event:/
7:memory:/user.slice
6:freezer:/
5:rdma:/
4:net_cls,net_prio:/
3:devices:/user.slice
2:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice/user-0.slice/session-4.scope
0::/user.slice/user-0.slice/session-4.scope
",
    "\
25 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
31 19 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
36 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
41 31 0:36 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:20 - cgroup cgroup rw,memory
45 31 0:40 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:24 - cgroup cgroup rw,pids
",
);

/// Version 2 alone, in a scope of a user's own systemd.
const V2: (&str, &str) = (
    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r7.scope\n",
    "\
24 31 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
30 23 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
",
);

/// A container on version 1 that sees its own part of each hierarchy under the names of the machine.
const CONTAINER_V1: (&str, &str) = (
    "4:memory:/docker/8f3c\n3:cpu,cpuacct:/docker/8f3c\n2:pids:/docker/8f3c\n1:name=systemd:/docker/8f3c\n",
    "\
612 600 0:28 /docker/8f3c /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:11 - cgroup cgroup rw,name=systemd
613 600 0:31 /docker/8f3c /sys/fs/cgroup/cpu,cpuacct ro,nosuid,nodev,noexec,relatime master:15 - cgroup cgroup rw,cpu,cpuacct
614 600 0:36 /docker/8f3c /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:20 - cgroup cgroup rw,memory
",
);

fn place(files: (&str, &str), controller: Controller) -> Result<Place, Reason> {
    Places::parse(files.0, files.1).of(controller)
}

fn found(files: (&str, &str), controller: Controller) -> (Version, String) {
    let place = place(files, controller).unwrap();
    (place.version, place.own.display().to_string())
}

#[test]
fn each_controller_of_version_1_is_found_at_its_own_mount() {
    let at = |path: &str| (Version::V1, path.to_owned());
    assert_eq!(
        found(V1, Controller::Memory),
        at("/sys/fs/cgroup/memory/user.slice")
    );
    assert_eq!(
        found(V1, Controller::Cpu),
        at("/sys/fs/cgroup/cpu,cpuacct/user.slice")
    );
    let pids = "/sys/fs/cgroup/pids/user.slice/user-0.slice/session-4.scope";
    assert_eq!(found(V1, Controller::Pids), at(pids));
    let systemd = Places::parse(V1.0, V1.1).of_systemd().unwrap();
    let expected = "/sys/fs/cgroup/systemd/user.slice/user-0.slice/session-4.scope";
    assert_eq!(systemd.own, Path::new(expected));
}

#[test]
fn every_controller_of_version_2_is_in_the_one_group() {
    for controller in Controller::ALL {
        let place = place(V2, controller).unwrap();
        assert_eq!(place.version, Version::V2);
        assert_eq!(place.top, Path::new("/sys/fs/cgroup"));
        let own = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r7.scope";
        assert_eq!(place.own, Path::new(own));
        assert_eq!(Places::parse(V2.0, V2.1).of_systemd(), Some(place));
    }
}

#[test]
fn on_a_hybrid_machine_version_1_has_what_it_names_and_version_2_the_rest() {
    let hybrid = (
        "3:memory:/\n1:cpu:/\n0::/\n",
        "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
",
    );
    assert_eq!(
        found(hybrid, Controller::Memory),
        (Version::V1, "/sys/fs/cgroup/memory".to_owned())
    );
    assert_eq!(
        found(hybrid, Controller::Pids),
        (Version::V2, "/sys/fs/cgroup/unified".to_owned())
    );
}

#[test]
fn a_container_finds_itself_at_the_mount_point() {
    let place = place(CONTAINER_V1, Controller::Memory).unwrap();
    assert_eq!(place.own, Path::new("/sys/fs/cgroup/memory"));
    assert_eq!(place.top, place.own);
    assert_eq!(
        self::place(CONTAINER_V1, Controller::Pids),
        Err(Reason::NotMounted { version: Version::V1 })
    );
}

#[test]
fn a_group_outside_of_the_namespace_is_found_only_if_the_mount_shows_it() {
    // Docker in Docker: moved into another container's namespace after the mount was made.
    let mount = |root: &str| format!("30 23 0:27 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    let own = |cgroup: &str, root: &str| {
        place((cgroup, &mount(root)), Controller::Memory).map(|place| place.own.display().to_string())
    };
    let inside = own("0::/../../docker/a/b\n", "/../../docker/a");
    assert_eq!(inside, Ok("/sys/fs/cgroup/b".to_owned()));
    for (cgroup, root) in [
        ("0::/../b\n", "/"),
        ("0::/\n", "/../.."),
        ("0::/docker/ab\n", "/docker/a"),
        ("0::/../../docker/a/../b\n", "/../../docker/a"),
    ] {
        let refusal = own(cgroup, root).unwrap_err();
        let expected = format!(
            "herd's own control group {} cannot be found: /sys/fs/cgroup shows only what is below {root}",
            &cgroup[3..cgroup.len() - 1]
        );
        assert_eq!(refusal.to_string(), expected);
    }
}

#[test]
fn mounts_that_hide_others_or_have_odd_names_are_read_as_they_are() {
    let cgroup = "0::/a:b\n";
    let mountinfo = "\
30 23 0:27 /hidden /sys/fs/cgroup rw - cgroup2 cgroup2 rw
31 23 0:27 / /mnt/with\\040space rw shared:1 master:2 - cgroup2 none rw
32 23 0:99 / /elsewhere rw - tmpfs cgroup2 rw
";
    let place = place((cgroup, mountinfo), Controller::Cpu).unwrap();
    assert_eq!(place.own, Path::new("/mnt/with space/a:b"));
}

#[test]
fn without_any_mount_there_is_nothing_and_the_text_says_what_to_do() {
    let host = Host {
        root: true,
        systemd: false,
    };
    let why = |files| {
        let reason = place(files, Controller::Memory).unwrap_err();
        reason.of(Controller::Memory, None, host).to_string()
    };
    assert_eq!(
        why(("0::/\n", "22 27 0:21 / /proc rw - proc proc rw\n")),
        "memory cannot be limited: this kernel offers no such control group controller; boot with \
         cgroup_enable=memory, or with a kernel that has it (CONFIG_MEMCG)"
    );
    assert_eq!(why(("", "")), why(("0::/\n", "")));
    assert_eq!(
        why(("4:memory:/\n", "garbage\n - \n1 2 3 - cgroup\n")),
        "memory cannot be limited: the control groups of version 1 are not mounted here; as root: `mkdir -p \
         /sys/fs/cgroup/memory && mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory`"
    );
}

#[test]
fn what_is_missing_is_said_with_the_command_that_helps_on_this_host() {
    let host = |root, systemd| Host { root, systemd };
    let path = Path::new("/sys/fs/cgroup/own").to_owned();
    let denied = Reason::NotOurs {
        path: path.clone(),
        errno: nix::errno::Errno::EACCES,
    };
    let not_delegated = Reason::NotDelegated { path: path.clone() };
    let not_passed = Reason::NotPassedDown { path: path.clone() };
    let shared = Reason::Shared {
        path: path.clone(),
        pids: vec![7, 8],
    };
    let read_only = Reason::NotOurs {
        path,
        errno: nix::errno::Errno::EROFS,
    };
    let text = |reason: &Reason, host| {
        reason
            .clone()
            .of(Controller::Cpu, Some(Version::V2), host)
            .to_string()
    };
    for (reason, host, cause, fix) in [
        (
            &denied,
            host(false, true),
            "herd may not change the control group /sys/fs/cgroup/own (Permission denied)",
            "`systemd-run --user --scope -p Delegate=yes herd start`",
        ),
        (
            &denied,
            host(false, false),
            "herd may not change",
            "run herd as root",
        ),
        (
            &not_passed,
            host(false, true),
            "the controller is not passed down to the control group /sys/fs/cgroup/own",
            "`sudo systemctl edit user@.service`",
        ),
        (
            &not_passed,
            host(true, false),
            "not passed down",
            "`echo +cpu > cgroup.subtree_control`",
        ),
        (
            &not_passed,
            host(true, true),
            "not passed down",
            "with Delegate=yes in its unit",
        ),
        (
            &not_delegated,
            host(false, true),
            "systemd has not delegated the control group /sys/fs/cgroup/own, and passes the controller down to none \
             that has not asked for it",
            "`systemd-run --user --scope -p Delegate=yes herd start`",
        ),
        (
            &shared,
            host(true, true),
            "the control group /sys/fs/cgroup/own holds other processes than herd ([7, 8]), and it is not delegated",
            "`systemd-run --scope -p Delegate=yes herd start`",
        ),
        (
            &shared,
            host(true, false),
            "holds other processes",
            "`mkdir /sys/fs/cgroup/herd && ",
        ),
        (
            &read_only,
            host(true, false),
            "(Read-only file system)",
            "docker run --privileged",
        ),
    ] {
        let text = text(reason, host);
        assert!(text.starts_with("cpu cannot be limited: "), "{text}");
        assert!(text.contains(cause), "{cause}: {text}");
        assert!(text.contains(fix), "{fix}: {text}");
    }
}

#[test]
fn a_quota_is_what_the_kernel_takes() {
    assert_eq!(Cpus::from_milli(9), None);
    let quota = |milli| Cpus::from_milli(milli).unwrap().quota();
    assert_eq!((quota(10), quota(500), quota(1500)), (1_000, 50_000, 150_000));
    assert_eq!(quota(u32::MAX), 429_496_729_500);
}

#[test]
fn limits_know_what_they_need_and_what_is_left_without_it() {
    let limits = Limits {
        memory: Some(1),
        cpus: Cpus::from_milli(1000),
        pids: None,
    };
    let needs: Vec<_> = limits.needs().iter().collect();
    assert_eq!(needs, [Controller::Memory, Controller::Cpu]);
    assert_eq!(limits.only(Controllers::NONE), Limits::default());
    let left = limits.only(Controller::Cpu.into());
    assert_eq!((left.memory, left.cpus), (None, limits.cpus));
    let text = serde_json::to_string(&limits).unwrap();
    assert_eq!(text, r#"{"memory":1,"cpus":1000,"pids":null}"#);
    assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
}

#[test]
fn counts_are_read_by_their_whole_names() {
    let events = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 3\noom_group_kill 1\n";
    assert_eq!(group::field(events, "oom"), Some(2));
    assert_eq!(group::field(events, "oom_kill"), Some(3));
    assert_eq!(group::field(events, "oom_"), None);
    assert_eq!(group::field("max many\n\n", "max"), None);
}
