//! Ranges of addresses, and which of them are free on a node.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Private ranges that are tried in turn where none is asked for.
const CANDIDATES: [Range; 4] = [
    Range { network: Ipv4Addr::new(10, 213, 0, 0), length: 16 },
    Range { network: Ipv4Addr::new(172, 29, 0, 0), length: 16 },
    Range { network: Ipv4Addr::new(192, 168, 213, 0), length: 24 },
    Range { network: Ipv4Addr::new(100, 125, 0, 0), length: 16 },
];
/// Shorter prefixes are default routes in disguise, as some tunnels have them.
const MIN_LENGTH: u8 = 8;
/// Longer prefixes have no room for containers.
const MAX_LENGTH: u8 = 29;

/// A range of IPv4 addresses, `10.213.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    network: Ipv4Addr,
    length: u8,
}

/// Not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a range like 10.213.0.0/16 with a prefix of {MIN_LENGTH} to {MAX_LENGTH} bits")]
pub struct BadRange {
    text: String,
}

impl Range {
    fn mask(self) -> u32 {
        mask(self.length)
    }

    fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.network.to_bits() & mask == other.network.to_bits() & mask
    }

    /// One of its addresses but the first and the last, which some programs take for special.
    pub(super) fn address(self, random: u32) -> Ipv4Addr {
        let hosts = !self.mask() - 1;
        Ipv4Addr::from_bits(self.network.to_bits() + 1 + random % hosts)
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange { text: text.to_owned() };
        let (network, length) = text.split_once('/').ok_or_else(bad)?;
        let network: Ipv4Addr = network.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let is_good = (MIN_LENGTH..=MAX_LENGTH).contains(&length) && network.to_bits() & !mask(length) == 0;
        if is_good { Ok(Self { network, length }) } else { Err(bad()) }
    }
}

impl TryFrom<String> for Range {
    type Error = BadRange;

    fn try_from(text: String) -> Result<Self, BadRange> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// No way out.
    Off,
    /// The first private range of ours that the node has no route into.
    #[default]
    Auto,
    /// This range.
    Range(Range),
}

impl Choice {
    /// The range to use, beside what the node's routes have taken.
    pub(super) fn pick(self, taken: &[Range]) -> Result<Range, String> {
        let is_free = |range: &Range| !taken.iter().any(|other| other.overlaps(*range));
        match self {
            Self::Off => Err("it is switched off".to_owned()),
            Self::Auto => CANDIDATES
                .into_iter()
                .find(is_free)
                .ok_or_else(|| "the node has routes into every range that is tried; choose one".to_owned()),
            Self::Range(range) if is_free(&range) => Ok(range),
            Self::Range(range) => Err(format!("the node has a route into {range}")),
        }
    }
}

impl FromStr for Choice {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            range => range.parse().map(Self::Range),
        }
    }
}

/// What the routes of a node lead into, from the text of /proc/net/route: neither default routes nor ours.
pub(super) fn taken(table: &str) -> Vec<Range> {
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (interface, network, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        // The kernel prints the bytes as they lie in memory.
        let number = |text: &str| u32::from_str_radix(text, 16).ok().map(|bits| u32::from_be_bytes(bits.to_ne_bytes()));
        let length = u8::try_from(number(mask)?.count_ones()).ok()?;
        let is_foreign = !interface.starts_with(super::INTERFACE_PREFIX) && length >= MIN_LENGTH;
        is_foreign.then_some(Range { network: Ipv4Addr::from_bits(number(network)?), length })
    };
    table.lines().skip(1).filter_map(read).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_networks_with_room() {
        assert_eq!(range("10.213.0.0/16").to_string(), "10.213.0.0/16");
        for text in ["", "10.0.0.0", "10.0.0.1/8", "10.0.0.0/30", "0.0.0.0/0", "10.0.0.0/7", "::/8", "10.0.0.0/x"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_lie_between_the_first_and_the_last() {
        let small = range("192.0.2.8/29");
        let mut seen: Vec<u8> = (0..100).map(|random| small.address(random).octets()[3]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [9, 10, 11, 12, 13, 14]);
        assert_eq!(range("10.0.0.0/8").address(u32::MAX).octets()[0], 10);
    }

    #[test]
    fn a_range_that_the_node_reaches_otherwise_is_not_taken() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     tun0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
                     eth0\t0000D50A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                     ls-0123456789ab\t05001DAC\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        let taken = taken(table);
        assert_eq!(taken, [range("10.213.0.0/16")]);
        assert_eq!(Choice::Auto.pick(&taken), Ok(range("172.29.0.0/16")));
        assert_eq!(Choice::Auto.pick(&[]), Ok(range("10.213.0.0/16")));
        let wanted = Choice::Range(range("10.213.7.0/24"));
        assert_eq!(wanted.pick(&taken), Err("the node has a route into 10.213.7.0/24".to_owned()));
        assert_eq!(wanted.pick(&[]), Ok(range("10.213.7.0/24")));
        assert!(Choice::Auto.pick(&[range("10.0.0.0/8")]).is_ok());
        assert!(Choice::Off.pick(&[]).is_err());
    }

    #[test]
    fn the_operator_says_off_auto_or_a_range() {
        assert_eq!("off".parse(), Ok(Choice::Off));
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("10.1.0.0/16".parse(), Ok(Choice::Range(range("10.1.0.0/16"))));
        assert!("on".parse::<Choice>().is_err());
    }
}
