//! Terminals: pairs of ends (pty(7)), and their size (tty_ioctl(4)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use serde::{Deserialize, Serialize};

/// Of a terminal's window, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

/// The device behind every `ptmx`, in whichever devpts (Documentation/admin-guide/devices.txt).
const MULTIPLEXER: (u64, u64) = (5, 2);

/// A new terminal of the devpts that `multiplexer` belongs to: the end that drives it, and the one for programs.
///
/// The second is asked for by the first, not by its name, under which somebody else could have put something
/// (CVE-2025-52565).
pub fn open(multiplexer: &Path, size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    // It must not become the terminal of the calling process.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let driver = nix::fcntl::open(multiplexer, flags, Mode::empty())?;
    if !is_driver(driver.as_fd())? {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the call reads one `int`, which outlives it.
    check(unsafe { libc::ioctl(driver.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    resize(driver.as_fd(), size)?;
    // SAFETY: the argument is plain flags; no memory is passed.
    let program = check(unsafe { libc::ioctl(driver.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) })?;
    // SAFETY: the call succeeded, so this is a new descriptor that nothing else knows.
    Ok((driver, unsafe { OwnedFd::from_raw_fd(program) }))
}

/// Whether this is the driving end of some terminal.
pub fn is_driver(end: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = fstat(end)?;
    let device = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    Ok(device && (major(stat.st_rdev), minor(stat.st_rdev)) == MULTIPLEXER)
}

/// Tells the programs of the terminal by SIGWINCH if it is another size.
pub fn resize(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the call reads one `winsize`, which outlives it.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// `None`: this is no terminal, or it does not know.
pub fn size(terminal: BorrowedFd<'_>) -> Option<Size> {
    // SAFETY: `winsize` is plain integers.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one `winsize`, which outlives it.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(Size {
        cols: size.ws_col,
        rows: size.ws_row,
    })
}

/// Makes it the terminal of the calling process's session, which has to be new and its own.
pub fn take(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two integers; 0 asks not to steal it from another session.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_at_one_end_is_read_at_the_other_and_both_know_the_size() {
        let wide = Size { cols: 132, rows: 43 };
        let (driver, program) = open(Path::new("/dev/ptmx"), wide).unwrap();
        assert!(is_driver(driver.as_fd()).unwrap());
        assert!(!is_driver(program.as_fd()).unwrap());
        assert_eq!(size(program.as_fd()), Some(wide));
        let small = Size { cols: 80, rows: 24 };
        resize(driver.as_fd(), small).unwrap();
        assert_eq!(size(program.as_fd()), Some(small));
        nix::unistd::write(&driver, b"typed\n").unwrap();
        let mut line = [0; 16];
        let read = nix::unistd::read(&program, &mut line).unwrap();
        assert_eq!(&line[..read], b"typed\n");
    }

    #[test]
    fn another_device_is_no_terminal() {
        let wrong = open(Path::new("/dev/null"), Size { cols: 1, rows: 1 }).unwrap_err();
        assert_eq!(wrong.raw_os_error(), Some(libc::ENODEV));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(size(null.as_fd()), None);
    }
}
