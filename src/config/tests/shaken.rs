//! Random damage to good files: whatever comes out, it is a configuration or problems with places.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::load::parse_bytes;
use super::*;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap_or(0)
    }
}

const FULL: &str = "network: {data_bind: \"[::1]:9\", trusted_proxies: [10.0.0.0/8]}\nsession:\n  aliases: [X-A, X-B]\n\
                    defaults: &d\n  ttl: 5m\n  env: {A: 1, B: \"{{.Dir}}\"}\nworkers:\n  a:\n    cmd: [x, \"{{.Socket}}\"]\n    \
                    routes:\n      - host: a.b\n      - {path_prefix: /a}\n    queue: {max: 1}\n    log_buffer: 1M\n    sandbox: {rootfs: host, cpus: 1.5, mounts: [{source: a, target: /a}]}\n  b:\n    \
                    cmd:\n      - |\n        text\n      - >-\n        folded\n";

const TOKENS: [&[u8]; 30] = [
    b": ",
    b"\n",
    b"- ",
    b"  ",
    b"\t",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"'",
    b"&a ",
    b"*a",
    b"!!str ",
    b"!x ",
    b"? ",
    b"|\n",
    b"---\n",
    b"...\n",
    b"%YAML 1.2\n",
    b"#",
    b"<<: ",
    b"{{",
    b"}}",
    b"\xff",
    b"\xc3\xa4",
    b"\0",
    b"~",
    b"99999999999999999999",
    b"\r",
];

fn damage(text: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        let end = (at + random.below(12)).min(bytes.len());
        match random.below(4) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
            2 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(random.below(256)).unwrap_or(0);
                }
            }
        }
    }
    bytes
}

fn check(bytes: &[u8]) {
    let Err(problems) = parse_bytes(bytes, "herd.yaml") else {
        return;
    };
    assert!(!problems.list.is_empty(), "refused without a problem");
    assert!(
        problems.list.is_sorted_by_key(|p| (p.line, p.column)),
        "problems in the order of the file"
    );
    let lines = super::super::yaml::lines(&String::from_utf8_lossy(bytes)).len();
    for problem in &problems.list {
        assert!(
            (1..=lines).contains(&problem.line),
            "line {} of {lines}",
            problem.line
        );
        assert!(problem.column >= 1, "columns count from 1");
        assert!(!problem.message.is_empty(), "a problem says something");
    }
    assert!(problems.to_string().starts_with("herd.yaml:"), "{problems}");
}

#[test]
fn damaged_files_never_panic() {
    for seed in 0..6_000 {
        let mut random = Random(seed);
        let bytes = damage([ISSUE, FULL][random.below(2)], &mut random);
        if catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err() {
            panic!("seed {seed} fails with {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn noise_never_panics() {
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let length = random.below(60);
        let mut bytes = Vec::new();
        for _ in 0..length {
            match random.below(3) {
                0 => bytes.push(u8::try_from(random.below(256)).unwrap_or(0)),
                _ => bytes.extend_from_slice(TOKENS[random.below(TOKENS.len())]),
            }
        }
        if catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err() {
            panic!("seed {seed} fails with {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn the_whole_example_is_valid_before_it_is_damaged() {
    assert_eq!(good(FULL).kinds.len(), 2);
}
