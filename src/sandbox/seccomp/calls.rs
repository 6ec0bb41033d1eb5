//! The names and numbers of system calls.
//!
//! The tables are the kernel's own (`syscall_64.tbl` for x86_64, `asm-generic/unistd.h` for aarch64), up to
//! Linux 6.17. Each line gives a number, then the names of that call and of those right after it.

/// A machine whose system calls herd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The machine this program was built for, if herd has its table.
    pub const HERE: Option<Self> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some(Self::X86_64)
    } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// What the kernel calls it in `seccomp_data.arch` (`AUDIT_ARCH_*` in linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    /// Its name in a profile's `includes.arches` and `excludes.arches`.
    pub(super) fn docker(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The other instruction sets that this machine runs, as profiles name them.
    pub(super) fn others(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            Self::Aarch64 => &["SCMP_ARCH_ARM"],
        }
    }

    /// All calls, in the order of their numbers.
    pub(super) fn calls(self) -> impl Iterator<Item = (u32, &'static str)> {
        let table = match self {
            Self::X86_64 => include_str!("calls/x86_64.txt"),
            Self::Aarch64 => include_str!("calls/aarch64.txt"),
        };
        table.lines().flat_map(|line| {
            let (first, names) = line.split_once(' ').unwrap_or((line, ""));
            let first = first.parse().unwrap_or(u32::MAX);
            (first..).zip(names.split(' '))
        })
    }
}

/// Whether some machine has a call of that name.
pub(super) fn is_known(name: &str) -> bool {
    [Arch::X86_64, Arch::Aarch64]
        .into_iter()
        .any(|arch| arch.calls().any(|(_, known)| known == name))
}

/// Every architecture that a profile may name (libseccomp's `SCMP_ARCH_*`).
pub(super) const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn tables_are_whole_and_in_order() {
        for (arch, count) in [(Arch::X86_64, 382), (Arch::Aarch64, 325)] {
            let calls: Vec<_> = arch.calls().collect();
            assert!(calls.is_sorted_by(|a, b| a.0 < b.0), "{arch:?}");
            assert_eq!(calls.last(), Some(&(469, "file_setattr")), "{arch:?}");
            let by_name: HashMap<_, _> = calls.iter().map(|(number, name)| (name, number)).collect();
            assert_eq!((by_name.len(), calls.len()), (count, count), "{arch:?}");
        }
    }

    /// The C library's constants are an independent copy of the kernel's.
    #[test]
    fn numbers_agree_with_the_c_library() {
        let here: HashMap<_, _> = Arch::HERE
            .expect("tests run where herd does")
            .calls()
            .map(|(number, name)| (name, i64::from(number)))
            .collect();
        for (name, number) in [
            ("read", libc::SYS_read),
            ("ioctl", libc::SYS_ioctl),
            ("clone", libc::SYS_clone),
            ("socket", libc::SYS_socket),
            ("mount", libc::SYS_mount),
            ("keyctl", libc::SYS_keyctl),
            ("newfstatat", libc::SYS_newfstatat),
            ("statx", libc::SYS_statx),
            ("clone3", libc::SYS_clone3),
            ("futex_waitv", libc::SYS_futex_waitv),
            ("mseal", libc::SYS_mseal),
        ] {
            assert_eq!(here.get(name), Some(&number), "{name}");
        }
    }
}
