//! System call filters under a real kernel. What a profile says of every call is shown by the unit tests.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "support/skip.rs"]
mod skip;

/// `cargo test` builds it before any test runs; `cargo test --test seccomp` alone does not.
fn filtered(profile: &str) -> Command {
    let herd = Path::new(env!("CARGO_BIN_EXE_herd"));
    let built = herd.parent().unwrap().join("examples/filtered");
    assert!(
        built.exists(),
        "{} does not exist: run `cargo build --example filtered` first",
        built.display()
    );
    let mut command = Command::new(built);
    command.arg(profile);
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program is there")
}

fn stdout(command: &mut Command) -> String {
    let result = output(command);
    assert!(result.status.success(), "{result:?}");
    String::from_utf8(result.stdout).expect("UTF-8")
}

/// The errno of each probe, 0 for success.
fn probe(profile: &str) -> BTreeMap<String, i32> {
    stdout(filtered(profile).arg("probe"))
        .lines()
        .map(|line| line.rsplit_once(' ').expect("name and errno"))
        .map(|(name, errno)| (name.to_owned(), errno.parse().expect("a number")))
        .collect()
}

/// Probes that the filter lets through.
const LET_THROUGH: &[&str] = &[
    "personality 0",
    "socket unix",
    "socket inet",
    "socket inet6",
    "socket netlink",
    "socketpair unix",
    "socketpair inet",
    "ioctl tcgets",
    "ptrace",
    "process_vm_readv",
    "seccomp",
    "getpid",
];

fn refused_with(name: &str) -> i32 {
    match name {
        "clone3" | "younger than the profile" => libc::ENOSYS,
        name if name.starts_with("x32") => libc::ENOSYS,
        name if name.starts_with("socket") => libc::EAFNOSUPPORT,
        _ => libc::EPERM,
    }
}

#[test]
fn strict_refuses_with_exactly_the_errno_that_it_says() {
    let (bare, strict) = (probe("none"), probe("strict"));
    assert!(strict.len() > 65, "only {} probes", strict.len());
    let mut told_apart = 0;
    for (name, errno) in &strict {
        let without = bare[name];
        if LET_THROUGH.contains(&name.as_str()) {
            assert_eq!(*errno, without, "{name} is let through");
        } else {
            assert_eq!(*errno, refused_with(name), "{name}, {without} without a filter");
            told_apart += usize::from(*errno != without);
        }
    }
    // An unprivileged caller gets EPERM for many of them anyway, a container's filter answers for more, and a kernel may
    // lack some.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let least = match (
        nix::unistd::geteuid().is_root(),
        status.contains("\nSeccomp:\t0\n"),
    ) {
        (true, true) => 45,
        (false, true) => 20,
        (_, false) => 5,
    };
    assert!(
        told_apart >= least,
        "for only {told_apart} calls the filter made the difference: {bare:?}"
    );
}

#[test]
fn browser_lets_the_calls_of_chromiums_sandbox_through_and_no_more() {
    let (bare, strict, browser) = (probe("none"), probe("strict"), probe("browser"));
    let mut opened = Vec::new();
    for (name, errno) in &browser {
        if *errno != strict[name] {
            assert_eq!(*errno, bare[name], "{name}");
            opened.push(name.as_str());
        }
    }
    assert!(
        opened
            .iter()
            .all(|name| ["chroot", "clone newnet", "clone newuser", "setns", "unshare"].contains(name)),
        "{opened:?}"
    );
    assert!(
        opened.contains(&"unshare") && opened.contains(&"setns"),
        "{opened:?}"
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn another_instruction_set_kills() {
    let result = output(filtered("strict").arg("i386"));
    assert_eq!(result.status.signal(), Some(libc::SIGSYS), "{result:?}");
}

#[test]
fn ordinary_programs_run() {
    let python = "\
import concurrent.futures, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading
a, b = socket.socketpair()
threading.Thread(target=a.send, args=(b'hello',)).start()
assert b.recv(5) == b'hello'
server = socket.create_server(('127.0.0.1', 0))
socket.create_connection(server.getsockname()).close()
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
assert subprocess.run(['sh', '-c', 'echo $((6 * 7))'], capture_output=True).stdout == b'42\\n'
with tempfile.TemporaryDirectory() as d:
    sqlite3.connect(d + '/db').execute('create table t (x)')
print('fine')";
    let node = "\
const w = new (require('worker_threads').Worker)('1', {eval: true});
w.on('exit', () => require('http').createServer((q, s) => s.end('fine')).listen(0, '127.0.0.1', function () {
  require('http').get({port: this.address().port, host: '127.0.0.1'}, r => r.on('data', d => { console.log(String(d)); process.exit(0) }))
}));";
    for profile in ["strict", "browser"] {
        let shell = ["sh", "-c", "x=$(echo fi | cat); (sleep 0; echo ${x}ne) & wait"];
        for (program, arguments) in [
            ("sh", &shell[1..]),
            ("python3", &["-c", python]),
            ("node", &["-e", node]),
        ] {
            if Command::new(program).args(["-c", "0"]).output().is_err() {
                skip::skipped(&format!("no {program}"));
                continue;
            }
            let text = stdout(filtered(profile).args(["exec", program]).args(arguments));
            assert_eq!(text, "fine\n", "{program} under {profile}");
        }
    }
}

/// Chromium says so and dies if its namespaces are refused; this is its own sandbox at work, not `--no-sandbox`.
#[test]
fn chromium_starts_its_own_sandbox_under_browser_and_not_under_strict() {
    let Some(chromium) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })
    else {
        return skip::skipped("no Chromium");
    };
    if nix::unistd::geteuid().is_root() && !Path::new("/usr/bin/setpriv").exists() {
        return skip::skipped("Chromium keeps its sandbox only without root, and there is no setpriv");
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let program = copy_for_everyone(home.path());
    let start = |profile: &str| {
        let mut command = match nix::unistd::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                    .arg(&program);
                command
            }
            false => Command::new(&program),
        };
        command
            .args([
                profile,
                "exec",
                chromium,
                "--headless",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .arg(format!("--user-data-dir={}", home.path().join(profile).display()))
            .args([
                "--dump-dom",
                "data:text/html,<p id=x></p><script>x.textContent='it '+'runs'</script>",
            ])
            .env("HOME", home.path());
        output(&mut command)
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let browser = start("browser");
    assert!(
        text(&browser.stdout).contains("it runs"),
        "{}",
        text(&browser.stderr)
    );
    let strict = start("strict");
    assert!(
        !text(&strict.stdout).contains("it runs"),
        "Chromium did not use namespaces, so this shows nothing"
    );
}

/// Another user cannot reach into a developer's home.
fn copy_for_everyone(home: &Path) -> PathBuf {
    let copy = home.join("filtered");
    std::fs::copy(filtered("none").get_program(), &copy).unwrap();
    copy
}

#[test]
fn a_profile_of_ones_own_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profile.json");
    std::fs::write(
        &path,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42},
            {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 43}]}"#,
    )
    .unwrap();
    let own = probe(path.to_str().unwrap());
    assert_eq!((own["sethostname"], own["getpid"]), (42, 43));
}

/// Readers copy them.
#[test]
fn profiles_in_the_documentation_are_valid() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/seccomp.md")).unwrap();
    let blocks: Vec<_> = text
        .split("```json\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert!(!blocks.is_empty(), "saw no profile");
    for block in blocks {
        let profile = herd::sandbox::seccomp::Profile::parse(block, "docs/seccomp.md").unwrap();
        assert_eq!(profile.notes(), &[] as &[String]);
        profile.compile().unwrap();
    }
}

#[test]
fn loading_a_filter_is_fast_enough_for_every_start() {
    for profile in ["strict", "browser"] {
        let mut times: Vec<f64> = (0..50)
            .map(|_| {
                let text = stdout(filtered(profile).arg("time"));
                text.split(' ').next().unwrap().parse().unwrap()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let text = stdout(filtered(profile).arg("time"));
        let instructions = text.trim().rsplit(' ').next().unwrap();
        // Only shown: a shared machine proves nothing about time.
        println!(
            "{profile}: {instructions} instructions, p50 {} µs, p90 {} µs",
            times[25], times[45]
        );
    }
}
