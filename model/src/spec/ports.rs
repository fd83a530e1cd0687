//! Mapped ports, one by one and in ranges.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One mapped port, or several in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Port inside the container; in YAML a number, or a range such as `8000-8010`.
    pub container_port: PortRange,
    /// Port of the node, or a range of the same length; `None` (0 on the wire) lets the agent choose each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<PortRange>,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// Interface whose IPv4 address is bound; `None` binds all addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
}

impl Port {
    /// Each port of the range by itself.
    pub fn singles(&self) -> impl Iterator<Item = SinglePort<'_>> {
        let host = |offset| self.host_port.and_then(|host| host.first.checked_add(offset));
        (0..).zip(self.container_port.first..=self.container_port.last).map(move |(offset, container_port)| {
            SinglePort {
                container_port,
                host_port: host(offset),
                protocol: self.protocol,
                host_interface: self.host_interface.as_deref(),
            }
        })
    }
}

/// One port of a [`Port`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinglePort<'a> {
    /// Port inside the container.
    pub container_port: u16,
    /// Port of the node; `None` lets the agent choose.
    pub host_port: Option<u16>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Interface whose IPv4 address is bound.
    pub host_interface: Option<&'a str>,
}

/// One port, or several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last; equal to the first for one port.
    pub last: u16,
}

impl PortRange {
    /// How many ports it has; none where the last is before the first.
    #[must_use]
    pub fn count(self) -> usize {
        (self.first..=self.last).len()
    }

    /// Whether a port is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last { serializer.serialize_u16(self.first) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = PortRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as 8080, or a range such as 8000-8010, up to 65535")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortRange, E> {
                let port = u16::try_from(number);
                port.map(PortRange::from).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortRange, E> {
                let port = u16::try_from(number);
                port.map(PortRange::from).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRange, E> {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                // Only digits: parse alone would take +80.
                let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
                let range = port(first.trim_end()).zip(port(last.trim_start()));
                let range = range.map(|(first, last)| PortRange { first, last });
                range.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Transport protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn ranges_are_read_and_written_as_people_write_them() {
        let table = [(json!(80), 80, 80, json!(80)), (json!("80"), 80, 80, json!(80))];
        let ranges = [(json!("8000-8010"), 8000, 8010, json!("8000-8010")), (json!("1 - 2"), 1, 2, json!("1-2"))];
        for (text, first, last, written) in table.into_iter().chain(ranges) {
            let range: PortRange = serde_json::from_value(text).unwrap();
            assert_eq!(range, PortRange { first, last });
            assert_eq!(serde_json::to_value(range).unwrap(), written);
        }
        for wrong in [json!(-1), json!(65_536), json!("1-65536"), json!("-"), json!("1-"), json!("+1"), json!("1-2-3")]
        {
            let told = serde_json::from_value::<PortRange>(wrong.clone()).unwrap_err().to_string();
            assert!(told.contains("a range such as 8000-8010"), "{wrong}: {told}");
        }
        assert!(serde_json::from_value::<PortRange>(Value::Null).is_err());
    }

    #[test]
    fn each_port_of_a_range_leads_to_the_one_in_its_place() {
        let port: Port =
            serde_json::from_value(json!({ "containerPort": "8000-8002", "hostPort": "9000-9002" })).unwrap();
        let pairs: Vec<_> = port.singles().map(|single| (single.host_port, single.container_port)).collect();
        assert_eq!(pairs, [(Some(9000), 8000), (Some(9001), 8001), (Some(9002), 8002)]);
        let last = PortRange { first: 65_534, last: 65_535 };
        let automatic = Port { container_port: last, host_port: None, ..port };
        assert_eq!(automatic.singles().map(|single| single.host_port).collect::<Vec<_>>(), [None, None]);
    }
}
