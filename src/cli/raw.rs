//! This terminal, handed through: what is typed goes on as it is typed, and something at the other end does the rest.

use std::io::{self, IsTerminal, Stdin};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// How the terminal was, for as long as it is otherwise.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub(super) struct Raw(());

impl Raw {
    /// `None`: standard input is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *lock() = Some(before);
        restore_in_panics();
        let entered = Self(());
        set(&stdin, &raw)?;
        Ok(Some(entered))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// A release build ends in a panic without dropping anything.
fn restore_in_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            usual(panic);
        }));
    });
}

fn restore() {
    if let Some(before) = lock().take() {
        // If the terminal has gone, there is nothing to be restored.
        let _ = set(&io::stdin(), &before);
    }
}

fn set(stdin: &Stdin, mode: &Termios) -> nix::Result<()> {
    // What was written in the old mode is shown in it.
    crate::sys::fd::retry(|| tcsetattr(stdin, SetArg::TCSADRAIN, mode))
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
