//! How fast one connection is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes that a connection may send each second, on average. Frames of HTTP/2 that carry nothing (SETTINGS, PING,
/// PRIORITY) are answered without asking anybody: unchecked, one client keeps a core busy with them. Reports and log lines
/// of an agent need far less.
const BYTES_PER_SECOND: u32 = 256 * 1024;
/// Bytes that it may send at once: two thousand reports kept during an outage, or a large job.
const BURST: u32 = 1024 * 1024;

/// Bytes of a connection that were passed on to somebody who has taken them. They were no faster than that, and so cost no budget.
/// Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub struct PassedOn(Arc<AtomicUsize>);

impl PassedOn {
    /// Counts bytes that somebody has taken.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many they were since this was last asked.
    pub(super) fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// A leaky bucket: what was read and has not drained yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    level: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { level: 0.0, at: now }
    }

    /// Gives back what was spent on bytes that cost nothing.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.level = (self.level - f64::from(u32::try_from(bytes).unwrap_or(u32::MAX))).max(0.0);
    }

    /// Counts bytes that were read; answers how long to read nothing when they were too many.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let drained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(BYTES_PER_SECOND);
        // One read is far smaller than 4 GiB.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.level = (self.level - drained).max(0.0) + f64::from(bytes);
        self.at = now;
        let excess = self.level - f64::from(BURST);
        (excess > 0.0).then(|| Duration::from_secs_f64(excess / f64::from(BYTES_PER_SECOND)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_free_and_what_exceeds_it_has_to_wait() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!(budget.spend(BURST as usize, start), None);
        assert_eq!(budget.spend(BYTES_PER_SECOND as usize / 2, start), Some(SECOND / 2));
        assert_eq!(budget.spend(0, start + SECOND / 2), None, "the wait is over");
        assert_eq!(budget.spend(BYTES_PER_SECOND as usize, start + SECOND / 2), Some(SECOND));
    }

    #[test]
    fn what_was_passed_on_costs_nothing_and_saves_nothing() {
        let start = Instant::now();
        let (mut budget, passed_on) = (Budget::new(start), PassedOn::default());
        for _ in 0..100 {
            assert_eq!(budget.spend(BURST as usize, start), None);
            passed_on.clone().add(BURST as usize);
            budget.give_back(passed_on.take());
        }
        budget.give_back(BURST as usize);
        assert_eq!((budget.spend(BURST as usize, start), passed_on.take()), (None, 0));
        assert_eq!(budget.spend(BYTES_PER_SECOND as usize, start), Some(SECOND), "no more than a burst");
    }

    #[test]
    fn a_steady_stream_below_the_rate_never_waits_and_idling_saves_no_more_than_a_burst() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for second in 0..100 {
            assert_eq!(budget.spend(BYTES_PER_SECOND as usize, start + SECOND * second), None);
        }
        let later = start + SECOND * 10_000;
        assert_eq!(budget.spend(BURST as usize, later), None);
        assert!(budget.spend(BYTES_PER_SECOND as usize, later).is_some());
    }
}
