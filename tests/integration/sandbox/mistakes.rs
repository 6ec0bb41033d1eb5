//! What cannot work is refused before anything runs: which file, line and key, why, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CONFIG, bundle};
use crate::leak::{Scope, Snapshot};
use crate::running::{start_command_as, stderr};
use crate::supervised::Mode;

/// `sandbox` is the kind's; `DIR` in it, in `cmd` and in what is expected is the test's directory.
struct Mistake<'a> {
    sandbox: &'a str,
    cmd: &'a str,
    expected: &'a str,
}

impl Mistake<'_> {
    fn is_refused(&self, mode: Mode, prepare: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().display().to_string();
        prepare(dir.path());
        let yaml = format!(
            "network: {{ data_bind: 127.0.0.1:0 }}\nworkers:\n  good:\n    cmd: [cat]\n    sandbox: host\n  \
             bad:\n    cmd: [{}]\n    env: {{ HERD_TEST_TAG: DIR, P: \"{{{{.Port}}}}\" }}\n    sandbox: {}\n",
            self.cmd, self.sandbox
        );
        fs::write(dir.path().join("herd.yaml"), yaml.replace("DIR", &text)).unwrap();
        #[expect(clippy::reversed_empty_ranges, reason = "none is meant")]
        let scope = Scope {
            tag: text.clone(),
            state_dir: dir.path().join("state"),
            ports: 1..=0,
        };
        let before = Snapshot::take(&scope);
        let output = start_command_as(mode, dir.path(), "state").output().unwrap();
        let said = stderr(&output);
        let expected = format!("workers.bad.sandbox{}", self.expected.replace("DIR", &text));
        let place = said.split_once(": workers.bad").map_or("", |(place, _)| place);
        assert!(
            place.starts_with(&format!("herd: {text}/herd.yaml:9:")) && said.contains(&expected),
            "{mode:?}: expected\n{expected}\nin line 9 in\n{said}"
        );
        assert_eq!(output.status.code(), Some(1), "{mode:?}: {said}");
        Snapshot::assert_nothing_added(&before, &scope);
        assert!(
            !dir.path().join("run").exists() && !dir.path().join("state").exists(),
            "{mode:?}"
        );
    }

    fn is_refused_everywhere(&self, prepare: impl Fn(&Path)) {
        for mode in Mode::sandboxed() {
            self.is_refused(mode, &prepare);
        }
    }
}

fn of(sandbox: &'static str, expected: &'static str) -> Mistake<'static> {
    Mistake {
        sandbox,
        cmd: "/probe",
        expected,
    }
}

const BUNDLE: &str = "{ bundle: DIR/b }";

fn executable(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_bundle_that_is_not_there_or_none_is_named() {
    of(
        BUNDLE,
        ".bundle: DIR/b does not exist; make the bundle with `herd bundle`, or correct the path",
    )
    .is_refused_everywhere(|_| {});
    of(
        BUNDLE,
        ".bundle: DIR/b is not a directory; a bundle is a directory with config.json and rootfs",
    )
    .is_refused_everywhere(|dir| fs::write(dir.join("b"), "").unwrap());
    of(
        BUNDLE,
        ".bundle: DIR/b has no config.json, so it is not a bundle; `herd bundle build` makes one of a recipe",
    )
    .is_refused_everywhere(|dir| fs::create_dir(dir.join("b")).unwrap());
}

#[test]
fn a_configuration_that_is_damaged_or_too_new_is_named() {
    let config = |dir: &Path, text: &str| {
        bundle(dir, "b", |_| {});
        fs::write(dir.join("b/config.json"), text).unwrap();
    };
    of(
        BUNDLE,
        ".bundle: DIR/b/config.json is not a valid config.json: EOF while parsing a value at line 1 column 24",
    )
    .is_refused_everywhere(|dir| config(dir, r#"{"ociVersion": "1.0.2", "#));
    of(
        BUNDLE,
        ".bundle: DIR/b/config.json: ociVersion \"2.0.0\" is not 1.x, the only one herd understands",
    )
    .is_refused_everywhere(|dir| config(dir, &CONFIG.replace("1.0.2", "2.0.0")));
    of(
        BUNDLE,
        ".bundle: DIR/b/config.json: has no `root`, so there is no root filesystem",
    )
    .is_refused_everywhere(|dir| config(dir, r#"{"ociVersion": "1.0.2"}"#));
    of(
        BUNDLE,
        ".bundle: DIR/b/config.json: the root filesystem DIR/b/none does not exist",
    )
    .is_refused_everywhere(|dir| config(dir, &CONFIG.replace(r#""rootfs""#, r#""none""#)));
}

#[test]
fn a_program_that_the_bundle_cannot_run_is_named() {
    of(BUNDLE, ".bundle: \"/probe\" is not in DIR/b/rootfs").is_refused_everywhere(|dir| {
        bundle(dir, "b", |root| fs::remove_file(root.join("probe")).unwrap());
    });
    of(
        BUNDLE,
        ".bundle: \"/probe\" in DIR/b/rootfs is not an executable file",
    )
    .is_refused_everywhere(|dir| {
        bundle(dir, "b", |root| {
            let not = fs::Permissions::from_mode(0o644);
            fs::set_permissions(root.join("probe"), not).unwrap();
        });
    });
    let by_name = Mistake {
        sandbox: BUNDLE,
        cmd: "probe",
        expected: ".bundle: \"probe\" is not in DIR/b/rootfs (PATH there is /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)",
    };
    by_name.is_refused_everywhere(|dir| {
        bundle(dir, "b", |_| {});
    });
    // It is there, but only for whoever looks for it outside.
    of(BUNDLE, ".bundle: \"/probe\" is not in DIR/b/rootfs").is_refused_everywhere(|dir| {
        bundle(dir, "b", |root| {
            fs::remove_file(root.join("probe")).unwrap();
            std::os::unix::fs::symlink("/usr/bin/env", root.join("probe")).unwrap();
        });
    });
    let foreign = format!(
        ".bundle: \"/probe\" in DIR/b/rootfs is for s390x, and this machine is {}",
        std::env::consts::ARCH
    );
    let foreign = Mistake {
        sandbox: BUNDLE,
        cmd: "/probe",
        expected: &foreign,
    };
    foreign.is_refused_everywhere(|dir| {
        bundle(dir, "b", |root| {
            let mut header = fs::read(super::prober()).unwrap();
            header.truncate(4096);
            // System V ABI: big-endian, EM_S390.
            header[5] = 2;
            header[18..20].copy_from_slice(&[0, 22]);
            executable(&root.join("probe"), &header);
        });
    });
}

#[test]
fn a_bundle_that_may_not_be_read_is_named() {
    let unreadable = of(BUNDLE, ".bundle: DIR/b/config.json: no permission to read it");
    for mode in Mode::sandboxed()
        .into_iter()
        .filter(|mode| mode.is_unprivileged())
    {
        unreadable.is_refused(mode, |dir| {
            bundle(dir, "b", |_| {});
            fs::set_permissions(dir.join("b/config.json"), fs::Permissions::from_mode(0o000)).unwrap();
        });
    }
}

#[test]
fn a_profile_that_is_wrong_is_named() {
    for (text, what) in [
        ("{", "1:1: EOF while parsing an object"),
        ("", "1:0: EOF while parsing a value"),
    ] {
        let expected = format!(".profile: DIR/p.json:{what}");
        let mistake = Mistake {
            sandbox: "{ rootfs: host, profile: DIR/p.json }",
            cmd: "/probe",
            expected: &expected,
        };
        mistake.is_refused_everywhere(|dir| fs::write(dir.join("p.json"), text).unwrap());
    }
    of("{ rootfs: host, profile: DIR/p.json }", ".profile: ").is_refused_everywhere(|_| {});
}

#[test]
fn a_mount_that_cannot_be_is_named() {
    of(
        "{ rootfs: host, mounts: [{ source: DIR/none, target: /data }] }",
        ".mounts: DIR/none cannot be mounted: No such file or directory (os error 2); write a directory or file that \
         exists, or remove the mount",
    )
    .is_refused_everywhere(|_| {});
    if nix::unistd::geteuid().is_root() {
        of(
            "{ rootfs: host, mounts: [{ source: DIR/roots, target: /data, mode: rw }] }",
            ".mounts: DIR/roots belongs to root, and what a worker writes there would too; give it to another user \
             (chown), or write mode: ro",
        )
        .is_refused(Mode::Own, |dir| fs::create_dir(dir.join("roots")).unwrap());
    }
}

#[test]
fn a_limit_that_cannot_be_kept_is_named() {
    let modes = Mode::sandboxed()
        .into_iter()
        .filter(|mode| mode.is_unprivileged());
    for mode in modes {
        let memory = of("{ rootfs: host, memory: 64M }", ".memory: ");
        memory.is_refused(mode, |_| {});
        let cpus = of("{ rootfs: host, cpus: 1 }", ".cpus: ");
        cpus.is_refused(mode, |_| {});
    }
}

#[test]
fn a_host_that_cannot_make_sandboxes_is_told_at_the_start() {
    let filtered = Path::new(crate::running::HERD)
        .parent()
        .unwrap()
        .join("examples/filtered");
    assert!(filtered.exists(), "first run `cargo build --example filtered`");
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("p.json");
    let rule = r#"{"names": ["pivot_root"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}"#;
    fs::write(
        &profile,
        format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#),
    )
    .unwrap();
    let kind = "workers:\n  bad:\n    cmd: [cat, \"{{.Port}}\"]\n    sandbox: host\n";
    fs::write(
        dir.path().join("herd.yaml"),
        format!("network: {{ data_bind: 127.0.0.1:0 }}\n{kind}"),
    )
    .unwrap();
    let command = start_command_as(Mode::Own, dir.path(), "state");
    let mut through = std::process::Command::new(filtered);
    through
        .arg(&profile)
        .arg("exec")
        .arg(command.get_program())
        .args(command.get_args());
    #[expect(clippy::reversed_empty_ranges, reason = "none is meant")]
    let scope = Scope {
        tag: dir.path().display().to_string(),
        state_dir: dir.path().join("state"),
        ports: 1..=0,
    };
    let before = Snapshot::take(&scope);
    let output = through.env("HERD_TEST_TAG", dir.path()).output().unwrap();
    let said = stderr(&output);
    assert!(
        said.contains("herd.yaml:5:14: workers.bad.sandbox: no such sandbox can be made here: ")
            && said.contains("`herd doctor`"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1), "{said}");
    Snapshot::assert_nothing_added(&before, &scope);
}
