//! Kills herd, its launcher, a keeper or a worker at a random moment of start, life and end, many times; nothing
//! may survive. `HERD_FUZZ_SEED` replays one round, `HERD_FUZZ_ROUNDS` sets how many there are.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::leak;
use crate::supervised::{Mode, Supervised};

const ROUNDS: u64 = 200;

#[test]
fn nothing_survives_random_kills() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    if let Some(seed) = number("HERD_FUZZ_SEED") {
        return round(seed);
    }
    let first = u64::from(std::process::id()) << 20;
    let rounds = number("HERD_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    eprintln!("seeds {first}..{}", first + rounds);
    for seed in first..first + rounds {
        round(seed);
    }
}

fn round(seed: u64) {
    let mut random = Random(seed);
    let modes = Mode::all();
    let mode = modes[random.below(modes.len() as u64) as usize];
    eprintln!("HERD_FUZZ_SEED={seed} {mode:?}");
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
            1 => {
                // Any process of the herd but the two that the end is about: keepers, workers, orphans. Without
                // namespaces a killed keeper's tree is the launcher's to kill, which the end below may forestall:
                // that is the documented limit of the weak guard.
                let spared = if mode.is_weak() { "herd-" } else { "no such name" };
                let (own, launcher) = (herd.pid(), herd.launcher);
                let victims: Vec<i32> = leak::processes(&herd.scope.tag)
                    .iter()
                    .filter(|p| !p.contains(spared))
                    .filter_map(|p| p.split(' ').next()?.parse().ok())
                    .filter(|pid| *pid != own && *pid != launcher)
                    .collect();
                if !victims.is_empty() {
                    let _ = kill(
                        Pid::from_raw(victims[random.below(victims.len() as u64) as usize]),
                        Signal::SIGKILL,
                    );
                }
            }
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

/// SplitMix64: enough to choose by, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// The random moment itself, not a wait for something: often none at all, at most 30 ms.
    fn pause(&mut self) {
        let micros = self.below(30_000);
        if self.below(4) > 0 {
            std::thread::sleep(Duration::from_micros(micros));
        }
    }
}
