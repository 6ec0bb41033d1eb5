//! Profiles and programs as such. That a kernel agrees is shown by `tests/seccomp.rs`.

use super::reference::run;
use super::*;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILLED: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const KERNEL: (u32, u32) = (6, 1);
const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// What `profile` answers to `name` on `arch`.
fn asked(profile: &Profile, arch: Arch, name: &str, arguments: &[u64]) -> u32 {
    let number = arch.calls().find(|(_, call)| *call == name);
    let (number, _) = number.unwrap_or_else(|| panic!("{arch:?} has no {name}"));
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let filter = profile.compile_for(arch, KERNEL).unwrap();
    run(&filter.program, arch.audit(), number, all)
}

fn profile(text: &str) -> Profile {
    Profile::parse(text, "p.json").unwrap()
}

/// A profile that refuses by default and has these rules.
fn with(rules: &str) -> Profile {
    profile(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rules}]}}"#
    ))
}

fn refusal(text: &str) -> String {
    Profile::parse(text, "p.json").unwrap_err().to_string()
}

#[test]
fn strict_answers_every_call_of_both_machines() {
    let profile = Profile::strict();
    assert_eq!(profile.notes(), &[] as &[String]);
    for (arch, allowed) in [(Arch::X86_64, 306), (Arch::Aarch64, 264)] {
        let filter = profile.compile_for(arch, KERNEL).unwrap();
        let answers: Vec<_> = arch
            .calls()
            .map(|(number, name)| (name, run(&filter.program, arch.audit(), number, [0; 6])))
            .collect();
        let count = answers.iter().filter(|(_, answer)| *answer == ALLOW).count();
        // clone, ioctl and personality with zeros are allowed, too; socket and socketpair are not.
        assert_eq!(count, allowed, "{arch:?}");
        for (name, answer) in answers {
            let expected = match name {
                "clone3" | "open_tree_attr" | "file_getattr" | "file_setattr" => errno(libc::ENOSYS),
                "socket" | "socketpair" => errno(libc::EAFNOSUPPORT),
                _ if answer == ALLOW => ALLOW,
                _ => errno(libc::EPERM),
            };
            assert_eq!(answer, expected, "{arch:?} {name}");
        }
    }
}

#[test]
fn strict_refuses_what_leads_out_of_a_sandbox() {
    const REFUSED: &[&str] = &[
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsmount",
        "fsconfig",
        "fspick",
        "mount_setattr",
        "unshare",
        "setns",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "userfaultfd",
        "perf_event_open",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "open_by_handle_at",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "settimeofday",
        "clock_settime",
        "sethostname",
        "setdomainname",
        "syslog",
        "quotactl",
        "pidfd_getfd",
        "process_madvise",
        "kcmp",
        "fanotify_init",
        "vhangup",
        "nfsservctl",
        "lookup_dcookie",
    ];
    for arch in BOTH {
        for name in REFUSED {
            assert_eq!(
                asked(&Profile::strict(), arch, name, &[]),
                errno(libc::EPERM),
                "{arch:?} {name}"
            );
        }
    }
}

#[test]
fn only_families_that_a_network_namespace_confines_have_sockets() {
    for arch in BOTH {
        for call in ["socket", "socketpair"] {
            for family in (0..64).chain([
                1 << 31,
                1 << 32,
                1 << 32 | 40,
                u64::MAX,
                u64::MAX - 0xFFFF_FFFF + 38,
            ]) {
                let expected = match family {
                    1 | 2 | 10 | 16 => ALLOW,
                    _ => errno(libc::EAFNOSUPPORT),
                };
                let answer = asked(&Profile::strict(), arch, call, &[family, 1, 0]);
                assert_eq!(answer, expected, "{arch:?} {call} {family:#x}");
            }
        }
    }
}

/// The kernel looks at 32 bits of the request, so a filter that compares 64 is walked around (CVE-2019-10063).
#[test]
fn the_terminal_cannot_be_typed_into() {
    for arch in BOTH {
        for request in [0x5412, 0x541C, 0x1_0000_5412, 0xFFFF_FFFF_0000_541C] {
            let answer = asked(&Profile::strict(), arch, "ioctl", &[0, request]);
            assert_eq!(answer, errno(libc::EPERM), "{arch:?} {request:#x}");
        }
        for request in [0x5401, 0x5411, 0x5413, 0x541B, 0x541D, 0] {
            assert_eq!(
                asked(&Profile::strict(), arch, "ioctl", &[0, request]),
                ALLOW,
                "{request:#x}"
            );
        }
    }
}

#[test]
fn strict_makes_threads_and_processes_but_no_namespaces() {
    let threads = 0x3D0F00;
    for arch in BOTH {
        for (profile, namespace) in [
            (Profile::strict(), errno(libc::EPERM)),
            (Profile::browser(), ALLOW),
        ] {
            assert_eq!(asked(&profile, arch, "clone", &[threads]), ALLOW);
            assert_eq!(asked(&profile, arch, "clone", &[libc::SIGCHLD as u64]), ALLOW);
            for bit in [17, 25, 26, 27, 28, 29, 30] {
                let answer = asked(&profile, arch, "clone", &[17 | 1 << bit]);
                assert_eq!(answer, namespace, "{arch:?} bit {bit}");
            }
        }
    }
}

#[test]
fn browser_differs_from_strict_in_four_calls() {
    for arch in BOTH {
        let mut differ: Vec<_> = arch
            .calls()
            .filter(|(_, name)| {
                let namespaces = [u64::from(u32::MAX); 6];
                asked(&Profile::strict(), arch, name, &namespaces)
                    != asked(&Profile::browser(), arch, name, &namespaces)
            })
            .map(|(_, name)| name)
            .collect();
        differ.sort_unstable();
        assert_eq!(differ, ["chroot", "clone", "setns", "unshare"], "{arch:?}");
    }
}

#[test]
fn other_instruction_sets_of_the_machine_stay_closed() {
    for text in [
        r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#,
        include_str!("strict.json"),
    ] {
        let filter = profile(text).compile_for(Arch::X86_64, KERNEL).unwrap();
        let i386 = 0x4000_0003;
        assert_eq!(run(&filter.program, i386, 102, [1; 6]), KILLED, "socketcall");
        let x86_64 = Arch::X86_64.audit();
        for x32 in [0x4000_0000, 0x4000_0000 | 41, 0x4000_0000 | 520, u32::MAX] {
            assert_eq!(
                run(&filter.program, x86_64, x32, [1; 6]),
                errno(libc::ENOSYS),
                "{x32:#x}"
            );
        }
    }
}

#[test]
fn calls_younger_than_the_profile_do_not_exist() {
    let rules = r#"{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}"#;
    for arch in BOTH {
        let filter = with(rules).compile_for(arch, KERNEL).unwrap();
        for (number, expected) in [
            (437, ALLOW),
            (436, errno(libc::EPERM)),
            (438, errno(libc::ENOSYS)),
        ] {
            assert_eq!(
                run(&filter.program, arch.audit(), number, [0; 6]),
                expected,
                "{number}"
            );
        }
        let open = profile(r#"{"defaultAction": "SCMP_ACT_LOG"}"#)
            .compile_for(arch, KERNEL)
            .unwrap();
        assert_eq!(
            run(&open.program, arch.audit(), 470, [0; 6]),
            libc::SECCOMP_RET_LOG
        );
    }
}

#[test]
fn every_comparison_looks_at_all_64_bits() {
    let big = 0x1_0000_0005_u64;
    for (op, matching, not) in [
        ("NE", vec![5, big + 1], vec![big]),
        ("LT", vec![0, 5, big - 1], vec![big, big + 1, u64::MAX]),
        ("LE", vec![5, big], vec![big + 1, u64::MAX]),
        ("EQ", vec![big], vec![5, big + 1]),
        ("GE", vec![big, u64::MAX], vec![5, big - 1]),
        ("GT", vec![big + 1, u64::MAX], vec![5, big]),
    ] {
        let rule = format!(
            r#"{{"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "args": [{{"index": 5, "value": {big}, "op": "SCMP_CMP_{op}"}}]}}"#
        );
        for (values, answer) in [(matching, ALLOW), (not, errno(libc::EPERM))] {
            for value in values {
                let asked = asked(&with(&rule), Arch::X86_64, "getpid", &[0, 0, 0, 0, 0, value]);
                assert_eq!(asked, answer, "{value:#x} {op} {big:#x}");
            }
        }
    }
}

#[test]
fn conditions_on_different_arguments_must_all_hold_and_on_the_same_one_any() {
    let condition = |index, value| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let rule = |a: String, b: String| {
        with(&format!(
            r#"{{"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "args": [{a}, {b}]}}"#
        ))
    };
    let (both, either) = (
        rule(condition(0, 1), condition(1, 2)),
        rule(condition(0, 1), condition(0, 2)),
    );
    for (arguments, for_both, for_either) in [
        ([1, 2], true, true),
        ([1, 0], false, true),
        ([2, 2], false, true),
        ([0, 2], false, false),
    ] {
        for (profile, allowed) in [(&both, for_both), (&either, for_either)] {
            assert_eq!(
                asked(profile, Arch::X86_64, "dup2", &arguments) == ALLOW,
                allowed,
                "{arguments:?}"
            );
        }
    }
}

#[test]
fn the_strictest_of_several_rules_holds_in_any_order() {
    let rules = [
        r#"{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"}"#,
        r#"{"names": ["ioctl"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]}"#,
        r#"{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [{"index": 1, "value": 6, "op": "SCMP_CMP_GE"}]}"#,
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let profile = with(&order.map(|index| rules[index]).join(","));
        for (request, expected) in [(5, ALLOW), (6, errno(9)), (7, KILLED), (8, errno(9))] {
            assert_eq!(
                asked(&profile, Arch::X86_64, "ioctl", &[0, request]),
                expected,
                "{order:?} {request}"
            );
        }
    }
}

#[test]
fn rules_apply_by_machine_kernel_and_the_lack_of_capabilities() {
    for (scope, applies) in [
        (r#""includes": {"caps": ["CAP_SYS_ADMIN"]}"#, false),
        (r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}"#, true),
        (r#""includes": {"caps": []}, "excludes": {}"#, true),
        (r#""includes": {"arches": ["amd64", "x32"]}"#, true),
        (r#""includes": {"arches": ["arm64"]}"#, false),
        (r#""excludes": {"arches": ["amd64"]}"#, false),
        (r#""excludes": {"arches": ["s390x"]}"#, true),
        (r#""includes": {"minKernel": "6.1"}"#, true),
        (r#""includes": {"minKernel": "6.2"}"#, false),
        (r#""excludes": {"minKernel": "4.8"}"#, false),
        (r#""excludes": {"minKernel": "6.10"}"#, true),
        (r#""includes": null, "excludes": null, "args": null"#, true),
    ] {
        let profile = with(&format!(
            r#"{{"name": "ptrace", "action": "SCMP_ACT_ALLOW", {scope}}}"#
        ));
        assert_eq!(
            asked(&profile, Arch::X86_64, "ptrace", &[]) == ALLOW,
            applies,
            "{scope}"
        );
    }
}

#[test]
fn actions_and_errnos_reach_the_kernel_as_written() {
    for (action, answer) in [
        (r#""SCMP_ACT_ALLOW""#, ALLOW),
        (r#""SCMP_ACT_LOG""#, libc::SECCOMP_RET_LOG),
        (r#""SCMP_ACT_ERRNO""#, errno(1)),
        (r#""SCMP_ACT_ERRNO", "errnoRet": 0"#, errno(0)),
        (r#""SCMP_ACT_ERRNO", "errnoRet": 4095"#, errno(4095)),
        (r#""SCMP_ACT_TRAP""#, libc::SECCOMP_RET_TRAP),
        (r#""SCMP_ACT_KILL""#, libc::SECCOMP_RET_KILL_THREAD),
        (r#""SCMP_ACT_KILL_THREAD""#, libc::SECCOMP_RET_KILL_THREAD),
        (r#""SCMP_ACT_KILL_PROCESS""#, KILLED),
    ] {
        let rule = format!(r#"{{"names": ["read", "no_such_call"], "action": {action}}}"#);
        assert_eq!(asked(&with(&rule), Arch::X86_64, "read", &[]), answer, "{action}");
        let default = format!(
            r#"{{"defaultAction": {}, "syscalls": [{{"names": ["write"], "action": "SCMP_ACT_ALLOW"}}]}}"#,
            action.replace("errnoRet", "defaultErrnoRet")
        );
        assert_eq!(
            asked(&profile(&default), Arch::X86_64, "read", &[]),
            answer,
            "{action}"
        );
    }
}

#[test]
fn flags_of_a_filter_are_kept() {
    let flags = |list: &str| {
        profile(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": {list}}}"#
        ))
        .flags
    };
    assert_eq!(flags("[]"), 0);
    assert_eq!(
        flags(r#"["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]"#),
        2
    );
    assert_eq!(flags(r#"["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#), 4);
}

#[test]
fn mistakes_are_named_with_their_place_in_the_file() {
    let rule =
        |text: &str| format!("{{\"defaultAction\": \"SCMP_ACT_ERRNO\",\n \"syscalls\": [\n  {text}]}}");
    let argument = |text: &str| {
        rule(&format!(
            r#"{{"name": "read", "action": "SCMP_ACT_ALLOW", "args": [{{{text}}}]}}"#
        ))
    };
    for (text, expected) in [
        (String::new(), "p.json:1:0: EOF while parsing a value"),
        ("{".to_owned(), "p.json:1:1: EOF while parsing an object"),
        ("{}".to_owned(), "p.json:1:2: missing field `defaultAction`"),
        (rule("") + "x", "p.json:3:5: trailing characters"),
        (
            rule(r#"{"name": "read", "action": "SCMP_ACT_NOTIFY"}"#),
            "p.json:3:47: syscalls[0].action: SCMP_ACT_NOTIFY asks a program that answers for the kernel, which \
             herd does not offer",
        ),
        (
            rule(r#"{"name": "read", "action": "SCMP_ACT_TRACE"}"#),
            "p.json:3:46: syscalls[0].action: SCMP_ACT_TRACE asks a tracer, and herd's workers have none; \
             SCMP_ACT_ERRNO refuses the call",
        ),
        (
            rule(r#"{"name": "read", "action": "allow"}"#),
            "p.json:3:37: syscalls[0].action: `allow` is not an action; there are SCMP_ACT_ALLOW, _LOG, _ERRNO, \
             _TRAP, _KILL, _KILL_THREAD and _KILL_PROCESS",
        ),
        (
            rule(r#"{"action": "SCMP_ACT_ALLOW"}"#),
            "p.json:3:31: syscalls[0]: names no system call",
        ),
        (
            rule(r#"{"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"}"#),
            "p.json:3:67: syscalls[0]: has both `name` and `names`; keep one of them",
        ),
        (
            rule(r#"{"name": "read", "action": "SCMP_ACT_ALLOW", "errnoRet": 1}"#),
            "p.json:3:62: syscalls[0]: has `errnoRet`, but only SCMP_ACT_ERRNO returns one",
        ),
        (
            rule(r#"{"name": "read", "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#),
            "p.json:3:64: syscalls[0].errnoRet: 4096 is not an errno: the kernel has 0 to 4095",
        ),
        (
            rule(r#"{"name": "read", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5"}}"#),
            "p.json:3:77: syscalls[0].includes.minKernel: `5` is not a kernel version like \"5.11\"",
        ),
        (
            argument(r#""index": 6, "value": 0, "op": "SCMP_CMP_EQ""#),
            "p.json:3:102: syscalls[0].args[0]: `index` is 6, and a system call has arguments 0 to 5",
        ),
        (
            argument(r#""index": 0, "value": -1, "op": "SCMP_CMP_EQ""#),
            "p.json:3:80: syscalls[0].args[0].value: invalid value: integer `-1`, expected u64",
        ),
        (
            argument(r#""index": 0, "value": 0, "op": "==""#),
            "p.json:3:93: syscalls[0].args[0]: `==` is not a comparison; there are SCMP_CMP_NE, _LT, _LE, _EQ, _GE, \
             _GT and _MASKED_EQ",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["x86"]}"#.to_owned(),
            "p.json:1:60: architectures[0]: `x86` is not an architecture (they look like SCMP_ARCH_X86_64)",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#
                .to_owned(),
            "p.json:1:87: flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is about SCMP_ACT_NOTIFY, which herd does \
             not offer",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s"}"#.to_owned(),
            "p.json:1:61: listenerPath: names a program that answers for the kernel (SCMP_ACT_NOTIFY), which herd does not offer",
        ),
    ] {
        assert_eq!(refusal(&text), expected, "{text}");
    }
}

#[test]
fn what_has_no_effect_is_noted() {
    let profile = profile(
        r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "comment": "mine", "sycalls": [],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"], "also": 1}],
            "syscalls": [
                {"names": ["read", "reed"], "action": "SCMP_ACT_ALLOW", "arg": [], "includes": {"minkernel": "5.0"}},
                {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "valuetwo": 1, "op": "SCMP_CMP_EQ"}]},
                {"names": ["unshar", "setns"], "action": "SCMP_ACT_ERRNO"}
            ]
        }"#,
    );
    let mut expected = [
        "sycalls",
        "archMap[0].also",
        "syscalls[0].arg",
        "syscalls[0].includes.minkernel",
        "syscalls[1].args[0].valuetwo",
    ]
    .map(|key| format!("p.json: `{key}` means nothing in a system call profile, so it has no effect"))
    .to_vec();
    if Arch::HERE == Some(Arch::X86_64) {
        expected.push(
            "p.json: SCMP_ARCH_X86 is named, but herd opens the machine's own instruction set only; others are killed"
                .to_owned(),
        );
    }
    expected.push(
        "p.json: `unshar` is not a system call herd knows, so nothing is refused by that name".to_owned(),
    );
    assert_eq!(profile.notes(), expected);
}

#[test]
fn a_profile_that_cannot_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.json");
    let load = || Profile::load(&path).unwrap_err().to_string();
    let name = path.display().to_string();
    assert_eq!(
        load(),
        format!("the system call profile {name} cannot be read: No such file or directory (os error 2)")
    );
    std::fs::write(&path, vec![b' '; LONGEST_FILE as usize + 1]).unwrap();
    assert_eq!(
        load(),
        format!("the system call profile {name} has more than 1048576 bytes")
    );
    std::fs::write(&path, [0xFF]).unwrap();
    assert_eq!(
        load(),
        format!("the system call profile {name} cannot be read: stream did not contain valid UTF-8")
    );
    let rule = |value| {
        format!(
            r#"{{"name": "read", "action": "SCMP_ACT_ALLOW", "args": [{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}]}}"#
        )
    };
    let rules = (0..1000).map(rule).collect::<Vec<_>>().join(",");
    let error = with(&rules).compile_for(Arch::X86_64, KERNEL).unwrap_err();
    assert!(
        matches!(error, CompileError::TooLong(len) if len > 4096),
        "{error}"
    );
}
