//! Chance that can be replayed.

use std::time::Duration;

/// Runs that many rounds, each with a seed of its own that it prints. `HERD_FUZZ_SEED` replays one round,
/// `HERD_FUZZ_ROUNDS` sets how many there are.
pub(crate) fn rounds(test: &str, usual: u64, mut round: impl FnMut(Random)) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    let seeds = match number("HERD_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = u64::from(std::process::id()) << 20;
            first..first + number("HERD_FUZZ_ROUNDS").unwrap_or(usual)
        }
    };
    assert!(!seeds.is_empty(), "HERD_FUZZ_ROUNDS=0 tests nothing");
    for seed in seeds {
        // The harness shows it with the failure, and with no success.
        eprintln!("HERD_FUZZ_SEED={seed} cargo test --test integration {test}");
        round(Random::seeded(seed));
    }
}

/// SplitMix64: enough to choose by, and the same everywhere.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// Another source, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// The random moment itself, not a wait for something: often none at all, at most 30 ms.
    pub(crate) fn pause(&mut self) {
        let micros = self.below(30_000);
        if self.below(4) > 0 {
            std::thread::sleep(Duration::from_micros(micros));
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
