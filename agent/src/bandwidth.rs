//! Limits on how fast bytes may move.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A limit on bytes a second that whoever holds it shares: a token bucket that holds a fixed time's worth of bytes.
#[derive(Debug)]
pub struct Bandwidth {
    /// Bytes a second; 0 means no limit.
    rate: u64,
    /// When all that was spent so far is paid for.
    paid_until: Mutex<Option<Instant>>,
}

/// What may move at once after a pause: short enough for a line to notice little of it.
const BURST: Duration = Duration::from_secs(1);

impl Bandwidth {
    /// So many bytes a second; 0 means no limit.
    #[must_use]
    pub fn per_second(bytes: u64) -> Self {
        Self { rate: bytes, paid_until: Mutex::new(None) }
    }

    /// Waits until these bytes may move. Whoever gives up while waiting has spent them all the same.
    pub async fn spend(&self, bytes: u64) {
        let wait = self.charge(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Puts bytes on the bill; returns how long to wait for them.
    fn charge(&self, bytes: u64, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        // Whole at every moment: a panic elsewhere leaves nothing half done.
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        // A pause saves up no more than the burst: what is owed begins at that long ago.
        let saved = paid_until.map_or(BURST, |paid| now.saturating_duration_since(paid).min(BURST));
        let owed = paid_until.map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now)) + cost;
        let wait = owed.saturating_sub(saved);
        *paid_until = if owed >= saved { now.checked_add(wait) } else { now.checked_sub(saved - owed) };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_free_and_the_rest_is_waited_for() {
        let (bandwidth, start) = (Bandwidth::per_second(1000), Instant::now() + 10 * SECOND);
        assert_eq!(bandwidth.charge(600, start), Duration::ZERO);
        assert_eq!(bandwidth.charge(400, start), Duration::ZERO);
        assert_eq!(bandwidth.charge(500, start), SECOND / 2);
        assert_eq!(bandwidth.charge(500, start), SECOND, "others wait behind");
        assert_eq!(bandwidth.charge(1000, start + SECOND), SECOND);
        assert_eq!(bandwidth.charge(1, start + 100 * SECOND), Duration::ZERO);
        assert_eq!(bandwidth.charge(1499, start + 100 * SECOND), SECOND / 2, "no more is saved than a burst");
    }

    #[test]
    fn what_moves_at_the_rate_never_waits() {
        let (bandwidth, start) = (Bandwidth::per_second(1000), Instant::now() + 10 * SECOND);
        for second in 0..1000 {
            assert_eq!(bandwidth.charge(1000, start + second * SECOND), Duration::ZERO);
        }
    }

    #[test]
    fn there_need_be_no_limit() {
        assert_eq!(Bandwidth::per_second(0).charge(u64::MAX, Instant::now()), Duration::ZERO);
        assert!(Bandwidth::per_second(1).charge(u64::MAX, Instant::now()) > SECOND);
    }
}
