//! Ctrl-C: a run ends between two readings, so that everything it started is ended in the usual way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Set once a signal to end has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// By handlers, not by a blocked mask: children would inherit that, and never hear of their own end.
    ///
    /// The second signal ends this process at once; the children's parent-death signals end them, too.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let heard = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ]
            .into_iter()
            .map(signal)
            .collect::<Result<Vec<_>, _>>()?
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
                        futures_util::future::select_all(any).await;
                        if heard.0.swap(true, Ordering::Relaxed) {
                            std::process::exit(130);
                        }
                    }
                });
            })?;
        Ok(interrupt)
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
