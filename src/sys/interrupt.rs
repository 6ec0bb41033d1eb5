//! Ctrl-C for commands that have to tidy up: the first SIGINT, SIGTERM or SIGHUP sets a flag, the second one
//! kills.
//!
//! A flag, not a blocked signal: a blocked mask would be inherited by the programs such a command starts.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static RECEIVED: AtomicBool = AtomicBool::new(false);

/// The user asked the command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// From now on the signals are noted instead of killing. Calls are restarted, so whoever works in steps has to
/// ask [`check`] between them.
pub fn catch() -> std::io::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART | SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: `note` only stores to an atomic, which is async-signal-safe.
        let before = unsafe { sigaction(signal, &action) }?;
        if matches!(before.handler(), SigHandler::SigIgn) {
            // `nohup`, or a shell's background job: whoever started us wants it ignored.
            // SAFETY: this gives back what was there.
            unsafe { sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

extern "C" fn note(_: libc::c_int) {
    RECEIVED.store(true, Ordering::Relaxed);
}

/// An error once a signal has come.
pub fn check() -> Result<(), Interrupted> {
    match RECEIVED.load(Ordering::Relaxed) {
        true => Err(Interrupted),
        false => Ok(()),
    }
}
