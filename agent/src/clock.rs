//! The agent's clock: the wall's reading at start, moved on by the monotonic clock.
//!
//! Edge machines boot with a wrong wall clock and jump later. Settle times and back-off delays must not jump with it, so
//! every decision is made by this clock; the wall is asked only for what people read.

use std::time::Duration;

use jiff::Timestamp;
pub use longshore_model::clock::later;
use tokio::time::Instant;

/// See the module. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    at: Instant,
}

impl Clock {
    /// Starts a clock that reads `wall` now.
    #[must_use]
    pub fn starting_at(wall: Timestamp) -> Self {
        Self { wall, at: Instant::now() }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        later(self.wall, self.at.elapsed())
    }

    /// When a moment of this clock comes, for timers.
    #[must_use]
    pub fn instant(&self, moment: Timestamp) -> Instant {
        Instant::now() + until(self.now(), moment)
    }
}

/// Time from `now` to `moment`, zero where it has passed.
#[must_use]
pub fn until(now: Timestamp, moment: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(now)).unwrap_or(Duration::ZERO)
}
