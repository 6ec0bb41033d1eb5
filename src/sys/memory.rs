//! The process's own memory.

/// Gives freed memory back to the system. The allocator of glibc keeps it between what is still in use, where it would
/// stay until the process ends; others do this by themselves.
pub fn give_back() {
    // SAFETY: `malloc_trim` may be called at any time and from any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
