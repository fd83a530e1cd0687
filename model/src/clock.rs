//! The deadline clock of a job.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The deadline clock: runs while QUEUED, RUNNING and STOPPING, stands while STOPPED, is over in a final state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clock {
    /// Unfinished tasks time out at this moment.
    Running(Timestamp),
    /// This much is left.
    Paused(Duration),
    /// The job is final.
    Over,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start(now: Timestamp, timeout: Duration) -> Self {
        Self::Running(later(now, timeout))
    }

    /// The same clock, standing still.
    #[must_use]
    pub fn pause(self, now: Timestamp) -> Self {
        match self {
            Self::Running(deadline) => {
                Self::Paused(Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO))
            }
            other => other,
        }
    }

    /// The same clock, going on.
    #[must_use]
    pub fn resume(self, now: Timestamp) -> Self {
        match self {
            Self::Paused(remaining) => Self::start(now, remaining),
            other => other,
        }
    }

    /// Whether the deadline has come.
    #[must_use]
    pub fn has_passed(self, now: Timestamp) -> bool {
        matches!(self, Self::Running(deadline) if deadline <= now)
    }

    /// The deadline, while the clock runs.
    #[must_use]
    pub fn deadline(self) -> Option<Timestamp> {
        match self {
            Self::Running(deadline) => Some(deadline),
            Self::Paused(_) | Self::Over => None,
        }
    }
}

/// `now` plus `duration`, or the end of representable time.
fn later(now: Timestamp, duration: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(duration).ok().and_then(|d| now.checked_add(d).ok()).unwrap_or(Timestamp::MAX)
}
