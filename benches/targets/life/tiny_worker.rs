//! The worker that everything under test starts: as small as a process can be, so that what is measured is the
//! start, not the started. No std, no libc, one page of stack.
//!
//! `tiny-worker PATH [TOKEN]` listens on the UNIX socket PATH, then says `listening TOKEN` on its standard output. It
//! answers every request with PATH; one for `/exit` ends it; one with an `Upgrade` becomes a stream that it reads and
//! says nothing on.
//!
//! The benchmark compiles this file by itself: `rustc … -C link-arg=-nostdlib -C link-arg=-static`.

#![no_std]
#![no_main]
// Else the loops of `memory` below would become calls of themselves.
#![no_builtins]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const SOCKET: usize = 41;
    pub const BIND: usize = 49;
    pub const LISTEN: usize = 50;
    pub const EXIT_GROUP: usize = 231;
    pub const EPOLL_CTL: usize = 233;
    pub const EPOLL_PWAIT: usize = 281;
    pub const ACCEPT4: usize = 288;
    pub const EPOLL_CREATE1: usize = 291;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const EPOLL_CREATE1: usize = 20;
    pub const EPOLL_CTL: usize = 21;
    pub const EPOLL_PWAIT: usize = 22;
    pub const CLOSE: usize = 57;
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const SOCKET: usize = 198;
    pub const BIND: usize = 200;
    pub const LISTEN: usize = 201;
    pub const ACCEPT4: usize = 242;
}

// The kernel's first words are on the stack: the number of arguments, then their addresses.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {begin}", "ud2", begin = sym begin);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {begin}", "brk 1", begin = sym begin);

/// # Safety
/// Pointers among the arguments have to be what the call expects.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the registers are those of the kernel's calling convention; rcx and r11 are what it spoils.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// Pointers among the arguments have to be what the call expects.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the registers are those of the kernel's calling convention.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] as isize => result, in("x1") a[1], in("x2") a[2],
             in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    result
}

fn exit(code: usize) -> ! {
    // SAFETY: no pointers; it does not return.
    unsafe { call(number::EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
    loop {}
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}

/// What compiled code takes for granted. Nothing here unwinds.
mod memory {
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
        for at in 0..length {
            // SAFETY: the caller's.
            unsafe { *to.add(at) = byte as u8 };
        }
        to
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        for at in 0..length {
            // SAFETY: the caller's.
            unsafe { *to.add(at) = *from.add(at) };
        }
        to
    }

    /// # Safety
    /// As in C.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
        // SAFETY: the caller's.
        (0..length).any(|at| unsafe { *a.add(at) != *b.add(at) }) as i32
    }
}

#[repr(C)]
struct SockaddrUn {
    family: u16,
    path: [u8; 108],
}

#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
#[derive(Clone, Copy)]
struct EpollEvent {
    events: u32,
    data: u64,
}

const AF_UNIX: usize = 1;
const STREAM_CLOEXEC: usize = 1 | 0o2000000;
const EPOLLIN: u32 = 1;
const EPOLL_CTL_ADD: usize = 1;

fn write(fd: usize, bytes: &[u8]) -> bool {
    // SAFETY: the slice is valid for its length.
    unsafe { call(number::WRITE, [fd, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) == bytes.len() as isize }
}

/// # Safety
/// `text` ends in a zero byte.
unsafe fn text<'a>(start: *const u8) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: the caller's.
    while unsafe { *start.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: all bytes before the zero were just read.
    unsafe { core::slice::from_raw_parts(start, length) }
}

extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: this is how the kernel starts a process (System V ABI): a count, then as many strings.
    let (path, token) = unsafe {
        match *stack {
            0 | 1 => exit(2),
            2 => (text(*stack.add(2) as *const u8), &b""[..]),
            _ => (text(*stack.add(2) as *const u8), text(*stack.add(3) as *const u8)),
        }
    };
    let mut address = SockaddrUn { family: AF_UNIX as u16, path: [0; 108] };
    if path.len() >= address.path.len() {
        exit(2)
    }
    for (to, from) in address.path.iter_mut().zip(path) {
        *to = *from;
    }
    // SAFETY: the address outlives the call, and its length is that of the family and a path that ends in a zero.
    let (listener, epoll) = unsafe {
        let listener = call(number::SOCKET, [AF_UNIX, STREAM_CLOEXEC, 0, 0, 0, 0]);
        let bound = call(number::BIND, [listener as usize, &raw const address as usize, 2 + path.len() + 1, 0, 0, 0]);
        let listening = call(number::LISTEN, [listener as usize, 1024, 0, 0, 0, 0]);
        let epoll = call(number::EPOLL_CREATE1, [0o2000000, 0, 0, 0, 0, 0]);
        if listener < 0 || bound < 0 || listening < 0 || epoll < 0 {
            exit(1)
        }
        (listener as usize, epoll as usize)
    };
    watch(epoll, listener);
    said(token);
    serve(epoll, listener, path)
}

fn said(token: &[u8]) {
    let mut line = [0; 128];
    let mut length = 0;
    for byte in b"listening ".iter().chain(token).chain(b"\n") {
        if length < line.len() {
            line[length] = *byte;
            length += 1;
        }
    }
    write(1, &line[..length]);
}

fn watch(epoll: usize, fd: usize) {
    let event = EpollEvent { events: EPOLLIN, data: fd as u64 };
    // SAFETY: the event outlives the call.
    unsafe { call(number::EPOLL_CTL, [epoll, EPOLL_CTL_ADD, fd, &raw const event as usize, 0, 0]) };
}

fn serve(epoll: usize, listener: usize, path: &[u8]) -> ! {
    loop {
        let mut event = EpollEvent { events: 0, data: 0 };
        // SAFETY: there is room for the one event that is asked for.
        if unsafe { call(number::EPOLL_PWAIT, [epoll, &raw mut event as usize, 1, usize::MAX, 0, 8]) } != 1 {
            continue;
        }
        let fd = event.data as usize;
        if fd == listener {
            // SAFETY: no address is asked for.
            let accepted = unsafe { call(number::ACCEPT4, [listener, 0, 0, 0o2000000, 0, 0]) };
            if accepted >= 0 {
                watch(epoll, accepted as usize);
            }
        } else if let Next::Close = answer(fd, path) {
            // SAFETY: no pointers; the number is this connection's, and epoll forgets it with it.
            unsafe { call(number::CLOSE, [fd, 0, 0, 0, 0, 0]) };
        }
    }
}

enum Next {
    Go,
    Close,
}

/// A request comes in one piece here, because all who send them are small and near.
fn answer(fd: usize, path: &[u8]) -> Next {
    let mut request = core::mem::MaybeUninit::<[u8; 2048]>::uninit();
    // SAFETY: it writes at most as many bytes as there are.
    let read = unsafe { call(number::READ, [fd, request.as_mut_ptr() as usize, 2048, 0, 0, 0]) };
    if read <= 0 {
        return Next::Close;
    }
    // SAFETY: the kernel wrote as many.
    let request = unsafe { core::slice::from_raw_parts(request.as_ptr().cast::<u8>(), read as usize) };
    if request.starts_with(b"GET /exit ") {
        exit(0)
    }
    if !request.starts_with(b"GET ") {
        // Of a stream.
        return Next::Go;
    }
    let sent = match asks_upgrade(request) {
        // To the key of RFC 6455's example.
        true => write(
            fd,
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        ),
        false => page(fd, path),
    };
    match sent {
        true => Next::Go,
        false => Next::Close,
    }
}

fn page(fd: usize, path: &[u8]) -> bool {
    let mut text = [0; 256];
    let mut length = 0;
    let digits = [b'0' + (path.len() / 100) as u8, b'0' + (path.len() / 10 % 10) as u8, b'0' + (path.len() % 10) as u8];
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: ".iter().chain(&digits).chain(b"\r\n\r\n").chain(path) {
        if length < text.len() {
            text[length] = *byte;
            length += 1;
        }
    }
    write(fd, &text[..length])
}

fn asks_upgrade(request: &[u8]) -> bool {
    request.windows(10).any(|window| window.eq_ignore_ascii_case(b"\r\nupgrade:"))
}
