//! Other processes, and rights over anything.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use libc::{EACCES, ENOENT, EPERM, EROFS, ESRCH, ETXTBSY};
use serde_json::json;

use super::{Outcome, Probed, Settings, bundle, call, open, place, read, result_of};
use crate::leak;
use crate::supervised::Mode;

fn everywhere(test: impl Fn(&Probed)) {
    for mode in Mode::sandboxed() {
        test(&Probed::start(mode, &Settings::default()));
    }
}

#[test]
fn a_worker_sees_no_process_but_its_own_and_its_init() {
    everywhere(|probed| {
        probed.lives("neighbour");
        let pids: Vec<i32> = probed
            .names("a", "/proc")
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        assert!(pids.contains(&1) && pids.len() <= 3, "{pids:?}");
        assert_eq!(probed.text("a", "/proc/1/comm"), "herd-init\n");
        // Where herd's files are is nobody's business in here.
        let line = probed.text("a", "/proc/1/cmdline");
        assert_eq!(line.trim_end_matches('\0'), "herd");
        for pid in pids.iter().filter(|pid| **pid != 1) {
            // The one that looked before has ended.
            if let Outcome::Done(comm) = probed.ask("a", &read(&format!("/proc/{pid}/comm"))) {
                assert_eq!(comm, "probe\n");
            }
        }
        let keeper = probed.herd.until("a", "bound")["pid"].as_i64().unwrap();
        for pid in [keeper, i64::from(probed.herd.pid())] {
            probed.refuses("a", &read(&format!("/proc/{pid}/comm")), &[ENOENT]);
            probed.refuses("a", &call(libc::SYS_kill, &[json!(pid), json!(0)]), &[ESRCH]);
        }
    });
}

#[test]
fn nothing_of_the_init_can_be_read_or_changed() {
    everywhere(|probed| {
        for name in [
            "environ", "mem", "maps", "auxv", "stack", "syscall", "io", "pagemap",
        ] {
            probed.refuses("a", &read(&format!("/proc/1/{name}")), &[EACCES, EPERM]);
        }
        for name in ["exe", "root", "cwd", "ns/mnt", "ns/user", "ns/net"] {
            probed.refuses(
                "a",
                &json!({"link": {"path": format!("/proc/1/{name}")}}),
                &[EACCES, EPERM],
            );
        }
        for path in [
            "/proc/1/fd",
            "/proc/1/root",
            "/proc/1/cwd/",
            "/proc/1/map_files",
            "/proc/1/task/1/fd",
        ] {
            probed.refuses("a", &json!({"list": {"path": path}}), &[EACCES, EPERM]);
        }
        for path in [
            "/proc/1/exe",
            "/proc/1/mem",
            "/proc/1/oom_score_adj",
            "/proc/1/uid_map",
            "/proc/1/setgroups",
        ] {
            probed.refuses("a", &open(path, libc::O_WRONLY), &[EACCES, EPERM]);
        }
        let one = json!(1);
        let zero = json!(0);
        let attach = [
            json!(libc::PTRACE_ATTACH),
            one.clone(),
            zero.clone(),
            zero.clone(),
        ];
        let seize = [json!(libc::PTRACE_SEIZE), one.clone(), zero.clone(), zero.clone()];
        let pidfd = result_of(libc::SYS_pidfd_open, &[one.clone(), zero.clone()]);
        // One byte at address 8.
        let vectors = json!([8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        for (number, arguments) in [
            (libc::SYS_ptrace, attach.as_slice()),
            (libc::SYS_ptrace, &seize),
            (libc::SYS_pidfd_getfd, &[pidfd, zero.clone(), zero.clone()]),
            (
                libc::SYS_process_vm_readv,
                &[one.clone(), vectors.clone(), one.clone(), vectors, one, zero],
            ),
        ] {
            probed.refuses("a", &call(number, arguments), &[EPERM, EACCES]);
        }
        probed.lives("a");
    });
}

#[test]
fn the_init_survives_every_signal_of_its_worker() {
    everywhere(|probed| {
        probed.lives("a");
        let before = probed.herd.until("a", "bound")["pid"].clone();
        // SIGTERM is passed on: that is the worker ending itself.
        for signal in (1..=64).filter(|signal| *signal != libc::SIGTERM) {
            let outcome = probed.ask("a", &call(libc::SYS_kill, &[json!(1), json!(signal)]));
            let known = matches!(outcome, Outcome::Done(_) | Outcome::Refused(EPERM));
            assert!(known, "{:?}: {signal}: {outcome:?}", probed.mode);
        }
        probed.lives("a");
        assert_eq!(probed.herd.until("a", "bound")["pid"], before);
    });
}

#[test]
fn killing_every_process_it_can_ends_the_workers_own_session_only() {
    everywhere(|probed| {
        probed.lives("neighbour");
        let neighbour = probed.herd.until("neighbour", "bound")["pid"].clone();
        let all = call(libc::SYS_kill, &[json!(-1), json!(libc::SIGKILL)]);
        probed.ask("a", &all);
        probed.herd.until("a", "ended");
        probed.lives("neighbour");
        assert_eq!(probed.herd.until("neighbour", "bound")["pid"], neighbour);
    });
}

#[test]
fn a_program_begins_with_three_descriptors_and_none_leads_anywhere() {
    everywhere(|probed| {
        let found = probed.found("a", &json!({"descriptors": {}}));
        let found = found.as_object().unwrap();
        let numbers: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{found:?}");
        assert_eq!(found["0"], "/dev/null", "{found:?}");
        for number in ["1", "2"] {
            assert!(found[number].as_str().unwrap().starts_with("pipe:["), "{found:?}");
        }
    });
}

#[test]
fn nothing_of_herds_environment_reaches_a_worker() {
    everywhere(|probed| {
        let environment = probed.text("a", "/proc/self/environ");
        let mut names: Vec<&str> = environment
            .split_terminator('\0')
            .filter_map(|variable| Some(variable.split_once('=')?.0))
            .filter(|name| *name != "LANG")
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["HERD_TEST_TAG", "HOME", "PATH", "PORT"],
            "{environment:?}"
        );
        assert!(environment.contains("HOME=/home/worker\0"), "{environment:?}");
    });
}

#[test]
fn a_worker_has_no_privilege_and_is_nobody_special_on_the_host() {
    everywhere(|probed| {
        let status = probed.text("a", "/proc/self/status");
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_default().trim().to_owned()
        };
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("Uid"), "1000\t1000\t1000\t1000");
        assert_eq!(field("Gid"), "1000\t1000\t1000\t1000");
        // Those of whoever runs herd, where they could not be dropped, have no number inside.
        assert!(
            field("Groups")
                .split(' ')
                .all(|group| ["", "65534"].contains(&group)),
            "{status}"
        );

        probed.lives("b");
        let users = host_users(probed.herd.tag());
        let own = nix::unistd::geteuid().as_raw();
        match probed.mode {
            Mode::Own if own == 0 => assert!(users.iter().all(|uid| *uid >= 0x4000_0000), "{users:?}"),
            Mode::Unprivileged => assert_eq!(users, BTreeSet::from([crate::supervised::NOBODY])),
            Mode::Subordinate => assert!(users.iter().all(|uid| *uid >= 100_000), "{users:?}"),
            _ => assert!(!users.contains(&0), "{users:?}"),
        }
        // Without root's rights this test cannot see who the others are.
        if own == 0 && probed.mode != Mode::Unprivileged {
            assert_eq!(users.len(), 2, "each session has a user of its own: {users:?}");
        }
    });
}

/// As whom the probers run, on the host.
fn host_users(tag: &str) -> BTreeSet<u32> {
    leak::processes(tag)
        .iter()
        .filter_map(|process| process.strip_suffix(" probe"))
        .filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
            uid.split_whitespace().next()?.parse().ok()
        })
        .collect()
}

/// It holds whatever the mounts say, because `no_new_privs` is set; and no mount allows it either.
#[test]
fn a_setuid_program_gains_nothing() {
    for mode in Mode::sandboxed() {
        let dir = place();
        bundle(dir.path(), "bundle", |root| {
            let program = root.join("id");
            fs::copy(super::prober(), &program).unwrap();
            fs::set_permissions(program, fs::Permissions::from_mode(0o6755)).unwrap();
        });
        let settings = Settings {
            root: "bundle: DIR/bundle",
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        // The prober with a probe as its argument answers at once.
        let argv = ["/id", "once", "/proc/self/status"];
        let output = probed.found("a", &json!({"run": {"argv": argv}}));
        let status = output["out"].as_str().unwrap();
        assert!(
            status.contains("\nUid:\t1000\t1000\t1000\t1000\n"),
            "{mode:?}: {output}"
        );
        assert!(
            status.contains("\nGid:\t1000\t1000\t1000\t1000\n"),
            "{mode:?}: {output}"
        );
        // A device is no program, nor is what covers files of /proc.
        let mounts = probed.text("a", "/proc/self/mountinfo");
        let others = |line: &&str| !line.contains(" - devtmpfs ") && !line.contains(" /proc/");
        for line in mounts.lines().filter(others) {
            assert!(line.contains("nosuid"), "{mode:?}: {line}");
        }
    }
}

#[test]
fn herds_own_binary_cannot_be_opened_for_writing() {
    for mode in Mode::sandboxed() {
        let settings = Settings {
            // The runner is herd itself, in a file of its own inside.
            mounts: ", { source: DIR/herd-copy, target: /herd-copy }",
            ..Settings::default()
        };
        let dir = place();
        fs::copy(crate::running::HERD, dir.path().join("herd-copy")).unwrap();
        let probed = Probed::start_in(dir, mode, &settings);
        let write = |path: &str| open(path, libc::O_WRONLY);
        probed.refuses("a", &write("/herd-copy"), &[EROFS, EACCES]);
        probed.refuses("a", &write("/proc/self/exe"), &[EROFS, EACCES, ETXTBSY]);
        probed.refuses("a", &write("/proc/1/exe"), &[EACCES, EPERM]);
        let parent = probed.text("a", "/proc/self/stat");
        let parent = parent
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_owned();
        probed.refuses(
            "a",
            &write(&format!("/proc/{parent}/exe")),
            &[EROFS, EACCES, ETXTBSY],
        );
    }
}
