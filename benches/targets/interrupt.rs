//! Ctrl-C: a run ends between two readings, so that everything it started is ended in the usual way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

/// Set once a signal to end has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From the main thread, before any other: threads inherit its mask. Children do not, `Command` clears it.
    ///
    /// The second signal ends this process at once; the children's parent-death signals end them, too.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .for_each(|signal| signals.add(signal));
        signals.thread_block()?;
        let interrupt = Self::default();
        let heard = interrupt.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while signals.wait().is_ok() {
                    if heard.0.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            })?;
        Ok(interrupt)
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
