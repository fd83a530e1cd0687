//! How long to wait after a failure: before a container's next start, and before an agent dials its server again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Waits that double with every failure, up to a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
}

/// Before a container's next start: quick after a slip, and never busy with a container that cannot run.
pub const RESTART: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(300) };

/// How long a container must have been up for its failures to be forgotten: twice the longest wait, as in Kubernetes,
/// so that one that crashes only now and then does not count as healthy in between.
pub const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Before an agent dials again. The cap bounds how long a node stays away from a server that is back.
pub const RECONNECT: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

impl Backoff {
    /// The wait after so many failures in a row; nothing after none.
    #[must_use]
    pub fn delay(self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// A random part of the wait ("full jitter"), from a number that is random over all of `u64`: a fleet that lost its
    /// server at one moment must not come back at one moment.
    #[must_use]
    pub fn jittered(self, failures: u32, random: u64) -> Duration {
        part_of(self.delay(failures), random)
    }
}

/// A random part of a span, from a number that is random over all of `u64`.
#[must_use]
pub fn part_of(span: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let part = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
}

/// How often a container has ended in a row, kept across restarts of its agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes(u32);

impl Crashes {
    /// Counts an end after a run of this length, and answers how long to wait before the next start.
    pub fn count(&mut self, up_for: Duration) -> Duration {
        self.0 = if up_for >= FORGET_AFTER { 1 } else { self.0.saturating_add(1) };
        RESTART.delay(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits: Vec<u64> = (0..12).map(|failures| RESTART.delay(failures).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(RESTART.delay(u32::MAX), RESTART.cap);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let mut crashes = Crashes::default();
        let short = Duration::from_secs(3);
        assert_eq!(crashes.count(short), Duration::from_secs(1));
        assert_eq!(crashes.count(short), Duration::from_secs(2));
        assert_eq!(crashes.count(FORGET_AFTER), Duration::from_secs(1));
        assert_eq!(crashes.count(short), Duration::from_secs(2));
    }

    #[test]
    fn jitter_covers_the_whole_wait() {
        assert_eq!(RECONNECT.jittered(7, 0), Duration::ZERO);
        assert_eq!(RECONNECT.jittered(2, u64::MAX / 2 + 1), Duration::from_secs(1));
        assert!(RECONNECT.jittered(100, u64::MAX) > RECONNECT.cap.mul_f64(0.999));
    }

    proptest! {
        #[test]
        fn a_part_is_never_more_than_the_whole(failures: u32, random: u64) {
            prop_assert!(RECONNECT.jittered(failures, random) <= RECONNECT.delay(failures));
            prop_assert!(RECONNECT.delay(failures) <= RECONNECT.delay(failures.saturating_add(1)));
        }
    }
}
