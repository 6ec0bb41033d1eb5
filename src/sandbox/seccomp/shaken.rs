//! Random profiles, compared with a reading of the rules that has nothing to do with BPF; and damaged files.

use super::reference::{meant, run, strictness};
use super::*;

/// xorshift64*: enough to shake things, and the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Near the places where a 64-bit comparison made of 32-bit ones could go wrong.
    fn value(&mut self) -> u64 {
        let near: u64 = self.one(&[
            0,
            5,
            0x7FFF_FFFF,
            0xFFFF_FFFF,
            0x1_0000_0000,
            0x1_0000_0005,
            0x8000_0000_0000_0000,
        ]);
        near.wrapping_add(self.one(&[0, 0, 1, u64::MAX]))
    }

    fn action(&mut self) -> Action {
        let errno = Action::Errno(self.one(&[0, 1, 38, 4095]));
        self.one(&[
            Action::Allow,
            Action::Allow,
            Action::Log,
            errno,
            errno,
            Action::Trap,
            Action::KillThread,
        ])
    }

    fn rule(&mut self) -> Rule {
        let calls: Vec<_> = Arch::X86_64.calls().map(|(_, name)| name).collect();
        // Few names, so that rules meet.
        let names = [
            "read",
            "write",
            "openat",
            "ioctl",
            "no_such_call",
            self.one(&calls),
        ];
        let conditions = (0..self.one(&[0, 0, 1, 2, 3]))
            .map(|_| Condition {
                index: self.one(&[0, 1, 5]),
                op: self.one(&[
                    Op::Ne,
                    Op::Lt,
                    Op::Le,
                    Op::Eq,
                    Op::Ge,
                    Op::Gt,
                    Op::MaskedEq { mask: 0xFFFF_FFFF },
                    Op::MaskedEq { mask: 0x1_0000_0004 },
                ]),
                value: self.value(),
            })
            .collect();
        Rule {
            names: (0..=self.below(3)).map(|_| self.one(&names).to_owned()).collect(),
            action: self.action(),
            conditions,
            includes: When::default(),
            excludes: When::default(),
        }
    }
}

#[test]
fn programs_mean_what_the_rules_say() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut compared, mut conditional) = (0, 0);
    for _ in 0..300 {
        let profile = Profile {
            default: random.action(),
            rules: (0..random.below(8)).map(|_| random.rule()).collect(),
            flags: 0,
            notes: Vec::new(),
        };
        let filter = profile.compile_for(Arch::X86_64, (6, 1)).unwrap();
        let newest = Arch::X86_64
            .calls()
            .filter(|(_, name)| {
                profile
                    .rules
                    .iter()
                    .any(|rule| rule.names.iter().any(|named| named == name))
            })
            .map(|(number, _)| number)
            .last();
        for (number, name) in Arch::X86_64
            .calls()
            .filter(|(number, _)| *number < 20 || number % 16 == 1)
        {
            for _ in 0..4 {
                let arguments = [0; 6].map(|_: u64| random.value());
                let answer = run(&filter.program, Arch::X86_64.audit(), number, arguments);
                let unknown = newest.is_none_or(|newest| number > newest) && !profile.default.permits();
                let expected = match unknown {
                    true => Action::Errno(libc::ENOSYS as u16),
                    false => meant(&profile, Arch::X86_64, (6, 1), name, &arguments),
                };
                assert_eq!(
                    strictness(answer),
                    expected.strictness(),
                    "{name} {arguments:x?} of {profile:#?}"
                );
                compared += 1;
                conditional += usize::from(expected != meant(&profile, Arch::X86_64, (6, 1), name, &[7; 6]));
            }
        }
    }
    assert!(
        compared > 20_000 && conditional > 100,
        "{compared}, {conditional}"
    );
}

#[test]
fn damaged_files_are_refused_or_read_but_never_a_panic() {
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    let whole = include_str!("strict.json").as_bytes();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut bytes = whole.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = random.one(b"{}[]\",:0-9eEnulltruexS_ \n\\"),
                _ => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
            }
            bytes.push(b' ');
        }
        match Profile::parse(&String::from_utf8_lossy(&bytes), "p.json") {
            Ok(profile) => {
                read += 1;
                let _ = profile.compile_for(Arch::X86_64, (6, 1));
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("p.json:"), "{error}");
            }
        }
    }
    assert!(read > 20 && refused > 100, "{read} read, {refused} refused");
}
