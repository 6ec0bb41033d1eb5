//! What profiles mean and what programs do, each read off in the plainest way; for comparison with the compiler.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test is told"
)]

use super::{Action, Arch, Condition, Op, Profile};

/// Runs a program as the kernel would, with the instructions that herd's programs have.
pub(super) fn run(program: &[libc::sock_filter], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::from(number.to_ne_bytes());
    data.extend(audit.to_ne_bytes());
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = program[at];
        let (code, k) = (u32::from(instruction.code), instruction.k);
        at += 1;
        let holds = match code & !libc::BPF_K {
            c if c == libc::BPF_RET => return k,
            c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                let from = k as usize;
                accumulator = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                continue;
            }
            c if c == libc::BPF_ALU | libc::BPF_AND => {
                accumulator &= k;
                continue;
            }
            c if c == libc::BPF_JMP | libc::BPF_JA => {
                at += k as usize;
                continue;
            }
            c if c == libc::BPF_JMP | libc::BPF_JEQ => accumulator == k,
            c if c == libc::BPF_JMP | libc::BPF_JGE => accumulator >= k,
            c if c == libc::BPF_JMP | libc::BPF_JGT => accumulator > k,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds { instruction.jt } else { instruction.jf });
    }
}

fn holds(condition: &Condition, arguments: &[u64; 6]) -> bool {
    let (argument, value) = (arguments[usize::from(condition.index)], condition.value);
    match condition.op {
        Op::Ne => argument != value,
        Op::Lt => argument < value,
        Op::Le => argument <= value,
        Op::Eq => argument == value,
        Op::Ge => argument >= value,
        Op::Gt => argument > value,
        Op::MaskedEq { mask } => argument & mask == value & mask,
    }
}

/// The documented meaning: the strictness of the answer, which rules of equal strictness share.
pub(super) fn meant(
    profile: &Profile,
    arch: Arch,
    kernel: (u32, u32),
    name: &str,
    arguments: &[u64; 6],
) -> Action {
    let about = profile
        .rules
        .iter()
        .filter(|rule| rule.applies(arch, kernel) && rule.names.iter().any(|named| named == name));
    let matching = about.filter(|rule| {
        let twice = |index| rule.conditions.iter().filter(|c| c.index == index).count() > 1;
        match rule.conditions.iter().any(|c| twice(c.index)) {
            true => rule
                .conditions
                .iter()
                .any(|condition| holds(condition, arguments)),
            false => rule
                .conditions
                .iter()
                .all(|condition| holds(condition, arguments)),
        }
    });
    matching
        .map(|rule| rule.action)
        .max_by_key(|action| action.strictness())
        .unwrap_or(profile.default)
}

/// How strict an answer of the kernel is.
pub(super) fn strictness(answer: u32) -> u8 {
    match answer & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW => 0,
        libc::SECCOMP_RET_LOG => 1,
        libc::SECCOMP_RET_ERRNO => 2,
        libc::SECCOMP_RET_TRAP => 3,
        libc::SECCOMP_RET_KILL_THREAD => 4,
        libc::SECCOMP_RET_KILL_PROCESS => 5,
        other => panic!("{other:#x}"),
    }
}
