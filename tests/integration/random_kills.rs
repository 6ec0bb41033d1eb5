//! herd, its launcher, keepers and workers are killed at random moments of their lives, many times; nothing may
//! survive. Once the process tree alone, once a whole herd with clients, once with sandboxes. See [`random::rounds`] for how to replay.

use std::collections::BTreeSet;
use std::io::Result;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::client::Client;
use crate::leak;
use crate::random::{self, Random};
use crate::running::{Running, poll};
use crate::supervised::{Mode, Supervised};

#[test]
fn nothing_survives_random_kills_of_the_tree() {
    random::rounds("kills_of_the_tree", 200, tree_round);
}

#[test]
fn nothing_survives_random_kills_of_a_herd_that_serves() {
    random::rounds("kills_of_a_herd", 100, herd_round);
}

#[test]
fn nothing_survives_random_kills_of_a_herd_with_sandboxes() {
    random::rounds("kills_of_a_herd_with_sandboxes", 40, sandbox_round);
}

fn tree_round(mut random: Random) {
    let mode = *random.one_of(&Mode::all());
    let mut herd = Supervised::start(mode);
    let workers = 1 + random.below(4);
    for worker in 0..workers {
        // Grandchildren that left the session, deaf to everything polite, made all the time.
        let script = "trap '' TERM HUP INT; setsid sh -c 'setsid sleep 1000 & sleep 1000' & \
                      while :; do setsid sleep 0.01 & sleep 0.005; done";
        herd.start_worker(worker, json!({"cmd": ["sh", "-c", script]}));
    }
    for _ in 0..random.below(3) {
        random.pause();
        match random.below(3) {
            0 => herd.kill_worker(random.below(workers)),
            1 => kill_any(&mut random, mode, &herd.scope.tag, &[herd.pid(), herd.launcher]),
            _ => herd.say(json!({"terminate": {"worker": random.below(workers)}})),
        }
    }
    random.pause();
    if random.below(3) == 0 {
        let _ = kill(Pid::from_raw(herd.launcher), Signal::SIGKILL);
        random.pause();
    }
    herd.kill_and_assert_nothing_survives();
}

/// One process of the herd that is not spared: keepers, inits, workers, orphans; each kind as often as another.
///
/// Without namespaces a killed keeper's tree is the launcher's to kill, which the end of the round may forestall:
/// that is the documented limit of the weak guard.
fn kill_any(random: &mut Random, mode: Mode, tag: &str, spared: &[i32]) {
    let processes = leak::processes(tag);
    let mut victims: Vec<(&str, i32)> = processes
        .iter()
        .filter(|process| !mode.is_weak() || !process.contains("herd-"))
        .filter_map(|process| process.split_once(' '))
        .filter_map(|(pid, name)| Some((name, pid.parse().ok()?)))
        .filter(|(_, pid)| !spared.contains(pid))
        .collect();
    let names: BTreeSet<&str> = victims.iter().map(|(name, _)| *name).collect();
    if !names.is_empty() {
        let name = *random.one_of(&Vec::from_iter(names));
        victims.retain(|(of, _)| *of == name);
        signal(random.one_of(&victims).1, Signal::SIGKILL);
    }
}

/// It may be dead already.
fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// How a round with a whole herd ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    /// herd has to notice, and to end by itself.
    LauncherKilled,
    KilledWhileItDrains,
    Polite,
}

impl End {
    fn any(random: &mut Random) -> Self {
        *random.one_of(&[
            End::Killed,
            End::LauncherKilled,
            End::KilledWhileItDrains,
            End::Polite,
        ])
    }
}

fn herd_round(mut random: Random) {
    let mode = *random.one_of(&Mode::all());
    let keys = *random.one_of(&["min: 0\n    ttl: 20ms", "min: 2\n    ttl: 20ms"]);
    let end = End::any(&mut random);
    let starts = random.below(4) == 0;
    eprintln!("{mode:?}, {keys:?}, {end:?}, starts: {starts}");
    let herd = Running::launch(tempfile::tempdir().unwrap(), mode, keys);
    serve_and_end(random, herd, mode, end, starts);
    // Dropping it asserts that nothing survives.
}

/// The shorter a session lives, the more sandboxes are being made and killed at any moment.
fn sandbox_round(mut random: Random) {
    let mode = *random.one_of(&Mode::sandboxed());
    let min = *random.one_of(&[0, 2]);
    let end = End::any(&mut random);
    let starts = random.below(4) == 0;
    let mut root = *random.one_of(&[
        "rootfs: host",
        "bundle: DIR/bundle, mounts: [{ source: /usr, target: /usr }]",
    ]);
    let dir = tempfile::tempdir().unwrap();
    if !bundle_of_the_host(&dir.path().join("bundle")) {
        root = "rootfs: host";
    }
    let limits = match mode.is_unprivileged() {
        true => "pids: 64",
        false => "pids: 64, memory: 256M, cpus: 2",
    };
    eprintln!("{mode:?}, min: {min}, {root}, {end:?}, starts: {starts}");
    let yaml = format!(
        "network: {{ data_bind: 127.0.0.1:0 }}\nworkers:\n  runner:\n    \
         cmd: [herd, runner, --listen, \"{{{{.Port}}}}\"]\n    health_path: /healthz\n    \
         env: {{ HERD_TEST_TAG: DIR }}\n    min: {min}\n    max: 3\n    ttl: 20ms\n    \
         sandbox: {{ {root}, {limits}, tmpfs: 8M }}\n"
    );
    let yaml = yaml.replace("DIR", &dir.path().display().to_string());
    let herd = Running::launch_with(dir, mode, &yaml);
    let (herd, namespaces) = serve_and_end(random, herd, mode, end, starts);
    poll("no namespace is left", || {
        match leak::namespaces_kept(&namespaces) {
            kept if kept.is_empty() => Ok(()),
            kept => Err(format!("{kept:?}")),
        }
    });
    herd.assert_the_next_sweeps(mode);
    let names: BTreeSet<String> = names(herd.dir.path());
    let known = ["bundle", "herd", "herd.yaml", "run", "state"].map(str::to_owned);
    assert!(names.is_subset(&known.into()), "{names:?}");
    assert!(
        names_below(&herd.dir.path().join("bundle")).len() <= 5,
        "the bundle keeps what a worker wrote"
    );
}

/// A bundle that has its programs from a mount of the host's; not where /usr does not hold them all.
fn bundle_of_the_host(bundle: &Path) -> bool {
    let root = bundle.join("rootfs");
    std::fs::create_dir_all(&root).unwrap();
    for name in ["bin", "lib", "lib64"] {
        match std::fs::read_link(Path::new("/").join(name)) {
            Ok(target) => std::os::unix::fs::symlink(target, root.join(name)).unwrap(),
            Err(_) => return false,
        }
    }
    let config = r#"{"ociVersion": "1.0.2", "root": {"path": "rootfs"}}"#;
    std::fs::write(bundle.join("config.json"), config).unwrap();
    true
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn names_below(dir: &Path) -> BTreeSet<String> {
    names(dir).union(&names(&dir.join("rootfs"))).cloned().collect()
}

/// The namespaces are those that were seen meanwhile.
fn serve_and_end(
    mut random: Random,
    mut herd: Running,
    mode: Mode,
    end: End,
    starts: bool,
) -> (Running, BTreeSet<String>) {
    let mut namespaces = BTreeSet::new();
    if !starts {
        herd = herd.ready();
    }
    std::thread::scope(|scope| {
        for _ in 0..1 + random.below(3) {
            let (random, herd) = (random.fork(), &herd);
            scope.spawn(move || {
                if let Some(client) = Client::of(herd) {
                    // It comes and goes until there is no herd any more.
                    let _ = come_and_go(random, &client);
                }
            });
        }
        for _ in 0..random.below(4) {
            random.pause();
            let spared = [herd.pid(), launcher(&herd).unwrap_or_default()];
            namespaces.extend(leak::namespaces_held(herd.tag()));
            kill_any(&mut random, mode, herd.tag(), &spared);
        }
        random.pause();
        match end {
            End::Killed => signal(herd.pid(), Signal::SIGKILL),
            End::LauncherKilled => {
                if let Some(launcher) = launcher(&herd) {
                    signal(launcher, Signal::SIGKILL);
                }
                // One that dies before it has said that it stands makes herd try another guard.
                if starts {
                    random.pause();
                    signal(herd.pid(), Signal::SIGKILL);
                }
            }
            End::KilledWhileItDrains => {
                signal(herd.pid(), Signal::SIGTERM);
                random.pause();
                signal(herd.pid(), Signal::SIGKILL);
            }
            End::Polite => {
                signal(herd.pid(), Signal::SIGTERM);
                random.pause();
                signal(herd.pid(), Signal::SIGINT);
            }
        }
    });
    let status = herd.wait();
    if matches!(end, End::Polite) && !starts {
        herd.assert_clean(status);
    }
    (herd, namespaces)
}

fn launcher(herd: &Running) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", herd.pid())).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Error: herd does not answer any more.
fn come_and_go(mut random: Random, client: &Client) -> Result<()> {
    let orphans = r#"{"cmd": ["sh", "-c", "trap '' TERM HUP; setsid sh -c 'setsid sleep 1000 & sleep 1000' & sleep 1000"]}"#;
    loop {
        let id = format!("s{}", random.below(4));
        match random.below(6) {
            0 => drop(client.ask(&id, "GET /", "")?),
            1 => {
                let _running = client.send(&id, "POST /v1/run", "", orphans)?;
                random.pause();
            }
            2 => {
                let _running = client.send(
                    &id,
                    "POST /v1/run",
                    "",
                    r#"{"cmd": ["sh", "-c", "kill -9 $PPID"]}"#,
                )?;
                random.pause();
            }
            // A refusal is an answer too: the next moment may be another's.
            3 => {
                let _socket = client.websocket(&id);
                random.pause();
            }
            4 => {
                let _hold = client.hold(&id);
                random.pause();
            }
            _ => drop(client.stop(&id)?),
        }
    }
}
