//! The one place that turns the system's monotonic clock into the core's [`Moment`]. Through tokio, so that a
//! simulation can pause it.

use tokio::time::Instant;

use crate::core::Moment;

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// When `moment` comes, for arming a timer.
    pub fn instant(&self, moment: Moment) -> Option<Instant> {
        self.start.checked_add(moment.0)
    }
}
