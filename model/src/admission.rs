//! Machines that wait for a person's approval before they become nodes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use crate::name::NodeName;
use crate::node::Labels;

/// How long a machine may wait for approval, and then for its certificate: long enough for a night, short enough that
/// nobody approves of what everybody has forgotten.
pub const ADMISSION_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Machines that wait at once: more than a person can look at in a day, and some 500 bytes each.
pub const MAX_PENDING: u32 = 1000;

/// SHA-256 of a public key, as people compare it: 64 hexadecimal digits in groups of four.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// Why a text is not a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a fingerprint: 64 hexadecimal digits are expected, with or without '-' between them")]
pub struct FingerprintError;

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pair) in self.0.chunks(2).enumerate() {
            let dash = if index == 0 { "" } else { "-" };
            write!(f, "{dash}{}", hex::encode(pair))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != '-')
            .map(|c| c.to_digit(16).ok_or(FingerprintError))
            .collect::<Result<_, _>>()?;
        let bytes: Vec<u8> =
            digits.chunks(2).filter_map(|pair| u8::try_from(pair[0] << 4 | pair.get(1)?).ok()).collect();
        if digits.len() != 64 {
            return Err(FingerprintError);
        }
        bytes.try_into().map(Self).map_err(|_| FingerprintError)
    }
}

/// A machine that waits for approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingNode {
    /// The name that it wants.
    pub name: NodeName,
    /// Its key.
    pub key: Fingerprint,
    /// Where it came from.
    pub address: IpAddr,
    /// Public half of the token that it has used.
    pub token: String,
    /// Labels that it would have.
    pub labels: Labels,
    /// When it asked first.
    pub create_time: Timestamp,
    /// When it is forgotten.
    pub expire_time: Timestamp,
}

impl PendingNode {
    /// Differs for every machine and attempt, so that nobody approves of a machine other than the one looked at.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{}-{:x}", hex::encode(&self.key.0[..8]), self.create_time.as_microsecond())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_back_however_it_is_grouped() {
        let print = Fingerprint(std::array::from_fn(|index| u8::try_from(index * 7 % 256).unwrap()));
        let text = print.to_string();
        assert_eq!(text.len(), 64 + 15);
        assert!(text.starts_with("0007-0e15-"), "{text}");
        for same in [text.clone(), text.replace('-', ""), text.to_uppercase()] {
            assert_eq!(same.parse(), Ok(print), "{same}");
        }
        for other in ["", "00", &text[1..], &format!("{text}0"), &text.replace('0', "g"), "é"] {
            assert_eq!(other.parse::<Fingerprint>(), Err(FingerprintError), "{other}");
        }
    }
}
