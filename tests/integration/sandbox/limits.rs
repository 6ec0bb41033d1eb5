//! Taking all there is of something: contained, while the neighbour and herd go on.

use libc::{EAGAIN, ENOSPC, EPERM};
use serde_json::json;

use super::{Outcome, Probed, Settings, call};
use crate::running::stdout;
use crate::supervised::Mode;

const MEBIBYTE: u64 = 1 << 20;

fn everywhere(sandbox: &str, test: impl Fn(&Probed)) {
    for mode in Mode::sandboxed() {
        let settings = Settings {
            sandbox,
            ..Settings::default()
        };
        let probed = Probed::start(mode, &settings);
        probed.lives("neighbour");
        let neighbour = probed.herd.until("neighbour", "bound")["pid"].clone();
        let before = resident(probed.herd.pid());
        test(&probed);
        probed.lives("neighbour");
        assert_eq!(probed.herd.until("neighbour", "bound")["pid"], neighbour);
        let after = resident(probed.herd.pid());
        assert!(
            after < before + 16 * MEBIBYTE,
            "herd grew from {before} to {after} bytes"
        );
    }
}

fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_fork_bomb_ends_at_the_limit_and_takes_nothing_from_the_neighbour() {
    everywhere(", pids: 64", |probed| {
        let bomb = json!({"fork": {"count": 400}});
        let made = probed.found("a", &bomb);
        assert_eq!(made["refusal"], EAGAIN, "{:?}: {made}", probed.mode);
        let count = made["made"].as_u64().unwrap();
        assert!((40..64).contains(&count), "{:?}: {made}", probed.mode);
        // The neighbour has as many for itself, and so has this one, again.
        assert_eq!(
            probed.found("neighbour", &json!({"fork": {"count": 30}}))["made"],
            30
        );
        assert_eq!(probed.found("a", &json!({"fork": {"count": 30}}))["made"], 30);
    });
}

#[test]
fn the_limit_of_processes_cannot_be_raised_again() {
    everywhere(", pids: 64", |probed| {
        let unlimited = json!(vec![255_u8; 16]);
        for resource in [libc::RLIMIT_NPROC, libc::RLIMIT_CORE] {
            let raise = call(
                libc::SYS_prlimit64,
                &[json!(0), json!(resource), unlimited.clone(), json!(0)],
            );
            probed.refuses("a", &raise, &[EPERM]);
        }
        let limits = probed.text("a", "/proc/self/limits");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(
            core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
            ["0", "0"],
            "{core}"
        );
    });
}

/// Where the memory of processes cannot be limited, herd does not start: see `mistakes.rs`.
#[test]
fn a_memory_bomb_dies_by_its_limit_and_the_reason_says_so() {
    if nix::unistd::geteuid().is_root() {
        let settings = Settings {
            sandbox: ", memory: 64M",
            ..Settings::default()
        };
        let probed = Probed::start(Mode::Own, &settings);
        probed.lives("neighbour");
        let neighbour = probed.herd.until("neighbour", "bound")["pid"].clone();
        let before = resident(probed.herd.pid());
        match probed.ask("a", &json!({"allocate": {"mebibytes": 256}})) {
            Outcome::NotAsked(answer) => assert!(answer.contains("worker_crashed"), "{answer}"),
            other => panic!("{other:?}"),
        }
        let ended = probed.herd.until("a", "ended");
        let detail = ended["detail"].as_str().unwrap();
        assert!(
            detail.contains("it ran out of memory (sandbox.memory)"),
            "{ended}"
        );
        probed.lives("neighbour");
        assert_eq!(probed.herd.until("neighbour", "bound")["pid"], neighbour);
        let after = resident(probed.herd.pid());
        assert!(
            after < before + 16 * MEBIBYTE,
            "herd grew from {before} to {after} bytes"
        );
    }
}

/// Files in memory are memory.
#[test]
fn files_count_against_the_limit_of_memory() {
    if nix::unistd::geteuid().is_root() {
        let settings = Settings {
            sandbox: ", memory: 32M, tmpfs: 256M",
            ..Settings::default()
        };
        let probed = Probed::start(Mode::Own, &settings);
        let outcome = probed.ask(
            "a",
            &json!({"fill": {"path": "/tmp/full", "bytes": 128 * MEBIBYTE}}),
        );
        let held = matches!(&outcome, Outcome::NotAsked(_));
        assert!(held, "128 MiB of files fit into 32 MiB: {outcome:?}");
    }
}

#[test]
fn the_writable_layer_is_full_at_its_size() {
    everywhere(", tmpfs: 8M", |probed| {
        for path in ["/tmp/full", "/home/worker/full", "/dev/shm/full", "/var/tmp/full"] {
            let filled = probed.found("a", &json!({"fill": {"path": path, "bytes": 16 * MEBIBYTE}}));
            assert_eq!(filled["refusal"], ENOSPC, "{:?}: {path}: {filled}", probed.mode);
            let bytes = filled["made"].as_u64().unwrap();
            assert!((4 * MEBIBYTE..=8 * MEBIBYTE).contains(&bytes), "{path}: {filled}");
        }
        probed.lives("a");
    });
}

#[test]
fn the_writable_layer_takes_only_so_many_files() {
    everywhere(", tmpfs: 8M", |probed| {
        for directory in ["/tmp", "/dev/shm"] {
            let files = json!({"files": {"directory": directory, "count": 5000}});
            let made = probed.found("a", &files);
            assert_eq!(made["refusal"], ENOSPC, "{:?}: {directory}: {made}", probed.mode);
            assert!(
                (1000..=2048).contains(&made["made"].as_u64().unwrap()),
                "{directory}: {made}"
            );
        }
        probed.lives("a");
    });
}

/// The only other file system it may be able to write to.
#[test]
fn the_devices_directory_holds_next_to_nothing() {
    everywhere("", |probed| {
        match probed.ask(
            "a",
            &json!({"fill": {"path": "/dev/full-of-it", "bytes": MEBIBYTE}}),
        ) {
            Outcome::Done(filled) => {
                assert_eq!(filled["refusal"], ENOSPC, "{filled}");
                assert!(filled["made"].as_u64().unwrap() <= 64 << 10, "{filled}");
            }
            outcome => assert_eq!(outcome, Outcome::Refused(libc::EACCES), "{:?}", probed.mode),
        }
    });
}

#[test]
fn a_flood_of_output_is_kept_within_the_ring_and_the_session_goes_on() {
    for mode in Mode::sandboxed() {
        let settings = Settings {
            kind: "    log_buffer: 64K",
            ..Settings::default()
        };
        let probed = Probed::start(mode, &settings);
        probed.lives("neighbour");
        let line = "x".repeat(1000);
        let said = probed.found("a", &json!({"say": {"line": line, "times": 30_000}}));
        assert_eq!(said, 30_000);
        probed.lives("a");
        probed.lives("neighbour");
        let kept = stdout(&probed.herd.herd(&["logs", "a"])).len();
        assert!((1000..=80 << 10).contains(&kept), "{mode:?}: {kept} bytes");
        assert!(resident(probed.herd.pid()) < 200 * MEBIBYTE);
    }
}
