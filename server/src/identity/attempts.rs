//! How often an address may fail to enrol.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures allowed within a window: a mistyped token is tried a few times, a guessed one would need more than 2^200.
pub const MAX_FAILURES: u32 = 10;
/// How long a failure counts.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; beyond that the one whose window began first is forgotten, so that memory stays bounded.
pub const MAX_ADDRESSES: usize = 1024;

/// Failures of all addresses together within a window: someone with many addresses costs the server no more than this
/// many checks a minute. Then nobody enrols until the window is over; nodes and people are not touched.
pub const MAX_FAILURES_OVERALL: u32 = 600;

/// Counts failures by address and overall. Successes do not count: a whole fleet may enrol from behind one address.
#[derive(Debug, Default)]
pub struct Attempts {
    failures: HashMap<IpAddr, Failures>,
    overall: Option<Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Failures {
    fn is_over(self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    fn must_wait(self, limit: u32, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.since);
        (self.count >= limit && !self.is_over(now)).then(|| WINDOW.saturating_sub(waited))
    }

    /// One more, in a new window where this one is over.
    fn and_one(self, now: Instant) -> Self {
        let Self { since, count } = if self.is_over(now) { Self { since: now, count: 0 } } else { self };
        Self { since, count: count.saturating_add(1) }
    }
}

impl Attempts {
    /// How long this address has to wait before it may try again; `None` when it may now.
    #[must_use]
    pub fn must_wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let own = self.failures.get(&network(address)).and_then(|failures| failures.must_wait(MAX_FAILURES, now));
        own.max(self.overall.and_then(|failures| failures.must_wait(MAX_FAILURES_OVERALL, now)))
    }

    /// Counts a failure.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        let key = network(address);
        if self.failures.len() >= MAX_ADDRESSES && !self.failures.contains_key(&key) {
            self.make_room(now);
        }
        let none = Failures { since: now, count: 0 };
        let failures = self.failures.entry(key).or_insert(none);
        *failures = failures.and_one(now);
        self.overall = Some(self.overall.unwrap_or(none).and_one(now));
    }

    fn make_room(&mut self, now: Instant) {
        self.failures.retain(|_, failures| !failures.is_over(now));
        if self.failures.len() >= MAX_ADDRESSES {
            let oldest = self.failures.iter().min_by_key(|(_, failures)| failures.since).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.failures.remove(&oldest);
            }
        }
    }
}

/// What one party holds: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_waits_after_too_many_failures_until_its_window_is_over() {
        let mut attempts = Attempts::default();
        let start = Instant::now();
        let bad = address("192.0.2.1");
        for _ in 0..MAX_FAILURES {
            assert_eq!(attempts.must_wait(bad, start), None);
            attempts.failed(bad, start);
        }
        assert_eq!(attempts.must_wait(bad, start + WINDOW / 4), Some(WINDOW * 3 / 4));
        assert_eq!(attempts.must_wait(address("192.0.2.2"), start), None);
        assert_eq!(attempts.must_wait(bad, start + WINDOW), None);
        attempts.failed(bad, start + WINDOW);
        assert_eq!(attempts.must_wait(bad, start + WINDOW), None, "a new window begins");
    }

    #[test]
    fn a_party_is_its_ipv6_network_and_its_ipv4_address_however_written() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        for host in 0..MAX_FAILURES {
            attempts.failed(address(&format!("2001:db8::{host:x}")), now);
            attempts.failed(address("::ffff:192.0.2.1"), now);
        }
        assert!(attempts.must_wait(address("2001:db8::ffff"), now).is_some());
        assert!(attempts.must_wait(address("2001:db8:0:1::1"), now).is_none());
        assert!(attempts.must_wait(address("192.0.2.1"), now).is_some());
    }

    #[test]
    fn someone_with_many_addresses_is_stopped_as_well() {
        let mut attempts = Attempts::default();
        let start = Instant::now();
        for n in 0..MAX_FAILURES_OVERALL {
            assert_eq!(attempts.must_wait(nth(n), start), None, "{n}");
            attempts.failed(nth(n), start);
        }
        assert_eq!(attempts.must_wait(nth(u32::MAX), start + WINDOW / 4), Some(WINDOW * 3 / 4));
        assert_eq!(attempts.must_wait(nth(u32::MAX), start + WINDOW), None);
    }

    fn nth(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut attempts = Attempts::default();
        let start = Instant::now();
        let addresses = u32::try_from(MAX_ADDRESSES).unwrap();
        for n in 0..=addresses {
            for _ in 0..MAX_FAILURES {
                attempts.failed(nth(n), start + Duration::from_millis(n.into()));
            }
        }
        assert_eq!(attempts.failures.len(), MAX_ADDRESSES);
        assert!(!attempts.failures.contains_key(&nth(0)));
        assert!(attempts.failures.contains_key(&nth(addresses)));
    }
}
