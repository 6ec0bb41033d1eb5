//! One buffer for each data-plane thread, for what is read from a socket and passed on, or kept, in the same breath. Only a
//! connection with something to read needs room that way, and the room is still in the processor's cache.

use std::cell::RefCell;

pub(super) const SIZE: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Whoever has it reads and writes sockets, and runs nobody else's code: it is not lent twice at a time.
pub(super) fn lent<T>(to: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| to(buffer))
}
