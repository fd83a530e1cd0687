//! The audit log: who did what when, each entry bound to the one before it.
//!
//! An entry's hash covers the hash before it, so that nobody can change, drop or add an entry in the middle without changing
//! every hash after it. Whoever can write the database can still write a whole log anew, or cut off its end: against that,
//! a [`Head`] that was noted elsewhere says what the log must still contain.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Bytes of a SHA-256 hash.
const HASH: usize = 32;
/// What every hash begins with, so that it can be mistaken for no other one; it changes when what is hashed does.
const DOMAIN: &[u8] = b"longshore audit entry 1\0";

/// Something that was done, or that somebody tried to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When it was over.
    pub time: Timestamp,
    /// Who did it, as [`crate::identity::Identity`] shows itself; empty for a machine that had no certificate yet.
    pub caller: String,
    /// SHA-256 of the public key that the caller showed, in hexadecimal; empty without a certificate.
    pub key_fingerprint: String,
    /// The address that the call came from; empty when it is not known.
    pub address: String,
    /// What was called, as `longshore.v1.JobService/CreateJob`.
    pub method: String,
    /// What it was done to, as `nodes/till-1/apps/shop-x7k2`; empty when the call was refused before that was known.
    pub target: String,
    /// Whether it was only to be checked, so that nothing was changed.
    pub validate_only: bool,
    /// The gRPC code of the answer, as `OK` or `PERMISSION_DENIED`.
    pub code: String,
    /// The reason in an error's details; empty with `OK`.
    pub reason: String,
    /// What the call is called in the server's log.
    pub request_id: String,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// 1, 2, 3, …
    pub number: u64,
    /// What was done.
    pub deed: Deed,
    /// Binds it, its number, and the hash before it.
    pub hash: [u8; HASH],
}

/// The end of a log, or of a part of it: the number and the hash of its last entry. The default is that of an empty log.
///
/// Its text is the number, a colon, and the hash in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of the last entry; 0 before the first one.
    pub number: u64,
    /// Its hash; zeros before the first one.
    pub hash: [u8; HASH],
}

/// Why an entry does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Another number comes next.
    #[error("entry {expected} is missing: entry {found} follows entry {}", expected.saturating_sub(1))]
    Missing {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The hash is not that of this entry after the one before it.
    #[error("entry {0} is not what it was when it was written: its hash does not fit")]
    Altered(u64),
}

/// A text that is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be the number of an entry, a colon and its hash of 64 hexadecimal digits, as `longshore audit verify` prints them"
)]
pub struct NotAHead;

impl Head {
    /// The entry that comes next.
    #[must_use]
    pub fn seal(&self, deed: Deed) -> AuditEntry {
        let number = self.number.saturating_add(1);
        let hash = hash(self, number, &deed);
        AuditEntry { number, deed, hash }
    }

    /// Goes on to the next entry.
    ///
    /// # Errors
    ///
    /// It does not follow, and the head stays where it is.
    pub fn follow(&mut self, entry: &AuditEntry) -> Result<(), Broken> {
        let expected = self.number.saturating_add(1);
        if entry.number != expected {
            return Err(Broken::Missing { expected, found: entry.number });
        }
        if entry.hash != hash(self, entry.number, &entry.deed) {
            return Err(Broken::Altered(entry.number));
        }
        *self = Self { number: entry.number, hash: entry.hash };
        Ok(())
    }
}

/// SHA-256 over [`DOMAIN`], the hash before, the number and the microseconds since 1970, both in eight bytes with the
/// greatest first, each text after its length in eight such bytes, in the order of [`Deed`], and one byte, 1 for a deed that
/// was only to be checked, where that stands.
fn hash(before: &Head, number: u64, deed: &Deed) -> [u8; HASH] {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(before.hash);
    hash.update(number.to_be_bytes());
    hash.update(deed.time.as_microsecond().to_be_bytes());
    let texts = |hash: &mut Sha256, texts: &[&str]| {
        for text in texts {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    };
    texts(&mut hash, &[&deed.caller, &deed.key_fingerprint, &deed.address, &deed.method, &deed.target]);
    hash.update([u8::from(deed.validate_only)]);
    texts(&mut hash, &[&deed.code, &deed.reason, &deed.request_id]);
    hash.finalize().into()
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, hex::encode(self.hash))
    }
}

impl FromStr for Head {
    type Err = NotAHead;

    fn from_str(text: &str) -> Result<Self, NotAHead> {
        let (number, digits) = text.split_once(':').ok_or(NotAHead)?;
        let number = number.parse().map_err(|_| NotAHead)?;
        let mut hash = [0; HASH];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| NotAHead)?;
        Ok(Self { number, hash })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deed(target: &str) -> Deed {
        Deed {
            time: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            caller: "operator ada".to_owned(),
            key_fingerprint: "ab".repeat(32),
            address: "192.0.2.7:50112".to_owned(),
            method: "longshore.v1.JobService/StopJob".to_owned(),
            target: target.to_owned(),
            validate_only: false,
            code: "OK".to_owned(),
            reason: String::new(),
            request_id: "9f1c9a3e".to_owned(),
        }
    }

    fn log(targets: &[&str]) -> Vec<AuditEntry> {
        let mut head = Head::default();
        targets
            .iter()
            .map(|target| {
                let entry = head.seal(deed(target));
                head.follow(&entry).unwrap();
                entry
            })
            .collect()
    }

    fn verify(log: &[AuditEntry]) -> Result<Head, Broken> {
        let mut head = Head::default();
        log.iter().try_for_each(|entry| head.follow(entry)).map(|()| head)
    }

    #[test]
    fn what_is_hashed_stays_what_it_is() {
        // Worked out by other means (Python's hashlib) from the words of docs/api.md.
        let entry = Head::default().seal(deed("jobs/j1"));
        let head = Head { number: 1, hash: entry.hash };
        assert_eq!(head.to_string(), "1:d5bca308d592fc3ba0eae9ca5d48617015e4fa2a4e63d8fea57519a2e6a34fe1");
    }

    #[test]
    fn a_log_that_was_touched_is_found_out() {
        let good = log(&["jobs/a", "jobs/b", "jobs/c"]);
        assert_eq!(verify(&good), Ok(Head { number: 3, hash: good[2].hash }));

        let dropped: Vec<_> = [&good[0], &good[2]].into_iter().cloned().collect();
        assert_eq!(verify(&dropped), Err(Broken::Missing { expected: 2, found: 3 }));
        let mut renumbered = dropped;
        renumbered[1].number = 2;
        assert_eq!(verify(&renumbered), Err(Broken::Altered(2)));
        let other = log(&["jobs/a", "jobs/x", "jobs/c"]);
        let spliced: Vec<_> = [&good[0], &other[1], &good[2]].into_iter().cloned().collect();
        assert_eq!(verify(&spliced), Err(Broken::Altered(3)));
    }

    /// Every way to change one field of a deed.
    fn changes() -> Vec<fn(&mut Deed)> {
        vec![
            |deed| deed.time += std::time::Duration::from_micros(1),
            |deed| deed.caller.push('x'),
            |deed| deed.key_fingerprint.clear(),
            |deed| deed.address.push('1'),
            |deed| deed.method.push('s'),
            |deed| deed.target.push('s'),
            |deed| deed.validate_only = true,
            |deed| deed.code = "ABORTED".to_owned(),
            |deed| deed.reason = "X".to_owned(),
            |deed| deed.request_id.clear(),
            // The same characters, with another border between two texts.
            |deed| {
                let first = deed.target.remove(0);
                deed.method.push(first);
            },
        ]
    }

    #[test]
    fn every_field_is_bound() {
        for (index, change) in changes().into_iter().enumerate() {
            let mut log = log(&["jobs/a", "jobs/b"]);
            change(&mut log[0].deed);
            assert_eq!(verify(&log), Err(Broken::Altered(1)), "change {index}");
        }
    }

    proptest! {
        #[test]
        fn a_head_is_read_as_it_is_written(number: u64, hash: [u8; HASH]) {
            let head = Head { number, hash };
            prop_assert_eq!(head.to_string().parse::<Head>(), Ok(head));
        }

        #[test]
        fn whatever_else_is_no_head(text in "\\PC{0,70}") {
            prop_assume!(text.len() < 66);
            prop_assert_eq!(text.parse::<Head>(), Err(NotAHead));
        }
    }
}
