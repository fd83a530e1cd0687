//! Nodes.

use jiff::Timestamp;
use longshore_model::accelerator::Stock;
use longshore_model::admission::PendingNode;
use longshore_model::capacity::Amounts;
use longshore_model::host_path::NodeRules;
use longshore_model::limits;
use longshore_model::node::{Labels, NetworkInterface, Node, NodeInfo};
use longshore_model::validate::{Path, Violations};

use super::{FromWire, address, list, message, optional, required, timestamp};
use crate::v1;

/// The wire form of a node that has a live session or not; a connected one was last seen `now`.
#[must_use]
pub fn node(node: &Node, connected: bool, now: Timestamp) -> v1::Node {
    let last_seen = if connected { Some(now) } else { node.last_seen };
    v1::Node {
        name: node.name.to_string(),
        labels: node.labels.clone().into_iter().collect(),
        connected,
        enroll_time: Some(timestamp(node.enroll_time)),
        last_seen_time: last_seen.map(timestamp),
        info: node.info.as_ref().map(v1::NodeInfo::from),
        etag: node.etag(),
        certificate_expire_time: node.certificate_end.map(timestamp),
        // What is live is for whoever knows of sessions.
        status: None,
        warnings: Vec::new(),
        refusals: Vec::new(),
    }
}

impl From<&PendingNode> for v1::PendingNode {
    fn from(machine: &PendingNode) -> Self {
        Self {
            name: machine.name.to_string(),
            key_fingerprint: machine.key.to_string(),
            address: machine.address.to_string(),
            token_id: machine.token.clone(),
            labels: machine.labels.clone().into_iter().collect(),
            create_time: Some(timestamp(machine.create_time)),
            expire_time: Some(timestamp(machine.expire_time)),
            etag: machine.etag(),
        }
    }
}

impl FromWire<v1::Node> for Node {
    fn from_wire(wire: v1::Node, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let name = FromWire::from_wire(wire.name, path.field("name"), bad);
        let enroll_time = required(wire.enroll_time, path.field("enroll_time"), bad);
        let last_seen = optional(wire.last_seen_time, path.field("last_seen_time"), bad);
        let info = optional(wire.info, path.field("info"), bad);
        let certificate_end = optional(wire.certificate_expire_time, path.field("certificate_expire_time"), bad);
        Some(Self {
            name: name?,
            labels: Labels::from_iter(wire.labels),
            enroll_time: enroll_time?,
            last_seen: last_seen?,
            info: info?,
            certificate_end: certificate_end?,
        })
    }
}

impl From<&NodeInfo> for v1::NodeInfo {
    fn from(info: &NodeInfo) -> Self {
        Self {
            agent_version: info.agent_version.clone(),
            architecture: info.architecture.clone(),
            kernel_release: info.kernel_release.clone(),
            cpus: info.cpus,
            memory_bytes: info.memory_bytes,
            interfaces: info.interfaces.iter().map(v1::NetworkInterface::from).collect(),
            capabilities: info.capabilities.clone(),
            runtime: info.runtime.clone(),
            host_ip: info.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            allocatable: info.allocatable.map(v1::Allocatable::from),
            host_path_rules: info.host_paths.as_ref().map(v1::HostPathRules::from),
            accelerators: info.accelerators.iter().map(v1::AcceleratorStock::from).collect(),
        }
    }
}

impl From<Amounts> for v1::Allocatable {
    fn from(amounts: Amounts) -> Self {
        Self { cpu_millis: amounts.cpu, memory_bytes: amounts.memory }
    }
}

impl From<v1::Allocatable> for Amounts {
    fn from(wire: v1::Allocatable) -> Self {
        Self { cpu: wire.cpu_millis, memory: wire.memory_bytes }
    }
}

impl From<&NodeRules> for v1::HostPathRules {
    fn from(rules: &NodeRules) -> Self {
        Self { guarded: rules.guarded.clone(), allowed: rules.allowed.clone() }
    }
}

/// The rules that a node tells, if they are few enough to be kept: a part of them would be other rules.
fn host_path_rules(wire: v1::HostPathRules) -> Option<NodeRules> {
    let is_bounded = wire.guarded.len().saturating_add(wire.allowed.len()) <= limits::MAX_HOST_PATH_RULES;
    let is_sound = |path: &String| path.len() <= limits::MAX_PATH;
    (is_bounded && wire.guarded.iter().chain(&wire.allowed).all(is_sound))
        .then_some(NodeRules { guarded: wire.guarded, allowed: wire.allowed })
}

impl FromWire<v1::NodeInfo> for NodeInfo {
    /// Lists that are too long are cut: a machine with a thousand interfaces may still be a node.
    fn from_wire(mut wire: v1::NodeInfo, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        wire.interfaces.truncate(limits::MAX_INTERFACES);
        wire.capabilities.truncate(limits::MAX_CAPABILITIES);
        let interfaces = list(wire.interfaces, path.field("interfaces"), bad);
        let host_ip = if wire.host_ip.is_empty() {
            Some(None)
        } else {
            address(&wire.host_ip, path.field("host_ip"), bad).map(Some)
        };
        if wire.architecture.is_empty() {
            bad.add(path.field("architecture"), "must not be empty");
            return None;
        }
        Some(Self {
            agent_version: message(wire.agent_version),
            architecture: message(wire.architecture),
            kernel_release: message(wire.kernel_release),
            cpus: wire.cpus,
            memory_bytes: wire.memory_bytes,
            interfaces: interfaces?,
            capabilities: wire.capabilities.into_iter().map(message).collect(),
            runtime: message(wire.runtime),
            host_ip: host_ip?,
            allocatable: wire.allocatable.map(Amounts::from),
            host_paths: wire.host_path_rules.and_then(host_path_rules),
            accelerators: stocks(wire.accelerators),
        })
    }
}

impl From<&Stock> for v1::AcceleratorStock {
    fn from(stock: &Stock) -> Self {
        Self { kind: stock.kind.clone(), model: stock.model.clone(), count: stock.count, free_count: stock.free }
    }
}

/// What an agent says of its machine's accelerators. A list that is too long is cut.
#[must_use]
pub fn stocks(wire: Vec<v1::AcceleratorStock>) -> Vec<Stock> {
    let stock = |stock: v1::AcceleratorStock| Stock {
        kind: message(stock.kind),
        model: message(stock.model),
        count: stock.count,
        free: stock.free_count.min(stock.count),
    };
    wire.into_iter().take(limits::MAX_STOCKS).map(stock).collect()
}

impl From<&NetworkInterface> for v1::NetworkInterface {
    fn from(interface: &NetworkInterface) -> Self {
        Self {
            name: interface.name.clone(),
            ipv4: interface.ipv4.iter().map(ToString::to_string).collect(),
            ipv6: interface.ipv6.iter().map(ToString::to_string).collect(),
        }
    }
}

impl FromWire<v1::NetworkInterface> for NetworkInterface {
    fn from_wire(wire: v1::NetworkInterface, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let ipv4 = addresses(&wire.ipv4, path.field("ipv4"), bad);
        let ipv6 = addresses(&wire.ipv6, path.field("ipv6"), bad);
        Some(Self { name: message(wire.name), ipv4: ipv4?, ipv6: ipv6? })
    }
}

fn addresses<T: std::str::FromStr>(texts: &[String], path: Path<'_>, bad: &mut Violations) -> Option<Vec<T>> {
    let read = |(index, text): (usize, &String)| address(text, path.index(index), bad);
    texts.iter().take(limits::MAX_ADDRESSES).enumerate().map(read).collect()
}
