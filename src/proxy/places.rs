//! Places for connections: so many at a time over all threads, and a reload may make them more or fewer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most: AtomicUsize,
    /// So many of those that are taken will not be free again: there are more than there should be.
    surplus: AtomicUsize,
}

/// One connection's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    places: Arc<Places>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(most)),
            most: AtomicUsize::new(most),
            surplus: AtomicUsize::new(0),
        }
    }

    /// Waits for one.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        Place {
            // It is never closed.
            permit: Arc::clone(&self.free).acquire_owned().await.ok(),
            places: Arc::clone(self),
        }
    }

    /// So many from now on. Nobody loses a place: where too many are taken, they are fewer as connections close.
    pub(crate) fn limit(&self, most: usize) {
        let most = most.min(Semaphore::MAX_PERMITS);
        let before = self.most.swap(most, Ordering::AcqRel);
        if let Some(less) = before.checked_sub(most) {
            let taken_away = self.free.forget_permits(less);
            self.surplus.fetch_add(less - taken_away, Ordering::AcqRel);
        } else {
            let more = most - before;
            let settle = |surplus: usize| Some(surplus.saturating_sub(more));
            let (Ok(owed) | Err(owed)) =
                self.surplus
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, settle);
            self.free.add_permits(more.saturating_sub(owed));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let fewer = |surplus: usize| surplus.checked_sub(1);
        let surplus = &self.places.surplus;
        if surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer)
            .is_ok()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// How many can be had now; they are given back.
    fn free(places: &Arc<Places>) -> usize {
        let mut taken = Vec::new();
        while let Some(place) = places.take().now_or_never() {
            taken.push(place);
        }
        taken.len()
    }

    #[test]
    fn places_are_taken_away_only_from_who_leaves_and_come_back() {
        let places = Arc::new(Places::new(3));
        let mut taken: Vec<Place> = (0..3).filter_map(|_| places.take().now_or_never()).collect();
        assert_eq!((taken.len(), free(&places)), (3, 0));
        places.limit(1);
        taken.pop();
        assert_eq!(free(&places), 0, "two are taken, and one may be");
        taken.pop();
        assert_eq!(free(&places), 0);
        places.limit(2);
        assert_eq!(free(&places), 1);
        taken.pop();
        assert_eq!(free(&places), 2);
        places.limit(5);
        assert_eq!(free(&places), 5);
        places.limit(4);
        assert_eq!(free(&places), 4);
    }

    #[test]
    fn more_places_settle_what_was_too_many_first() {
        let places = Arc::new(Places::new(4));
        let taken: Vec<Place> = (0..4).filter_map(|_| places.take().now_or_never()).collect();
        places.limit(1);
        places.limit(3);
        assert_eq!(free(&places), 0);
        drop(taken);
        assert_eq!(free(&places), 3);
    }
}
