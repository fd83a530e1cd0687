//! How long certificates are valid, and when a node renews its own.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::backoff::{self, Backoff};

/// Certificates are valid from this long before they are made: clocks of edge machines are not exact.
pub const BACKDATED: SignedDuration = SignedDuration::from_mins(5);

/// Between attempts to renew. The cap leaves some two hundred of them between the first one of a usual certificate and
/// its end.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(3600) };

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before this moment.
    pub not_before: Timestamp,
    /// Not after this moment.
    pub not_after: Timestamp,
}

impl Validity {
    /// Of a certificate that is made now and lives this long; `None` where no calendar reaches that far.
    #[must_use]
    pub fn starting(now: Timestamp, life: SignedDuration) -> Option<Self> {
        Some(Self { not_before: now.checked_sub(BACKDATED).ok()?, not_after: now.checked_add(life).ok()? })
    }

    /// Of the seconds since 1970 that a certificate says. What no calendar of ours reaches counts as its last moment: above
    /// all the end of those that never expire, 9999-12-31T23:59:59Z (RFC 5280, section 4.1.2.5).
    #[must_use]
    pub fn of_seconds(not_before: i64, not_after: i64) -> Self {
        let moment = |seconds: i64| {
            let beyond = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
            Timestamp::from_second(seconds).unwrap_or(beyond)
        };
        Self { not_before: moment(not_before), not_after: moment(not_after) }
    }

    /// When it was made.
    #[must_use]
    pub fn issued(self) -> Timestamp {
        self.not_before.checked_add(BACKDATED).unwrap_or(Timestamp::MAX)
    }

    /// Whether this moment lies within.
    #[must_use]
    pub fn contains(self, moment: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&moment)
    }

    /// When to renew: after two thirds of its life and a random part of a twelfth of it, so that a fleet that enrolled
    /// in one hour does not renew in one hour. `random` ranges over all of `u64`.
    #[must_use]
    pub fn renewal(self, random: u64) -> Timestamp {
        let issued = self.issued();
        let life = Duration::try_from(self.not_after.duration_since(issued)).unwrap_or(Duration::ZERO);
        let wait = life * 2 / 3 + backoff::part_of(life / 12, random);
        issued.checked_add(wait).unwrap_or(self.not_after)
    }

    /// How long to wait before the next attempt to renew, after so many for which nothing better is at hand. `place`
    /// stays the same for one certificate, `random` does not; both range over all of `u64`.
    ///
    /// A certificate that needs to be renewed as soon as it is made counts as an attempt that failed: a node whose clock
    /// is wrong must not ask without end.
    #[must_use]
    pub fn wait_to_renew(self, now: Timestamp, attempts: u32, place: u64, random: u64) -> Duration {
        let left = Duration::try_from(self.renewal(place).duration_since(now)).unwrap_or(Duration::ZERO);
        left.max(RETRY.jittered(attempts, random))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_certificate_without_an_expiry_is_valid_for_as_long_as_there_is_time() {
        let forever = Validity::of_seconds(0, 253_402_300_799);
        assert_eq!(forever, Validity { not_before: Timestamp::UNIX_EPOCH, not_after: Timestamp::MAX });
        assert!(forever.contains(Timestamp::MAX));
        assert_eq!(Validity::of_seconds(i64::MIN, 5).not_before, Timestamp::MIN);
        assert_eq!(Validity::of_seconds(0, 5).not_after.as_second(), 5);
    }

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn month() -> (Timestamp, Validity) {
        let made: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        (made, Validity::starting(made, DAY * 30).unwrap())
    }

    #[test]
    fn a_month_is_renewed_after_twenty_days_and_before_twenty_three() {
        let (made, month) = month();
        assert_eq!(month.issued(), made);
        assert_eq!(month.renewal(0), made + DAY * 20);
        assert_eq!(month.renewal(u64::MAX / 2).duration_since(made).as_hours(), 20 * 24 + 29);
        assert!(month.renewal(u64::MAX) <= made + DAY * 20 + SignedDuration::from_hours(60));
    }

    #[test]
    fn an_attempt_that_failed_is_repeated_later_and_later() {
        let (made, month) = month();
        let due = made + DAY * 25;
        assert_eq!(month.wait_to_renew(due, 0, 0, u64::MAX), Duration::ZERO);
        assert!(month.wait_to_renew(due, 1, 0, u64::MAX) <= Duration::from_secs(1));
        let last = month.wait_to_renew(due, 30, 0, u64::MAX);
        assert!((Duration::from_secs(3599)..=Duration::from_secs(3600)).contains(&last), "{last:?}");
        assert_eq!(month.wait_to_renew(made + DAY * 19, 30, 0, 0), DAY.unsigned_abs());
    }

    proptest! {
        #[test]
        fn renewal_comes_in_the_last_third_and_leaves_time(seconds in 12i64..100_000_000, random: u64) {
            let (made, _) = month();
            let life = SignedDuration::from_secs(seconds);
            let validity = Validity::starting(made, life).unwrap();
            let renewal = validity.renewal(random);
            prop_assert!(renewal >= made + life * 2 / 3);
            prop_assert!(renewal < made + life * 3 / 4 + SignedDuration::from_secs(1));
            prop_assert!(validity.contains(renewal));
        }
    }
}
