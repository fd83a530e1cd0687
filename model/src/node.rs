//! A node: an enrolled edge machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::accelerator::Stock;
use crate::capacity::Amounts;
use crate::fnv;
use crate::host_path::NodeRules;
use crate::limits::MAX_LABELS;
use crate::name::NodeName;

/// Labels of a node.
pub type Labels = BTreeMap<String, String>;

/// An enrolled edge machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Labels, for selectors.
    pub labels: Labels,
    /// When it enrolled.
    pub enroll_time: Timestamp,
    /// When the last session ended or the present one began.
    pub last_seen: Option<Timestamp>,
    /// What its agent said of it; `None` before the first session.
    pub info: Option<NodeInfo>,
    /// When its newest certificate ends, where that is known.
    pub certificate_end: Option<Timestamp>,
}

impl Node {
    /// Changes with what people can change, the labels, and when another machine takes over the name.
    #[must_use]
    pub fn etag(&self) -> String {
        let mut text = self.enroll_time.to_string();
        for (key, value) in &self.labels {
            // No part holds a line feed.
            text.extend(["\n", key, "\n", value]);
        }
        fnv::hash(&text)
    }
}

/// A change of a node's labels. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChange {
    /// Whether all that there are go first.
    pub clear: bool,
    /// Keys to remove; one that is absent is no mistake.
    pub remove: Vec<String>,
    /// Labels to set.
    pub set: Labels,
}

/// A node would have more than [`MAX_LABELS`] labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("would give the node {0} labels; at most {MAX_LABELS} are allowed")]
pub struct TooManyLabels(pub usize);

impl LabelChange {
    /// What becomes of a node's labels.
    ///
    /// # Errors
    ///
    /// There would be too many.
    pub fn apply(&self, labels: &Labels) -> Result<Labels, TooManyLabels> {
        let kept = labels.iter().filter(|(key, _)| !self.clear && !self.remove.contains(key));
        let mut labels: Labels = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        labels.extend(self.set.iter().map(|(key, value)| (key.clone(), value.clone())));
        if labels.len() > MAX_LABELS { Err(TooManyLabels(labels.len())) } else { Ok(labels) }
    }
}

/// What an agent says of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The agent's version.
    pub agent_version: String,
    /// CPU architecture in OCI's words.
    pub architecture: String,
    /// Kernel release.
    pub kernel_release: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Network interfaces.
    pub interfaces: Vec<NetworkInterface>,
    /// What the agent and its runtime can do.
    pub capabilities: Vec<String>,
    /// The container runtime.
    pub runtime: String,
    /// The IPv4 address by which it reaches the server.
    pub host_ip: Option<Ipv4Addr>,
    /// What of the machine is for apps, without what is kept for the system; `None` from older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Amounts>,
    /// What the node adds to the rules of host paths; `None` from older agents, and where it is more than can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_paths: Option<NodeRules>,
    /// Accelerators, by kind and model.
    #[serde(default)]
    pub accelerators: Vec<Stock>,
}

impl NodeInfo {
    /// Whether it said this word of [`crate::capability`].
    #[must_use]
    pub fn can(&self, word: &str) -> bool {
        self.capabilities.iter().any(|said| said == word)
    }
}

/// One network interface of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Name, such as eth0.
    pub name: String,
    /// Its IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
}
