//! A command in a sandbox has nothing that the worker's program has not. It is looked at from outside, so that nothing
//! of what is found is the sandbox's own word.

use std::fs;
use std::process::Child;

use super::Scene;
use crate::running::{poll, stderr, stdout};
use crate::supervised::Mode;

/// What of `/proc/PID/status` is about rights and limits.
const RIGHTS: [&str; 13] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "NStgid",
    "NSpid",
];
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// The one process of this name in the sandbox, by its number here.
fn pid(scene: &Scene, name: &str) -> i32 {
    let outside = fs::read_link("/proc/self/ns/pid").unwrap();
    poll(name, || {
        let found = scene.running(name);
        let numbers = found
            .iter()
            .filter_map(|process| process.split(' ').next()?.parse().ok());
        // The tag is in the environment of herd's own commands, too.
        let inside = |pid: &i32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns != outside);
        match numbers.filter(inside).collect::<Vec<i32>>()[..] {
            [pid] => Ok(pid),
            _ => Err(format!("{found:?}")),
        }
    })
}

fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {status}"))
        .trim()
        .to_owned()
}

fn end(mut client: Child) {
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn a_command_has_the_confinement_of_the_program() {
    for mode in Mode::sandboxed() {
        let scene = Scene::boxed(mode);
        let (what, program) = (&scene.what, pid(&scene, ".herd"));
        for arguments in [
            &["-i", "a", "--", "sleep", "1000"][..],
            &["-t", "a", "--", "sleep", "1000"],
        ] {
            let client = scene.begin(arguments);
            let command = pid(&scene, "sleep");
            for name in RIGHTS.iter().filter(|name| !name.starts_with("NS")) {
                assert_eq!(field(command, name), field(program, name), "{what}: {name}");
            }
            for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(command, name), "0000000000000000", "{what}: {name}");
            }
            assert_eq!(
                (field(command, "NoNewPrivs"), field(command, "Seccomp")),
                ("1".into(), "2".into())
            );
            let depth = |pid| field(pid, "NSpid").split_whitespace().count();
            assert_eq!(depth(command), depth(program), "{what}");
            for name in NAMESPACES {
                let of = |pid| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
                assert_eq!(of(command), of(program), "{what}: {name}");
                let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
                assert_ne!(of(command), own, "{what}: {name} is the host's");
            }
            let of = |pid, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            assert_eq!(of(command, "cgroup"), of(program, "cgroup"), "{what}");
            assert_eq!(of(command, "limits"), of(program, "limits"), "{what}");
            assert_eq!(of(command, "uid_map"), of(program, "uid_map"), "{what}");
            let root = |pid| fs::read_link(format!("/proc/{pid}/root")).unwrap();
            assert_eq!(root(command), root(program), "{what}");
            descriptors(&scene, command, arguments[0] == "-t");
            end(client);
            scene.until_running("sleep", 0);
        }
    }
}

/// Three, each a pipe, or all of them a terminal that the host's devpts does not have.
fn descriptors(scene: &Scene, command: i32, terminal: bool) {
    // What the program opens for itself while it begins, it closes again.
    let found = poll("the command has no more than three", || {
        let mut found: Vec<(i32, String)> = fs::read_dir(format!("/proc/{command}/fd"))
            .unwrap()
            .filter_map(|entry| {
                let entry = entry.unwrap();
                let target = fs::read_link(entry.path()).ok()?.display().to_string();
                Some((entry.file_name().to_str().unwrap().parse().unwrap(), target))
            })
            .collect();
        found.sort();
        let numbers: Vec<i32> = found.iter().map(|(number, _)| *number).collect();
        match numbers == [0, 1, 2] {
            true => Ok(found),
            false => Err(format!("{}: {found:?}", scene.what)),
        }
    });
    let right = |target: &String| match terminal {
        true => target.starts_with("/dev/pts/"),
        false => target.starts_with("pipe:["),
    };
    assert!(
        found.iter().all(|(_, target)| right(target)),
        "{}: {found:?}",
        scene.what
    );
    if terminal {
        use std::os::unix::fs::MetadataExt;
        let own = fs::metadata("/dev/pts").unwrap().dev();
        let theirs = fs::metadata(format!("/proc/{command}/fd/0")).unwrap().dev();
        assert_ne!(own, theirs, "{}: a terminal of the host", scene.what);
    }
}

#[test]
fn a_command_sees_and_reaches_what_the_program_does() {
    for mode in Mode::sandboxed() {
        let scene = Scene::boxed(mode);
        let what = &scene.what;
        let outside = scene.herd.pid();
        for (script, code) in [
            (
                "ls -A /root /srv /var/lib /home/worker 2>/dev/null | grep -q '^[^/]'",
                1,
            ),
            (&format!("kill -0 {outside}"), 1),
            ("cat /proc/1/environ", 1),
            ("ls -l /proc/1/fd/", 2),
            ("mount -t tmpfs none /tmp", 32),
            ("unshare -Ur true", 1),
            ("exec 3<>/dev/tcp/127.0.0.1/1", 1),
            ("cat /proc/1/comm | grep -qx herd-init", 0),
            ("touch /usr/here", 1),
            // It belongs to the user who writes there.
            ("echo to stdout > /dev/stdout && echo to stderr > /dev/stderr", 0),
        ] {
            let output = scene.exec(&["a", "--", "bash", "-c", script]);
            let told = format!("{what}: {script}: {}{}", stdout(&output), stderr(&output));
            assert_eq!(output.status.code(), Some(code), "{told}");
        }
        // Those of a namespace that a program made count as its sandbox's, so these do.
        let bomb = "for i in $(seq 600); do sleep 100 & done 2>/dev/null; jobs -p | wc -l";
        let mut client = scene.begin(&["a", "--", "bash", "-c", bomb]);
        let count = poll("the bomb has burnt out", || match client.try_wait().unwrap() {
            Some(_) => Ok(scene.running("sleep").len()),
            None => Err(format!("{} processes", scene.running("sleep").len())),
        });
        assert!((100..512).contains(&count), "{what}: {count}");
        scene.herd.herd(&["stop", "a"]);
        scene.until_running("sleep", 0);
    }
}

#[test]
fn no_file_leads_a_command_to_herds_own_binary() {
    for mode in Mode::sandboxed() {
        let scene = Scene::boxed(mode);
        let what = &scene.what;
        let make = "cd /tmp && ln -s /proc/self/exe link && printf '#!/proc/self/exe\\n' > script && \
                    printf '#!/tmp/script\\n' > chain && printf '#!/tmp/loop\\n' > loop && chmod +x script chain loop";
        scene.said(&["a", "--", "sh", "-c", make]);
        for path in [
            "/proc/self/exe",
            "/tmp/link",
            "/tmp/script",
            "/tmp/chain",
            "/proc/thread-self/exe",
        ] {
            let output = scene.exec(&["a", "--", path, "version"]);
            assert_eq!(
                output.status.code(),
                Some(126),
                "{what}: {path}: {}",
                stdout(&output)
            );
            let told = stderr(&output);
            assert!(
                told.contains("leads to herd's own binary, which no sandbox may run this way"),
                "{what}: {path}: {told}"
            );
        }
        let output = scene.exec(&["a", "--", "/tmp/loop"]);
        assert_eq!(output.status.code(), Some(126), "{what}: {}", stderr(&output));
    }
}

#[test]
fn a_script_runs_as_the_kernel_would_run_it() {
    for scene in Scene::both() {
        let make = "cd /tmp && d=$(mktemp -d) && cd $d && printf '#!/bin/sh -e\\necho $0 \"$@\"; false; echo not here\\n' > one && \
                    printf '#! %s/one an argument\\n' $d > two && printf 'echo no first line\\n' > three && chmod +x * && echo $d";
        let dir = scene.said(&["a", "--", "sh", "-c", make]);
        let dir = dir.trim();
        let path = |name: &str| format!("{dir}/{name}");
        let output = scene.exec(&["a", "--", &path("one"), "a", "b c"]);
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(1), format!("{dir}/one a b c\n")),
            "{}",
            scene.what
        );
        let output = scene.exec(&["a", "--", &path("two"), "x"]);
        assert_eq!(
            stdout(&output),
            format!("{dir}/one an argument {dir}/two x\n"),
            "{}",
            scene.what
        );
        let output = scene.exec(&["a", "--", &path("three")]);
        assert_eq!(output.status.code(), Some(126), "{}", scene.what);
        assert!(
            stderr(&output).contains("a script needs a first line such as #!/bin/sh"),
            "{}",
            stderr(&output)
        );
        // Found through PATH, too.
        let output = scene.exec(&["-e", &format!("PATH={dir}:/usr/bin:/bin"), "a", "--", "one"]);
        assert_eq!(stdout(&output), format!("{dir}/one\n"), "{}", scene.what);
        scene.said(&["a", "--", "rm", "-r", dir]);
    }
}
