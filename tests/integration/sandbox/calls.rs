//! System calls that a sandboxed program has no business making. Every one has arguments with which it fails in
//! another way, or does nothing, where nothing stops it.

use libc::{EACCES, EAFNOSUPPORT, ENOENT, ENOSYS, EPERM, EROFS};
use serde_json::{Value, json};

use super::{Probed, Settings, call, open, result_of};
use crate::supervised::Mode;

/// Type and number of a socket that must not exist: a network namespace does not confine the first two.
const SOCKETS: [(&str, i32, i32, i32); 9] = [
    ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
    ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
    ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0),
    ("key", libc::AF_KEY, libc::SOCK_RAW, 2),
    ("bluetooth", libc::AF_BLUETOOTH, libc::SOCK_RAW, 0),
    ("can", libc::AF_CAN, libc::SOCK_RAW, 1),
    ("tipc", libc::AF_TIPC, libc::SOCK_DGRAM, 0),
    ("rds", libc::AF_RDS, libc::SOCK_SEQPACKET, 0),
    ("xdp", libc::AF_XDP, libc::SOCK_RAW, 0),
];

/// Each with a text for messages.
fn attacks() -> Vec<(&'static str, i64, Vec<Value>)> {
    let nowhere = || json!("/nowhere/herd-test");
    let none = || json!("herd-test-none");
    let (zero, bad) = (|| json!(0), || json!(-1));
    let mut attacks = vec![
        (
            "mount",
            libc::SYS_mount,
            vec![none(), nowhere(), none(), zero(), zero()],
        ),
        (
            "remount",
            libc::SYS_mount,
            vec![
                zero(),
                nowhere(),
                zero(),
                json!(libc::MS_REMOUNT | libc::MS_BIND),
                zero(),
            ],
        ),
        ("umount2", libc::SYS_umount2, vec![nowhere(), zero()]),
        ("pivot_root", libc::SYS_pivot_root, vec![nowhere(), nowhere()]),
        ("chroot", libc::SYS_chroot, vec![nowhere()]),
        ("fsopen", libc::SYS_fsopen, vec![none(), zero()]),
        ("fspick", libc::SYS_fspick, vec![bad(), nowhere(), zero()]),
        ("fsmount", libc::SYS_fsmount, vec![bad(), zero(), zero()]),
        ("open_tree", libc::SYS_open_tree, vec![bad(), nowhere(), zero()]),
        (
            "move_mount",
            libc::SYS_move_mount,
            vec![bad(), nowhere(), bad(), nowhere(), zero()],
        ),
        (
            "mount_setattr",
            libc::SYS_mount_setattr,
            vec![bad(), nowhere(), zero(), zero(), zero()],
        ),
        ("setns", libc::SYS_setns, vec![bad(), zero()]),
        (
            "keyctl",
            libc::SYS_keyctl,
            vec![json!(6), bad(), zero(), zero(), zero()],
        ),
        (
            "add_key",
            libc::SYS_add_key,
            vec![none(), none(), zero(), zero(), bad()],
        ),
        (
            "request_key",
            libc::SYS_request_key,
            vec![none(), none(), zero(), zero()],
        ),
        ("bpf", libc::SYS_bpf, vec![json!(9999), zero(), zero()]),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![zero(), zero()]),
        (
            "io_uring_enter",
            libc::SYS_io_uring_enter,
            vec![bad(), zero(), zero(), zero(), zero(), zero()],
        ),
        (
            "io_uring_register",
            libc::SYS_io_uring_register,
            vec![bad(), zero(), zero(), zero()],
        ),
        ("userfaultfd", libc::SYS_userfaultfd, vec![json!(0xff00)]),
        (
            "perf_event_open",
            libc::SYS_perf_event_open,
            vec![zero(), zero(), bad(), bad(), zero()],
        ),
        (
            "init_module",
            libc::SYS_init_module,
            vec![zero(), zero(), json!("")],
        ),
        (
            "finit_module",
            libc::SYS_finit_module,
            vec![bad(), json!(""), zero()],
        ),
        ("delete_module", libc::SYS_delete_module, vec![none(), zero()]),
        (
            "kexec_load",
            libc::SYS_kexec_load,
            vec![zero(), zero(), zero(), json!(0xffff)],
        ),
        (
            "quotactl",
            libc::SYS_quotactl,
            vec![bad(), nowhere(), zero(), zero()],
        ),
        (
            "open_by_handle_at",
            libc::SYS_open_by_handle_at,
            vec![bad(), zero(), zero()],
        ),
        ("swapon", libc::SYS_swapon, vec![nowhere(), zero()]),
        ("swapoff", libc::SYS_swapoff, vec![nowhere()]),
        ("reboot", libc::SYS_reboot, vec![zero(), zero(), zero(), zero()]),
        (
            "real-time scheduling",
            libc::SYS_sched_setscheduler,
            vec![json!(0), json!(libc::SCHED_FIFO), json!([1, 0, 0, 0])],
        ),
        ("acct", libc::SYS_acct, vec![nowhere()]),
        ("syslog", libc::SYS_syslog, vec![json!(10), zero(), zero()]),
        ("sethostname", libc::SYS_sethostname, vec![zero(), bad()]),
        ("setdomainname", libc::SYS_setdomainname, vec![zero(), bad()]),
        ("clock_settime", libc::SYS_clock_settime, vec![bad(), zero()]),
        ("settimeofday", libc::SYS_settimeofday, vec![zero(), zero()]),
        ("personality", libc::SYS_personality, vec![json!(0x0004_0000)]),
        ("fanotify_init", libc::SYS_fanotify_init, vec![bad(), zero()]),
        (
            "lookup_dcookie",
            libc::SYS_lookup_dcookie,
            vec![zero(), zero(), zero()],
        ),
        ("vhangup", libc::SYS_vhangup, vec![]),
        (
            "kcmp",
            libc::SYS_kcmp,
            vec![json!(1), json!(1), json!(99), zero(), zero()],
        ),
        (
            "move_pages",
            libc::SYS_move_pages,
            vec![json!(1), zero(), zero(), zero(), zero(), bad()],
        ),
        (
            "a character device",
            libc::SYS_mknodat,
            vec![
                json!(libc::AT_FDCWD),
                json!("/tmp/device"),
                json!(libc::S_IFCHR),
                json!(libc::makedev(1, 3)),
            ],
        ),
        (
            "TIOCSTI",
            libc::SYS_ioctl,
            vec![
                result_of(
                    libc::SYS_openat,
                    &[
                        json!(libc::AT_FDCWD),
                        json!("/dev/ptmx"),
                        json!(libc::O_RDWR | libc::O_NOCTTY),
                    ],
                ),
                json!(libc::TIOCSTI),
                json!("x"),
            ],
        ),
        (
            "a new user namespace by clone",
            libc::SYS_clone,
            vec![json!(libc::CLONE_NEWUSER | libc::SIGCHLD)],
        ),
    ];
    #[cfg(target_arch = "x86_64")]
    attacks.extend([
        ("iopl", libc::SYS_iopl, vec![json!(9)]),
        ("ioperm", libc::SYS_ioperm, vec![json!(0x80), json!(1), zero()]),
    ]);
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWTIME,
    ];
    attacks.extend(namespaces.map(|flag| ("unshare", libc::SYS_unshare, vec![json!(flag)])));
    attacks
}

#[test]
fn no_system_call_leads_out_or_reaches_the_kernels_less_guarded_parts() {
    for mode in Mode::sandboxed() {
        let probed = Probed::start(mode, &Settings::default());
        for (what, number, arguments) in attacks() {
            eprintln!("{what}");
            probed.refuses("a", &call(number, &arguments), &[EPERM, ENOSYS]);
        }
        // With no namespace flag, too: its flags lie in memory, where a filter cannot look.
        let clone3 = call(libc::SYS_clone3, &[json!(vec![0_u8; 88]), json!(88)]);
        probed.refuses("a", &clone3, &[ENOSYS]);
        for (what, family, kind, protocol) in SOCKETS {
            eprintln!("socket {what}");
            let socket = call(libc::SYS_socket, &[json!(family), json!(kind), json!(protocol)]);
            probed.refuses("a", &socket, &[EAFNOSUPPORT, EPERM]);
        }
        for family in [libc::AF_INET, libc::AF_INET6] {
            let raw = call(
                libc::SYS_socket,
                &[json!(family), json!(libc::SOCK_RAW), json!(libc::IPPROTO_ICMP)],
            );
            probed.refuses("a", &raw, &[EPERM]);
        }
        probed.lives("a");
    }
}

/// The profile for browsers lets a program make a user namespace, in which it has every capability; that must
/// still be no way to any mount.
#[test]
fn a_user_namespace_that_the_browser_profile_allows_gains_no_mount() {
    for mode in Mode::sandboxed() {
        let settings = Settings {
            sandbox: ", profile: browser",
            ..Settings::default()
        };
        let probed = Probed::start(mode, &settings);
        let zero = json!(0);
        let inside = || result_of(libc::SYS_unshare, &[json!(libc::CLONE_NEWUSER)]);
        assert_eq!(
            probed.found("a", &call(libc::SYS_unshare, &[json!(libc::CLONE_NEWUSER)])),
            0
        );
        for (number, arguments) in [
            (
                libc::SYS_mount,
                [
                    json!("none"),
                    json!("/nowhere"),
                    json!("none"),
                    inside(),
                    zero.clone(),
                ]
                .as_slice(),
            ),
            (libc::SYS_umount2, &[json!("/nowhere"), inside()]),
            (
                libc::SYS_pivot_root,
                &[json!("/nowhere"), json!("/nowhere"), inside()],
            ),
            (libc::SYS_fsopen, &[json!("none"), inside()]),
            (libc::SYS_bpf, &[json!(9999), zero.clone(), inside()]),
            (
                libc::SYS_keyctl,
                &[json!(6), json!(-1), inside(), zero.clone(), zero.clone()],
            ),
            (libc::SYS_io_uring_setup, &[zero.clone(), inside()]),
        ] {
            probed.refuses("a", &call(number, arguments), &[EPERM, ENOSYS]);
        }
        let raw = [json!(libc::AF_PACKET), json!(libc::SOCK_RAW), inside()];
        probed.refuses("a", &call(libc::SYS_socket, &raw), &[EAFNOSUPPORT, EPERM]);
    }
}

#[test]
fn nothing_of_the_kernel_can_be_set_through_its_files() {
    for mode in Mode::sandboxed() {
        let probed = Probed::start(mode, &Settings::default());
        for path in [
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/hostname",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sysrq-trigger",
            "/proc/irq",
            "/proc/bus",
            "/proc/fs",
            "/sys/devices/system/cpu/cpu0/online",
            "/sys/kernel/uevent_helper",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/release_agent",
            "/sys/fs/bpf",
            "/sys/kernel/debug",
            "/dev/kmsg",
            "/dev/mem",
            "/dev/kvm",
            "/dev/fuse",
            "/dev/sda",
            "/dev/vda",
            "/dev/net/tun",
            "/dev/mapper/control",
            "/dev/loop-control",
        ] {
            // A directory answers that it is one, on a read-only mount, too: nothing was opened.
            let refused = [EACCES, EPERM, ENOENT, EROFS, libc::EISDIR];
            probed.refuses("a", &open(path, libc::O_WRONLY), &refused);
        }
        for path in [
            "/proc/kcore",
            "/proc/keys",
            "/proc/timer_list",
            "/proc/kallsyms",
            "/proc/interrupts",
        ] {
            // Covered with an empty file, where there is one.
            let outcome = probed.ask("a", &super::read(path));
            let empty = outcome == super::Outcome::Done(json!(""));
            assert!(
                empty || matches!(outcome, super::Outcome::Refused(_)),
                "{mode:?}: {path}: {outcome:?}"
            );
        }
        assert_eq!(probed.names("a", "/sys/devices"), ["system"]);
        let devices = probed.names("a", "/dev");
        let expected = [
            "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero", "mqueue", "console",
        ];
        assert!(devices.len() > 8, "{devices:?}");
        assert!(
            devices.iter().all(|name| expected.contains(&name.as_str())),
            "{mode:?}: {devices:?}"
        );
    }
}
