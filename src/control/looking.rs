//! What sessions' processes use. One look at a time and at most a few per second, however many ask: a look touches
//! every process of the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::views::{Session, State, Used};
use crate::sys::usage::Forest;

/// How old an answer may be.
const FRESH: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Looking(Mutex<Option<(Instant, Arc<Forest>)>>);

impl Looking {
    /// Empty where `/proc` cannot be read.
    pub(super) async fn forest(&self) -> Arc<Forest> {
        let mut last = self.0.lock().await;
        if let Some((at, forest)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(forest);
        }
        // On a thread of its own, since it blocks; an error means that herd ends.
        let looked = tokio::task::spawn_blocking(Forest::look).await;
        let forest = Arc::new(match looked {
            Ok(Ok(forest)) => forest,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot look at processes");
                Forest::default()
            }
            Err(_) => Forest::default(),
        });
        *last = Some((Instant::now(), Arc::clone(&forest)));
        forest
    }

    /// For sessions whose worker lives.
    pub(super) async fn tell_usage(&self, sessions: &mut [Session]) {
        let ended = |session: &Session| session.state == State::Ended || session.ended.is_some();
        let lives = |session: &Session| !ended(session) && session.pid.is_some();
        if !sessions.iter().any(lives) {
            return;
        }
        let forest = self.forest().await;
        for session in sessions.iter_mut().filter(|session| lives(session)) {
            session.usage = session.pid.and_then(|pid| forest.of(pid)).map(Used::from);
        }
    }
}
