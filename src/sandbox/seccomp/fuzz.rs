//! Profiles from any text; compiled ones do what they mean.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a fuzzer is told"
)]

use std::collections::BTreeSet;

use super::reference::{meant, run, strictness};
use super::{Action, Arch, CompileError, Profile};

const KERNEL: (u32, u32) = (6, 1);
const X32_BIT: u32 = 0x4000_0000;
/// Comparing is quadratic in what the profile says; more rules show nothing that these do not.
const CALLS_MAX: usize = 24;

pub fn seccomp(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let profile = match Profile::parse(text, "p.json") {
        Ok(profile) => profile,
        Err(error) => {
            assert!(error.to_string().starts_with("p.json:"), "{error}");
            return;
        }
    };
    for arch in [Arch::X86_64, Arch::Aarch64] {
        match profile.compile_for(arch, KERNEL) {
            Ok(filter) => compare(&profile, arch, &filter.program),
            Err(CompileError::TooLong(instructions)) => assert!(instructions > 4096),
            Err(error) => panic!("{error}"),
        }
    }
}

fn compare(profile: &Profile, arch: Arch, program: &[libc::sock_filter]) {
    let named: Vec<(u32, &str)> = arch
        .calls()
        .filter(|(_, name)| {
            profile
                .rules
                .iter()
                .any(|rule| rule.names.iter().any(|named| named == name))
        })
        .collect();
    let newest = named.iter().map(|(number, _)| *number).max();
    let values: BTreeSet<u64> = profile
        .rules
        .iter()
        .flat_map(|rule| &rule.conditions)
        .take(8)
        .flat_map(|condition| {
            [
                condition.value.wrapping_sub(1),
                condition.value,
                condition.value.wrapping_add(1),
            ]
        })
        .chain([0, u64::MAX, 1 << 32])
        .collect();
    let calls = named
        .iter()
        .copied()
        .take(CALLS_MAX)
        .chain([(0, arch.calls().next().unwrap().1)]);
    for (number, name) in calls {
        for value in &values {
            for index in 0..6 {
                let mut arguments = [0; 6];
                arguments[index] = *value;
                for arguments in [arguments, [*value; 6]] {
                    let answer = run(program, arch.audit(), number, arguments);
                    let unknown = newest.is_none_or(|newest| number > newest) && !profile.default.permits();
                    let meant = match unknown {
                        true => Action::Errno(libc::ENOSYS as u16),
                        false => meant(profile, arch, KERNEL, name, &arguments),
                    };
                    assert_eq!(
                        strictness(answer),
                        meant.strictness(),
                        "{name} {arguments:x?} of {profile:#?}"
                    );
                }
            }
        }
    }
    let foreign = run(program, arch.audit() ^ 1, 0, [0; 6]);
    assert_eq!(
        strictness(foreign),
        Action::KillProcess.strictness(),
        "another machine's calls pass"
    );
    if arch == Arch::X86_64 {
        let x32 = run(program, arch.audit(), X32_BIT, [0; 6]);
        assert_eq!(x32, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, "x32 is open");
    }
}
