//! Puts itself under a system call filter and shows what that means, for tests.
//!
//! ```text
//! filtered PROFILE probe             one line `name errno` for each call below, 0 for success
//! filtered PROFILE time              how long loading took, microseconds
//! filtered PROFILE i386              makes a system call of another instruction set
//! filtered PROFILE exec PROGRAM...   becomes PROGRAM
//! ```
//!
//! PROFILE is `none`, `strict`, `browser` or a file. It is a program of its own because a filter is for good, and
//! because it holds for one thread only.
//!
//! Every probe can only fail, or do nothing that outlives this process, should no filter hold it: not a descriptor, an
//! unreadable address, a flag that does not exist.

#![allow(clippy::print_stdout, reason = "what it prints is its result")]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use herd::sandbox::seccomp::Profile;

/// Not a descriptor, and more flags than any call has.
const BAD: i64 = -1;

type Probe = (&'static str, i64, [i64; 5]);

const PROBES: &[Probe] = &[
    ("mount", libc::SYS_mount, [1, 1, 1, 0, 0]),
    ("umount2", libc::SYS_umount2, [1, BAD, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [1, 1, 0, 0, 0]),
    ("chroot", libc::SYS_chroot, [1, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [BAD, 1, BAD, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [BAD, 1, BAD, 1, BAD]),
    ("fsopen", libc::SYS_fsopen, [1, BAD, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [BAD, BAD, 0, 0, 0]),
    ("fsconfig", libc::SYS_fsconfig, [BAD, 99, 0, 0, 0]),
    ("fspick", libc::SYS_fspick, [BAD, 1, BAD, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [BAD, 1, BAD, 1, 0]),
    ("unshare", libc::SYS_unshare, [BAD, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [BAD, 0, 0, 0, 0]),
    (
        "clone newuser",
        libc::SYS_clone,
        [libc::CLONE_NEWUSER as i64 | libc::CLONE_THREAD as i64, 0, 0, 0, 0],
    ),
    (
        "clone newnet",
        libc::SYS_clone,
        [libc::CLONE_NEWNET as i64 | libc::CLONE_THREAD as i64, 0, 0, 0, 0],
    ),
    ("clone3", libc::SYS_clone3, [1, 1, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [BAD, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [1, 1, 1, BAD, 0]),
    ("request_key", libc::SYS_request_key, [1, 1, 1, 0, 0]),
    ("bpf", libc::SYS_bpf, [BAD, 0, 0, 0, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, [BAD, 0, 0, 0, 0]),
    (
        "perf_event_open",
        libc::SYS_perf_event_open,
        [1, BAD, BAD, BAD, BAD],
    ),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0, 1, 0, 0, 0]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [BAD, 0, 0, BAD, 0]),
    (
        "io_uring_register",
        libc::SYS_io_uring_register,
        [BAD, 0, 0, 0, 0],
    ),
    ("init_module", libc::SYS_init_module, [1, 0, 1, 0, 0]),
    ("finit_module", libc::SYS_finit_module, [BAD, 1, BAD, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [1, 0, 0, 0, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, BAD, 0]),
    (
        "kexec_file_load",
        libc::SYS_kexec_file_load,
        [BAD, BAD, 0, 1, BAD],
    ),
    (
        "open_by_handle_at",
        libc::SYS_open_by_handle_at,
        [BAD, 1, 0, 0, 0],
    ),
    ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
    ("swapon", libc::SYS_swapon, [1, 0, 0, 0, 0]),
    ("swapoff", libc::SYS_swapoff, [1, 0, 0, 0, 0]),
    ("acct", libc::SYS_acct, [1, 0, 0, 0, 0]),
    ("clock_settime", libc::SYS_clock_settime, [99, 1, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [1, BAD, 0, 0, 0]),
    ("setdomainname", libc::SYS_setdomainname, [1, BAD, 0, 0, 0]),
    ("syslog", libc::SYS_syslog, [BAD, 0, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [BAD, 1, 0, 1, 0]),
    ("fanotify_init", libc::SYS_fanotify_init, [BAD, BAD, 0, 0, 0]),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [BAD, BAD, BAD, 0, 0]),
    (
        "process_madvise",
        libc::SYS_process_madvise,
        [BAD, 1, 1, BAD, BAD],
    ),
    ("kcmp", libc::SYS_kcmp, [0, 0, 99, 0, 0]),
    ("move_pages", libc::SYS_move_pages, [BAD, 1, 1, 1, 1]),
    ("mbind", libc::SYS_mbind, [1, 1, 99, 0, 0]),
    ("set_mempolicy", libc::SYS_set_mempolicy, [99, 0, 0, 0, 0]),
    ("personality", libc::SYS_personality, [0x0040_0000, 0, 0, 0, 0]),
    ("personality 0", libc::SYS_personality, [0, 0, 0, 0, 0]),
    ("socket unix", libc::SYS_socket, [1, 1, 0, 0, 0]),
    ("socket inet", libc::SYS_socket, [2, 2, 0, 0, 0]),
    ("socket inet6", libc::SYS_socket, [10, 2, 0, 0, 0]),
    ("socket netlink", libc::SYS_socket, [16, 3, 0, 0, 0]),
    ("socket packet", libc::SYS_socket, [17, 3, 0, 0, 0]),
    ("socket alg", libc::SYS_socket, [38, 5, 0, 0, 0]),
    ("socket vsock", libc::SYS_socket, [40, 1, 0, 0, 0]),
    (
        "socket vsock disguised",
        libc::SYS_socket,
        [0x1_0000_0028, 1, 0, 0, 0],
    ),
    ("socketpair unix", libc::SYS_socketpair, [1, 1, 0, 1, 0]),
    ("socketpair inet", libc::SYS_socketpair, [2, 1, 0, 1, 0]),
    ("socketpair tipc", libc::SYS_socketpair, [30, 1, 0, 1, 0]),
    ("ioctl tiocsti", libc::SYS_ioctl, [BAD, 0x5412, 0, 0, 0]),
    (
        "ioctl tiocsti disguised",
        libc::SYS_ioctl,
        [BAD, 0x1_0000_5412, 0, 0, 0],
    ),
    ("ioctl tioclinux", libc::SYS_ioctl, [BAD, 0x541C, 0, 0, 0]),
    ("ioctl tcgets", libc::SYS_ioctl, [BAD, 0x5401, 0, 0, 0]),
    ("younger than the profile", 467, [BAD, 1, BAD, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [99, 0, 0, 0, 0]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0, 0, 0]),
    ("seccomp", libc::SYS_seccomp, [99, 0, 0, 0, 0]),
    ("getpid", libc::SYS_getpid, [0, 0, 0, 0, 0]),
];

#[cfg(target_arch = "x86_64")]
const X86_64_PROBES: &[Probe] = &[
    ("iopl", libc::SYS_iopl, [99, 0, 0, 0, 0]),
    ("ioperm", libc::SYS_ioperm, [BAD, BAD, 1, 0, 0]),
    ("uselib", libc::SYS_uselib, [1, 0, 0, 0, 0]),
    ("ustat", libc::SYS_ustat, [BAD, 1, 0, 0, 0]),
    ("x32 getpid", 0x4000_0000 | libc::SYS_getpid, [0, 0, 0, 0, 0]),
    (
        "x32 socket vsock",
        0x4000_0000 | libc::SYS_socket,
        [40, 1, 0, 0, 0],
    ),
];
#[cfg(not(target_arch = "x86_64"))]
const X86_64_PROBES: &[Probe] = &[];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("filtered: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [profile, verb, rest @ ..] = arguments.as_slice() else {
        return Err("which profile, and what to do?".into());
    };
    let profile = match profile.as_str() {
        "none" => None,
        "strict" => Some(Profile::strict()),
        "browser" => Some(Profile::browser()),
        file => Some(Profile::load(Path::new(file))?),
    };
    let filter = profile.map(|profile| profile.compile()).transpose()?;
    let start = Instant::now();
    if let Some(filter) = &filter {
        filter.install()?;
    }
    let took = start.elapsed();
    match (verb.as_str(), rest) {
        ("probe", []) => {
            for (name, number, arguments) in PROBES.iter().chain(X86_64_PROBES) {
                println!("{name} {}", errno(*number, *arguments));
            }
        }
        ("time", []) => {
            let instructions = filter.map_or(0, |filter| filter.instructions());
            println!("{} {instructions}", took.as_nanos() as f64 / 1000.0);
        }
        ("i386", []) => i386(),
        ("exec", [program, arguments @ ..]) => {
            return Err(Command::new(program).args(arguments).exec().into());
        }
        _ => return Err("probe, time, i386 or exec?".into()),
    }
    Ok(())
}

fn errno(number: i64, [a, b, c, d, e]: [i64; 5]) -> i32 {
    // SAFETY: the arguments of each probe are chosen so that the call fails before it touches memory, or touches
    // none; where they hold an address, it is 1, which is never mapped.
    match unsafe { libc::syscall(number, a, b, c, d, e, 0) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}

/// `getpid` by i386's door.
fn i386() {
    #[cfg(target_arch = "x86_64")]
    {
        let answer: i32;
        // SAFETY: i386's call 20, getpid, takes no argument and touches no memory. The kernel keeps all registers
        // but eax, and on its way clears r8 to r11.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("eax") 20 => answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        println!("{answer}");
    }
}
