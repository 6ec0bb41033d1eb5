//! The host's files, other sessions' files, and what a bundle's links could lead to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libc::{EACCES, ENOENT, EPERM, EROFS};
use serde_json::json;

use super::{Outcome, Probed, Settings, bundle, call, give, open, place, read, write};
use crate::supervised::Mode;

/// Both kinds of root, with every user.
fn everywhere(test: impl Fn(&Probed, &str)) {
    for mode in Mode::sandboxed() {
        for root in ["rootfs: host", "bundle: DIR/bundle"] {
            let dir = place();
            bundle(dir.path(), "bundle", |_| {});
            fs::write(dir.path().join("secret"), "secret").unwrap();
            let settings = Settings {
                root,
                ..Settings::default()
            };
            test(&Probed::start_in(dir, mode, &settings), root);
        }
    }
}

/// As services are often started: what herd makes for a sandbox would be closed to its user.
#[test]
fn a_sandbox_does_not_depend_on_the_umask_herd_was_started_with() {
    for mode in Mode::sandboxed() {
        let through = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
        let probed = Probed::start_through(&through, place(), mode, &Settings::default());
        probed.lives("a");
        let mask = probed.text("a", "/proc/self/status");
        assert!(mask.contains("Umask:\t0022\n"), "{mask}");
    }
}

#[test]
fn no_file_of_the_host_is_seen_that_is_not_shown() {
    everywhere(|probed, root| {
        let dir = probed.herd.dir.path();
        for path in [
            dir.join("secret"),
            dir.join("herd.yaml"),
            dir.join("state"),
            dir.join("run"),
            "/etc/shadow".into(),
            "/etc/sudoers".into(),
            "/etc/ssh".into(),
            "/etc/machine-id".into(),
            "/root".into(),
            "/root/.ssh".into(),
            "/home/herdtest".into(),
            "/var/lib".into(),
            "/var/run/docker.sock".into(),
            "/run/systemd".into(),
            "/run/user".into(),
            "/mnt".into(),
            "/srv".into(),
            "/boot".into(),
        ] {
            let path = path.display().to_string();
            probed.refuses("a", &open(&path, libc::O_RDONLY), &[ENOENT]);
        }
        assert_eq!(probed.names("a", "/home"), ["worker"]);
        assert_eq!(probed.names("a", "/run"), ["herd"]);
        assert_eq!(probed.names("a", "/tmp"), [""; 0]);
        let system = ["bin", "gnu", "lib", "lib32", "lib64", "nix", "opt", "sbin", "usr"];
        let own = ["dev", "etc", "home", "probe", "proc", "run", "sys", "tmp", "var"];
        let seen = probed.names("a", "/");
        let known = |name: &String| own.contains(&name.as_str()) || system.contains(&name.as_str());
        assert!(seen.iter().all(known), "{:?}, {root}: {seen:?}", probed.mode);
        let passwd = probed.text("a", "/etc/passwd");
        assert!(
            passwd.ends_with("worker:x:1000:1000:worker:/home/worker:/bin/sh\n"),
            "{passwd}"
        );
        assert!(
            passwd.lines().count() <= 3,
            "the host's users are not told: {passwd}"
        );
    });
}

#[test]
fn no_way_up_leads_out_of_the_root() {
    everywhere(|probed, _| {
        let secret = probed.herd.dir.path().join("secret");
        let up = format!("/{}{}", "../".repeat(40), secret.display());
        probed.refuses("a", &read(&up), &[ENOENT]);
        for root in [
            "/proc/self/root",
            "/proc/self/cwd/..",
            "/proc/self/fd/0/..",
            "/proc/1/root",
            "/dev/fd/0/..",
        ] {
            let path = format!("{root}{}", secret.display());
            let refused = [ENOENT, EACCES, EPERM, libc::ENOTDIR];
            probed.refuses("a", &read(&path), &refused);
        }
        // What lay below the root before it was entered is gone, not only covered.
        let table = probed.text("a", "/proc/self/mountinfo");
        assert!(!table.contains("/herd-test-"), "{table}");
        let first = table.lines().next().unwrap();
        assert_eq!(first.split(' ').nth(4), Some("/"), "{table}");
        assert_eq!(
            table
                .lines()
                .filter(|line| line.split(' ').nth(4) == Some("/"))
                .count(),
            1,
            "{table}"
        );
    });
}

#[test]
fn the_hosts_directories_are_read_only_in_every_way() {
    for mode in Mode::sandboxed() {
        let dir = place();
        fs::create_dir(dir.path().join("shown")).unwrap();
        fs::set_permissions(dir.path().join("shown"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.path().join("shown/file"), "unchanged").unwrap();
        fs::set_permissions(dir.path().join("shown/file"), fs::Permissions::from_mode(0o666)).unwrap();
        let settings = Settings {
            mounts: ", { source: DIR/shown, target: /shown }",
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        for directory in ["/usr", "/usr/lib", "/usr/bin", "/shown", "/sys/devices/system"] {
            probed.refuses("a", &write(&format!("{directory}/herd-test"), ""), &[EROFS]);
        }
        assert_eq!(probed.text("a", "/shown/file"), "unchanged");
        let file = || json!("/shown/file");
        let here = || json!(libc::AT_FDCWD);
        for (number, arguments) in [
            (libc::SYS_openat, vec![here(), file(), json!(libc::O_WRONLY)]),
            (libc::SYS_truncate, vec![file(), json!(9)]),
            (libc::SYS_fchmodat, vec![here(), file(), json!(0o666)]),
            (
                libc::SYS_fchownat,
                vec![here(), file(), json!(-1), json!(-1), json!(0)],
            ),
            (libc::SYS_utimensat, vec![here(), file(), json!(0), json!(0)]),
            (libc::SYS_unlinkat, vec![here(), file(), json!(0)]),
            (
                libc::SYS_linkat,
                vec![here(), file(), here(), json!("/shown/link"), json!(0)],
            ),
            (libc::SYS_mkdirat, vec![here(), json!("/shown/new"), json!(0o777)]),
            (
                libc::SYS_setxattr,
                vec![file(), json!("user.herd"), json!("x"), json!(1), json!(0)],
            ),
        ] {
            probed.refuses("a", &call(number, &arguments), &[EROFS]);
        }
        let away = [here(), file(), here(), json!("/tmp/link"), json!(0)];
        probed.refuses("a", &call(libc::SYS_linkat, &away), &[libc::EXDEV, EPERM]);
    }
}

#[test]
fn what_one_session_writes_no_other_sees_and_the_bundle_keeps_nothing() {
    everywhere(|probed, root| {
        let bundle = probed.herd.dir.path().join("bundle");
        let before = contents(&bundle);
        assert!(before.len() > 4, "{before:?}");
        for path in [
            "/tmp/x",
            "/var/tmp/x",
            "/home/worker/x",
            "/dev/shm/x",
            "/run/herd/x",
        ] {
            probed.found("a", &write(path, "mine"));
            assert_eq!(probed.text("a", path), "mine");
            probed.refuses("b", &read(path), &[ENOENT]);
        }
        // A new incarnation is a new sandbox.
        probed.client.stop("a").unwrap();
        probed.herd.until("a", "ended");
        probed.refuses("a", &read("/tmp/x"), &[ENOENT]);
        assert_eq!(contents(&bundle), before, "{:?}, {root}", probed.mode);
    });
}

/// Names, kinds, sizes, modes, owners and times of change.
fn contents(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, u32, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let about = (
            meta.mode(),
            meta.size(),
            meta.uid(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        found.insert(path, about);
    }
    found
}

/// Each is a bundle that would have herd write or mount outside of it: started, with everything inside, or
/// refused; in no case is anything outside touched.
#[test]
fn links_in_a_bundle_lead_neither_mounts_nor_files_outside() {
    for mode in Mode::sandboxed() {
        for (link, to) in [
            ("data", "/../../../DIR/outside"),
            ("data", "DIR/outside"),
            ("data", "../../outside"),
            ("data", "/proc/self/root/DIR/outside"),
            ("data", "/proc/1/root"),
            ("etc", "DIR/outside"),
            ("etc", "/../../etc"),
            ("etc", "/proc/self/fd"),
            ("etc", "../../outside"),
            ("tmp", "DIR/outside"),
            ("tmp", "../../outside"),
            ("run", "DIR/outside"),
            ("home", "../../outside"),
            ("var", "../../outside"),
            ("dev", "../../outside"),
            ("dev", "/proc/self/fd"),
            ("dev", "/etc"),
            ("sys", "../../outside"),
            ("sys", "/proc"),
            ("proc", "../../outside"),
            ("proc", "/etc"),
            ("proc", "/dev"),
        ] {
            let dir = place();
            let text = dir.path().display().to_string();
            let to = to.replace("/DIR", &text).replace("DIR", &text);
            let outside = dir.path().join("outside");
            fs::create_dir(&outside).unwrap();
            fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
            for name in ["passwd", "hosts", "resolv.conf"] {
                fs::write(outside.join(name), "the host's").unwrap();
            }
            fs::create_dir(dir.path().join("shown")).unwrap();
            bundle(dir.path(), "bundle", |root| {
                symlink(&to, root.join(link)).unwrap()
            });
            give(mode, &dir.path().join("bundle"));
            let before = contents(&outside);
            let bundled = contents(&dir.path().join("bundle"));
            let host = host_files();
            let settings = Settings {
                root: "bundle: DIR/bundle",
                mounts: ", { source: DIR/shown, target: /data }",
                ..Settings::default()
            };
            let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let herd = match Probed::try_start_in(dir, mode, &settings) {
                Ok(probed) => {
                    probed.found("a", &json!({"list": {"path": "/"}}));
                    probed.refuses("a", &read(&format!("{}/secret", outside.display())), &[ENOENT]);
                    probed.refuses(
                        "a",
                        &open("/proc/sys/kernel/core_pattern", libc::O_WRONLY),
                        &[EACCES, EROFS, ENOENT],
                    );
                    probed.refuses("a", &open("/proc/1/root", libc::O_RDONLY), &[EACCES, ENOENT]);
                    probed.refuses(
                        "a",
                        &open("/proc/sysrq-trigger", libc::O_WRONLY),
                        &[EACCES, EROFS, ENOENT],
                    );
                    probed.herd
                }
                Err(mut refused) => {
                    let said = refused.logged("\0");
                    assert!(
                        said.contains("no such sandbox can be made here"),
                        "{mode:?}: {link} -> {to}: {said}"
                    );
                    refused.wait();
                    *refused
                }
            };
            let case = format!("{mode:?}: {link} -> {to}");
            assert_eq!(contents(&outside), before, "{case}");
            assert_eq!(contents(&herd.dir.path().join("bundle")), bundled, "{case}");
            assert_eq!(host_files(), host, "{case}");
            let now = fs::read_to_string("/proc/self/mountinfo").unwrap();
            for line in now.lines().filter(|line| line.contains(&text)) {
                assert!(mounted.contains(line), "{case}: {line}");
            }
        }
    }
}

/// A session may write where the next one's sandbox is built: in a mount that both have.
#[test]
fn a_link_that_a_session_leaves_in_a_shared_mount_leads_the_next_ones_mounts_nowhere() {
    for mode in Mode::sandboxed() {
        let dir = place();
        let outside = dir.path().join("outside");
        for name in ["outside", "data", "data/sub", "shown"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("shown/mark"), "shown").unwrap();
        // Not root's: that is refused.
        let owner = mode
            .other_user()
            .unwrap_or(match nix::unistd::geteuid().is_root() {
                true => crate::supervised::NOBODY,
                false => nix::unistd::geteuid().as_raw(),
            });
        for name in ["data", "data/sub"] {
            std::os::unix::fs::chown(dir.path().join(name), Some(owner), Some(owner)).unwrap();
            // A subordinate user is not the owner.
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let (before, shown) = (contents(&outside), outside.display().to_string());
        let settings = Settings {
            mounts: ", { source: DIR/data, target: /data, mode: rw }, { source: DIR/shown, target: /data/sub }",
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        if let Outcome::NotAsked(answer) = probed.ask("a", &read("/data/sub/mark")) {
            assert!(
                answer.contains("does not support idmapped mounts"),
                "{mode:?}: {answer}"
            );
            crate::skip::skipped("the file system of the temporary directory has no idmapped mounts");
            continue;
        }
        probed.found("a", &write("/data/mine", "mine"));
        let data = probed.herd.dir.path().join("data");
        let writer = fs::metadata(data.join("mine")).unwrap().uid();
        match mode {
            Mode::Subordinate => assert_ne!(writer, owner),
            // The user of the test may have subordinate ids or not.
            Mode::Own if mode.is_unprivileged() => {}
            _ => assert_eq!(writer, owner, "{mode:?}"),
        }
        // What is mounted on cannot be moved from inside; its owner on the host can.
        let here = json!(libc::AT_FDCWD);
        let away = [
            here.clone(),
            json!("/data/sub"),
            here,
            json!("/data/away"),
            json!(0),
        ];
        let moved = probed.ask("a", &call(libc::SYS_renameat2, &away));
        assert_eq!(moved, Outcome::Refused(libc::EBUSY), "{mode:?}");
        fs::rename(data.join("sub"), data.join("away")).unwrap();
        symlink(&shown, data.join("sub")).unwrap();
        // The first may have been made before.
        for session in ["b", "c"] {
            match probed.ask(session, &json!({"list": {"path": "/data/sub"}})) {
                Outcome::Done(_) | Outcome::Refused(ENOENT) => {}
                Outcome::NotAsked(answer) => {
                    assert!(answer.contains("worker_start_failed"), "{mode:?}: {answer}");
                }
                other => panic!("{mode:?}: {other:?}"),
            }
        }
        assert_eq!(contents(&outside), before, "{mode:?}");
    }
}

/// What such a bundle would hit.
fn host_files() -> Vec<(i64, i64, u64)> {
    [
        "/etc",
        "/etc/passwd",
        "/etc/group",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/home",
        "/var",
    ]
    .iter()
    .filter_map(|path| fs::metadata(path).ok())
    .map(|meta| (meta.ctime(), meta.ctime_nsec(), meta.ino()))
    .collect()
}

#[test]
fn a_bundle_that_would_make_herd_wait_is_used_without_waiting() {
    for mode in Mode::sandboxed() {
        let dir = place();
        bundle(dir.path(), "bundle", |root| {
            fs::create_dir(root.join("etc")).unwrap();
            for name in ["etc/passwd", "etc/group", "etc/hosts"] {
                nix::unistd::mkfifo(&root.join(name), nix::sys::stat::Mode::from_bits_truncate(0o644))
                    .unwrap();
            }
        });
        let settings = Settings {
            root: "bundle: DIR/bundle",
            kind: "    start_timeout: 20s",
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        let begun = std::time::Instant::now();
        probed.lives("a");
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(probed.text("a", "/etc/passwd").contains("worker:x:1000:"));
    }
}

#[test]
fn a_program_may_come_from_a_mount_over_a_bundle_that_lacks_it() {
    for mode in Mode::sandboxed() {
        let dir = place();
        bundle(dir.path(), "bundle", |root| {
            fs::remove_file(root.join("probe")).unwrap()
        });
        let settings = Settings {
            root: "bundle: DIR/bundle",
            ..Settings::default()
        };
        Probed::start_in(dir, mode, &settings).lives("a");
    }
}

/// herd's binary is what `/proc/self/exe` means until the program runs (CVE-2019-5736).
#[test]
fn a_bundle_cannot_have_herds_own_binary_run_in_place_of_its_program() {
    for mode in Mode::sandboxed() {
        let dir = place();
        let fake = |root: &Path| {
            fs::create_dir_all(root.join("proc/self")).unwrap();
            fs::write(root.join("proc/self/exe"), "#!/bin/sh\n").unwrap();
            fs::set_permissions(root.join("proc/self/exe"), fs::Permissions::from_mode(0o755)).unwrap();
        };
        bundle(dir.path(), "script", |root| {
            fs::write(root.join("x"), "#!/proc/self/exe\n").unwrap();
            fs::set_permissions(root.join("x"), fs::Permissions::from_mode(0o755)).unwrap();
        });
        bundle(dir.path(), "nested", |root| {
            for (name, interpreter) in [("x", "/y"), ("y", "/z a"), ("z", " /proc/self/exe -x")] {
                fs::write(root.join(name), format!("#!{interpreter}\n")).unwrap();
                fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
        });
        bundle(dir.path(), "link", |root| {
            fake(root);
            symlink("/proc/self/exe", root.join("x")).unwrap();
        });
        bundle(dir.path(), "thread", |root| {
            fake(root);
            fs::create_dir_all(root.join("proc/thread-self")).unwrap();
            fs::copy(root.join("proc/self/exe"), root.join("proc/thread-self/exe")).unwrap();
            fs::write(root.join("x"), "#!/proc/thread-self/exe\n").unwrap();
            fs::set_permissions(root.join("x"), fs::Permissions::from_mode(0o755)).unwrap();
        });
        let names = ["script", "nested", "link", "thread"];
        let mut kinds = String::new();
        for name in names {
            kinds.push_str(&format!(
                "  {name}:\n    cmd: [/x, \"{{{{.Port}}}}\"]\n    env: {{ HERD_TEST_TAG: DIR }}\n    \
                 sandbox: {{ bundle: DIR/{name} }}\n"
            ));
        }
        let settings = Settings {
            kind: &kinds,
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        for name in names {
            let headers = format!("x-herd-worker: {name}\r\nconnection: close\r\n");
            let mut answer = String::new();
            let mut asked = probed.client.send(name, "GET /", &headers, "").unwrap();
            std::io::Read::read_to_string(&mut asked, &mut answer).unwrap();
            let refused = answer.contains("worker_start_failed")
                && answer.contains("leads to herd's own binary, which no sandbox may run this way");
            assert!(refused, "{mode:?}: {name}: {answer}");
        }
    }
}

/// The same by way of the program's loader. The kernel lets it through, but `/proc/self/exe` is the program then,
/// and herd's binary is nowhere to be opened.
#[test]
fn herds_own_binary_as_a_programs_loader_comes_to_nothing() {
    for mode in Mode::sandboxed() {
        let dir = place();
        bundle(dir.path(), "bundle", |root| {
            let mut program = fs::read(super::prober()).unwrap();
            let loader = program.windows(4).position(|bytes| bytes == b"/lib").unwrap();
            let end = loader + program[loader..].iter().position(|byte| *byte == 0).unwrap();
            program[loader..end].fill(0);
            let own = b"/proc/self/exe";
            program[loader..loader + own.len()].copy_from_slice(own);
            fs::write(root.join("x"), program).unwrap();
            fs::set_permissions(root.join("x"), fs::Permissions::from_mode(0o755)).unwrap();
        });
        let settings = Settings {
            kind: "  loader:\n    cmd: [/x, \"{{.Port}}\"]\n    env: { HERD_TEST_TAG: DIR }\n    start_timeout: 20s\n    \
                   sandbox: { bundle: DIR/bundle }\n",
            ..Settings::default()
        };
        let probed = Probed::start_in(dir, mode, &settings);
        let headers = "x-herd-worker: loader\r\nconnection: close\r\n";
        let mut answer = String::new();
        let mut asked = probed.client.send("a", "GET /", headers, "").unwrap();
        std::io::Read::read_to_string(&mut asked, &mut answer).unwrap();
        assert!(answer.contains("worker_start_failed"), "{mode:?}: {answer}");
    }
}
