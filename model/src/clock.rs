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

    /// The same clock, standing still, with at most `timeout` left: the machine's clock may have been set back since.
    #[must_use]
    pub fn pause(self, now: Timestamp, timeout: Duration) -> Self {
        match self {
            Self::Running(deadline) => {
                let left = Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO);
                Self::Paused(left.min(timeout))
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

/// `moment` plus `duration`, or the end of representable time.
#[must_use]
pub fn later(moment: Timestamp, duration: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(duration).ok().and_then(|d| moment.checked_add(d).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(seconds)
    }

    #[test]
    fn a_pause_keeps_what_is_left() {
        let clock = Clock::start(at(0), MINUTE);
        let paused = clock.pause(at(45), MINUTE);
        assert_eq!(paused, Clock::Paused(Duration::from_secs(15)));
        assert_eq!(paused.pause(at(50), MINUTE), paused);
        assert_eq!(paused.resume(at(1000)), Clock::Running(at(1015)));
        assert!(!paused.has_passed(Timestamp::MAX));
    }

    #[test]
    fn nothing_is_left_after_the_deadline() {
        let clock = Clock::start(at(0), MINUTE);
        assert!(!clock.has_passed(at(59)));
        assert!(clock.has_passed(at(60)));
        assert_eq!(clock.pause(at(61), MINUTE), Clock::Paused(Duration::ZERO));
        assert!(clock.pause(at(61), MINUTE).resume(at(70)).has_passed(at(70)));
    }

    #[test]
    fn a_clock_set_back_gives_no_time_away() {
        assert_eq!(Clock::start(at(0), MINUTE).pause(at(-3600), MINUTE), Clock::Paused(MINUTE));
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        assert_eq!(Clock::start(Timestamp::MAX, Duration::MAX), Clock::Running(Timestamp::MAX));
        assert_eq!(Clock::Over.resume(at(0)), Clock::Over);
        assert_eq!(Clock::Over.deadline(), None);
    }
}
