//! What a spec may say of its containers beyond what to run: rights, limits, and what they find around them.

use serde::{Deserialize, Serialize};

use super::text;
use crate::limits;
use crate::linux::{ALL, CapabilitySet};

/// Capabilities of Linux that a container has beside the ordinary ones, or without some of them.
///
/// Names are those of the kernel, with or without `CAP_`; `ALL` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What it has, ordinary or not. Beyond the ordinary ones only where the node allows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// What it has not, although it is ordinary or [`ALL`] was added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

impl Capabilities {
    /// Whether nothing is said: a container has the ordinary ones.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }

    /// What a container gets, if the node has and allows it. Names that are none count for nothing.
    #[must_use]
    pub fn granted(&self) -> CapabilitySet {
        let says = |list: &[String], word: &str| list.iter().any(|name| name == word);
        let base = match (says(&self.add, ALL), says(&self.drop, ALL)) {
            (_, true) => CapabilitySet::NONE,
            (true, false) => CapabilitySet::EVERY,
            (false, false) => CapabilitySet::ORDINARY,
        };
        base.with(single(&self.add)).without(single(&self.drop))
    }

    /// What is added one by one.
    #[must_use]
    pub fn named(&self) -> CapabilitySet {
        single(&self.add)
    }

    /// What of [`Capabilities::granted`] goes beyond the ordinary.
    #[must_use]
    pub fn extraordinary(&self) -> CapabilitySet {
        self.granted().without(CapabilitySet::ORDINARY)
    }
}

fn single(names: &[String]) -> CapabilitySet {
    names.iter().filter(|name| *name != ALL).filter_map(|name| CapabilitySet::named(name).ok()).collect()
}

/// How much of its output an app keeps on its nodes, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logs {
    /// Bytes after which a file of an instance's output is put aside; in YAML `8Mi`. `None` means
    /// [`limits::DEFAULT_LOG_SIZE`].
    #[serde(default, with = "crate::quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// Files kept of each instance, the one that is written included. `None` means [`limits::DEFAULT_LOG_FILES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u32>,
    /// Absolute path inside the container of the directory in which the program writes files of logs by itself. A directory
    /// of the node is mounted there, which may take as much as the output does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

impl Logs {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes that one instance may take on a node: its output, and its own files of logs.
    #[must_use]
    pub fn bytes_of_an_instance(&self) -> u64 {
        let files = u64::from(self.max_files.unwrap_or(limits::DEFAULT_LOG_FILES));
        let output = self.max_size.unwrap_or(limits::DEFAULT_LOG_SIZE).saturating_mul(files);
        output.saturating_mul(if self.directory.is_some() { 2 } else { 1 })
    }
}

/// A limit of every process of a container: see setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "text::Ulimit", into = "text::Ulimit")]
pub struct Ulimit {
    /// One of [`crate::linux::ULIMITS`].
    pub name: String,
    /// The limit in force, in the kernel's unit for it; -1 means no limit.
    pub soft: i64,
    /// How far the process may raise it itself; -1 means no limit.
    pub hard: i64,
}

impl Ulimit {
    /// What stands for no limit.
    pub const UNLIMITED: i64 = -1;
}

/// Accelerators of the node, such as GPUs, of which each is one instance's at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceleratorQuota {
    /// Their kind in CDI's words, such as `nvidia.com/gpu`.
    pub kind: String,
    /// How many each instance has.
    #[serde(default = "one")]
    pub count: u32,
}

fn one() -> u32 {
    1
}

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Where it is on the node, below /dev; links are followed there.
    pub host_path: String,
    /// Where it is in the container, below /dev; `None` for the same place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_path: Option<String>,
    /// Some of `r`, `w` and `m`: read, write, make a node for it.
    #[serde(default = "all_permissions", skip_serializing_if = "is_all_permissions")]
    pub permissions: String,
}

impl Device {
    /// What a container may do with a device when the spec does not say: as Docker and Compose.
    pub const ALL_PERMISSIONS: &str = "rwm";

    /// Where it is in the container.
    #[must_use]
    pub fn target(&self) -> &str {
        self.container_path.as_deref().unwrap_or(&self.host_path)
    }

    /// Whether it may be read and written to: what is beyond that needs a capability.
    #[must_use]
    pub fn is_for_use(&self) -> bool {
        ['r', 'w'].into_iter().all(|letter| self.permissions.contains(letter))
    }
}

fn all_permissions() -> String {
    Device::ALL_PERMISSIONS.to_owned()
}

fn is_all_permissions(text: &str) -> bool {
    text == Device::ALL_PERMISSIONS
}

/// Names that mean an address: a line of /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostAlias {
    /// IPv4 or IPv6 address.
    pub ip: String,
    /// The names; at least one.
    pub hostnames: Vec<String>,
}

/// What of /etc/resolv.conf is not the node's: each list that is not empty takes the place of the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsConfig {
    /// Addresses of servers, asked in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Domains in which short names are looked up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub searches: Vec<String>,
    /// Options of the resolver: see resolv.conf(5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<DnsOption>,
}

impl DnsConfig {
    /// Whether all is the node's.
    #[must_use]
    pub fn is_nodes(&self) -> bool {
        *self == Self::default()
    }
}

/// An option of the resolver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsOption {
    /// Its name, such as `ndots`.
    pub name: String,
    /// Its value, for those that have one.
    #[serde(default, with = "crate::quantity::optional_text", skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl std::fmt::Display for DnsOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}:{value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_to_and_taken_from_the_ordinary_ones() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let ordinary = CapabilitySet::ORDINARY.to_string();
        let one = |name| CapabilitySet::named(name).unwrap_or_default();
        let table = [
            (&[][..], &[][..], ordinary.clone(), ""),
            (&[], &["ALL"], String::new(), ""),
            (&["CAP_NET_BIND_SERVICE"], &["ALL"], "NET_BIND_SERVICE".to_owned(), ""),
            (&["NET_ADMIN"], &["ALL"], "NET_ADMIN".to_owned(), "NET_ADMIN"),
            (&["KILL"], &[], ordinary, ""),
            (&["no such", "Kill"], &["ALL"], String::new(), ""),
        ];
        for (add, drop, granted, extraordinary) in table {
            let capabilities = Capabilities { add: words(add), drop: words(drop) };
            assert_eq!(capabilities.granted().to_string(), granted, "{capabilities:?}");
            assert_eq!(capabilities.extraordinary().to_string(), extraordinary, "{capabilities:?}");
        }
        let most = Capabilities { add: words(&["ALL"]), drop: words(&["SYS_ADMIN"]) };
        assert_eq!(most.granted(), CapabilitySet::EVERY.without(one("SYS_ADMIN")));
    }
}
