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

/// Counts failures by address. Successes do not count: a whole fleet may enrol from behind one address.
#[derive(Debug, Default)]
pub struct Attempts {
    failures: HashMap<IpAddr, Failures>,
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
}

impl Attempts {
    /// How long this address has to wait before it may try again; `None` when it may now.
    #[must_use]
    pub fn must_wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.failures.get(&network(address))?;
        (failures.count >= MAX_FAILURES && !failures.is_over(now))
            .then(|| WINDOW.saturating_sub(now.saturating_duration_since(failures.since)))
    }

    /// Counts a failure.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        let key = network(address);
        if self.failures.len() >= MAX_ADDRESSES && !self.failures.contains_key(&key) {
            self.make_room(now);
        }
        let failures = self.failures.entry(key).or_insert(Failures { since: now, count: 0 });
        if failures.is_over(now) {
            *failures = Failures { since: now, count: 0 };
        }
        failures.count = failures.count.saturating_add(1);
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
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut attempts = Attempts::default();
        let start = Instant::now();
        let nth = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..=MAX_ADDRESSES {
            for _ in 0..MAX_FAILURES {
                attempts.failed(nth(n), start + Duration::from_millis(u64::try_from(n).unwrap()));
            }
        }
        assert_eq!(attempts.failures.len(), MAX_ADDRESSES);
        let now = start + Duration::from_secs(2);
        assert!(attempts.must_wait(nth(0), now).is_none());
        assert!(attempts.must_wait(nth(MAX_ADDRESSES), now).is_some());
    }
}
