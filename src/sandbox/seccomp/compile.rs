//! From rules to a program for the kernel.
//!
//! A program is classic BPF, run at every system call: it may jump forwards only, and sees the architecture, the
//! call's number and its arguments. It is laid out as
//!
//! ```text
//! another architecture?  kill: its numbers mean other calls, and i386's socketcall(2) hides a family in memory
//! load the number
//! number >= n?           a binary search over ranges of numbers with the same answer
//!   ...
//! leaf                   one answer, or a chain of conditions, each followed by its answer
//! ```
//!
//! `seccompiler` makes the code of the conditions, where a 64-bit comparison takes two loads; its search over the
//! numbers is linear and knows one answer besides the default, which is why the search is herd's. Depth matters
//! little to a running worker, because the kernel (from 5.11 on) remembers for which numbers a filter always says
//! yes; it finds out by walking the program for every number when the filter is loaded, on the way of every start.

use std::collections::{BTreeMap, HashMap};

use libc::sock_filter;
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::calls::Arch;
use super::{Action, CompileError, Condition, Op, Profile};

/// The longest program the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// x86_64's other ABI, x32, has this bit in its numbers.
const X32_BIT: u32 = 0x4000_0000;

/// Where `seccomp_data` has the number and the architecture.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The program, for `arch` under a kernel of that version.
pub(super) fn compile(
    profile: &Profile,
    arch: Arch,
    kernel: (u32, u32),
) -> Result<Vec<sock_filter>, CompileError> {
    let leaves = leaves(profile, arch, kernel)
        .into_iter()
        .map(|(first, answer)| Ok((first, answer.code()?)))
        .collect::<Result<Vec<_>, CompileError>>()?;
    let mut program = vec![
        load(ARCHITECTURE),
        jump(libc::BPF_JEQ, arch.audit(), 1, 0),
        answer(Action::KillProcess),
        load(NUMBER),
    ];
    program.extend(search(&leaves));
    match program.len() {
        0..=LONGEST => Ok(program),
        len => Err(CompileError::TooLong(len)),
    }
}

/// What happens to one call.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer<'a> {
    /// The strictest first; each holds where all its conditions do.
    ways: Vec<(Vec<&'a Condition>, Action)>,
    /// What holds where no way does; the profile's default if nothing is said.
    otherwise: Option<Action>,
}

impl<'a> Answer<'a> {
    fn always(action: Action) -> Self {
        Self {
            ways: Vec::new(),
            otherwise: Some(action),
        }
    }

    fn add(&mut self, action: Action, conditions: &'a [Condition]) {
        let repeats = |condition: &Condition| {
            let same = |other: &&Condition| other.index == condition.index;
            conditions.iter().filter(same).count() > 1
        };
        if conditions.is_empty() {
            let stricter = self
                .otherwise
                .is_none_or(|said| action.strictness() > said.strictness());
            self.otherwise = if stricter { Some(action) } else { self.otherwise };
        } else if conditions.iter().any(repeats) {
            // Not the obvious reading, but Docker's: with two conditions on one argument, each is a rule by itself.
            self.ways
                .extend(conditions.iter().map(|condition| (vec![condition], action)));
        } else {
            self.ways.push((conditions.iter().collect(), action));
        }
    }

    /// Where several rules match, the strictest holds, as it does between several filters (seccomp(2)).
    fn settle(&mut self, default: Action) {
        if let Some(said) = self.otherwise {
            self.ways
                .retain(|(_, action)| action.strictness() > said.strictness());
        }
        self.ways
            .sort_by_key(|(_, action)| std::cmp::Reverse(action.strictness()));
        self.otherwise.get_or_insert(default);
    }

    fn code(self) -> Result<Vec<sock_filter>, CompileError> {
        let mut code = Vec::new();
        for (conditions, action) in self.ways {
            let conditions = conditions
                .into_iter()
                .map(condition)
                .collect::<Result<_, _>>()
                .map_err(CompileError::Condition)?;
            // Falls through to what follows if all conditions hold, and jumps over one instruction if not.
            let rule: BpfProgram = SeccompRule::new(conditions)
                .map_err(CompileError::Condition)?
                .into();
            code.extend(rule.into_iter().map(|i| sock_filter {
                code: i.code,
                jt: i.jt,
                jf: i.jf,
                k: i.k,
            }));
            code.push(answer(action));
        }
        code.extend(self.otherwise.map(answer));
        Ok(code)
    }
}

/// Every number's answer: ranges by their first number, in order, the first of them 0.
fn leaves(profile: &Profile, arch: Arch, kernel: (u32, u32)) -> Vec<(u32, Answer<'_>)> {
    let numbers: HashMap<&str, u32> = arch.calls().map(|(number, name)| (name, number)).collect();
    let mut calls: BTreeMap<u32, Answer<'_>> = BTreeMap::new();
    let mut newest = None;
    for rule in &profile.rules {
        // A name that this architecture does not have cannot be called; profiles serve several architectures.
        for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            newest = newest.max(Some(*number));
            if rule.applies(arch, kernel) {
                calls
                    .entry(*number)
                    .or_default()
                    .add(rule.action, &rule.conditions);
            }
        }
    }
    let mut leaves: Vec<(u32, Answer<'_>)> = Vec::new();
    let mut push = |first, answer| {
        if leaves.last().is_none_or(|(_, last)| *last != answer) {
            leaves.push((first, answer));
        }
    };
    let end = newest.map_or(0, |newest| newest + 1);
    for number in 0..end {
        let mut answer = calls.remove(&number).unwrap_or_default();
        answer.settle(profile.default);
        push(number, answer);
    }
    // Calls younger than the profile: its author did not forbid them, so programs that ask for one should hear that
    // there is none and do without, instead of taking EPERM for an answer.
    let absent = Action::Errno(libc::ENOSYS as u16);
    let unknown = if profile.default.permits() {
        profile.default
    } else {
        absent
    };
    push(end, Answer::always(unknown));
    if arch == Arch::X86_64 {
        // The same calls under other numbers, and some of them take arguments differently.
        push(X32_BIT, Answer::always(absent));
    }
    leaves
}

/// Finds the leaf of the number that is loaded.
fn search(leaves: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let [(middle, _), ..] = high else {
        return Vec::new();
    };
    if low.is_empty() {
        return high[0].1.clone();
    }
    let (low, high) = (search(low), search(high));
    let mut code = match u8::try_from(low.len()) {
        Ok(over) => vec![jump(libc::BPF_JGE, *middle, over, 0)],
        // A conditional jump reaches 255 instructions, an unconditional one any number.
        Err(_) => vec![
            jump(libc::BPF_JGE, *middle, 0, 1),
            jump(libc::BPF_JA, low.len() as u32, 0, 0),
        ],
    };
    code.extend(low);
    code.extend(high);
    code
}

fn condition(condition: &Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    let op = match condition.op {
        Op::Ne => SeccompCmpOp::Ne,
        Op::Lt => SeccompCmpOp::Lt,
        Op::Le => SeccompCmpOp::Le,
        Op::Eq => SeccompCmpOp::Eq,
        Op::Ge => SeccompCmpOp::Ge,
        Op::Gt => SeccompCmpOp::Gt,
        Op::MaskedEq { mask } => SeccompCmpOp::MaskedEq(mask),
    };
    SeccompCondition::new(condition.index, SeccompCmpArgLen::Qword, op, condition.value)
}

fn answer(action: Action) -> sock_filter {
    let value = match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
    };
    instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0)
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn jump(comparison: u32, value: u32, if_so: u8, if_not: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, value, if_so, if_not)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // An opcode has eight bits.
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}
