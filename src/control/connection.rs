//! What is remembered of one connection of the control API, between its requests and after them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Problem;

type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
pub(super) struct Connection {
    /// Since it has carried a stream, until it closes.
    occupies: OnceLock<OwnedSemaphorePermit>,
    rest: Mutex<Option<Rest>>,
}

impl Connection {
    /// Counts it among those that carry streams.
    pub(super) fn occupy(&self, streams: &Arc<Semaphore>) -> Result<(), Problem> {
        if self.occupies.get().is_none() {
            let place = Arc::clone(streams).try_acquire_owned().map_err(|_| {
                Problem::unavailable(
                    "too_many_streams",
                    "herd's control API has all the holds, events, commands and followed logs that it serves at a time",
                )
            })?;
            // One request at a time has this connection, so nobody was faster.
            let _ = self.occupies.set(place);
        }
        Ok(())
    }

    /// What happens on it after its last answer, in the same task.
    pub(super) fn go_on(&self, rest: impl Future<Output = ()> + Send + 'static) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(rest));
    }

    pub(super) fn rest(&self) -> Option<Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_once_and_until_it_closes() {
        let streams = Arc::new(Semaphore::new(1));
        let (one, other) = (Connection::default(), Connection::default());
        one.occupy(&streams).unwrap();
        one.occupy(&streams).unwrap();
        assert!(format!("{:?}", other.occupy(&streams).unwrap_err()).contains("too_many_streams"));
        drop(one);
        other.occupy(&streams).unwrap();
    }
}
