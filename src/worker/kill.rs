//! The end of one worker's tree, for whoever knows first that it has to come: the driver, or the data-plane thread
//! that saw the last holder leave.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::core::WorkerId;
use crate::launcher::Keeper;
use crate::sys::process::Census;

/// Kills one worker's tree, from any thread. It holds the keeper by its pidfd, so it can never meet another process.
#[derive(Debug)]
pub struct KillSwitch {
    worker: WorkerId,
    keeper: Arc<Keeper>,
    /// There before it is killed: who hears that it is gone finds why.
    killed: OnceLock<Killed>,
    done: OnceLock<()>,
}

/// What was killed, and when that was decided.
#[derive(Debug, Clone)]
pub(super) struct Killed {
    pub(super) decided: Instant,
    pub(super) census: Census,
}

impl KillSwitch {
    pub(super) fn new(worker: WorkerId, keeper: Arc<Keeper>) -> Self {
        Self {
            worker,
            keeper,
            killed: OnceLock::new(),
            done: OnceLock::new(),
        }
    }

    /// By which it kills.
    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Kills the whole tree, in this call. Once: whoever comes second finds it done.
    pub fn kill(&self) {
        self.killed.get_or_init(|| {
            let decided = Instant::now();
            // Nothing can be counted afterwards. It is a few reads of /proc for each of a bounded number of processes.
            let census = self.keeper.pid().map(Census::take).unwrap_or_default();
            Killed { decided, census }
        });
        self.done.get_or_init(|| {
            if let Err(e) = self.keeper.kill() {
                tracing::error!(worker = %self.worker, "cannot kill the worker: {e}");
            }
        });
    }

    pub(super) fn killed(&self) -> Option<&Killed> {
        self.killed.get()
    }
}
