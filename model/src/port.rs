//! Host ports: which address one binds, and what of other apps stands against it.
//!
//! What other programs hold only the node itself can find.

use std::net::Ipv4Addr;

use crate::app::BoundPort;
use crate::failure::FailureReason;
use crate::name::AppName;
use crate::node::NetworkInterface;
use crate::spec::{AppSpec, Network, Protocol, SinglePort};

/// Why an app cannot have a port, by what is known of the node's interfaces and apps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRefusal {
    /// There is no such interface.
    #[error("The node has no network interface named {interface:?}; it has {known}.")]
    NoInterface {
        /// Asked for.
        interface: String,
        /// Those that it has.
        known: String,
    },
    /// The interface has no IPv4 address.
    #[error("The network interface {interface:?} has no IPv4 address.")]
    NoIpv4 {
        /// Asked for.
        interface: String,
    },
    /// Another app of this node has it.
    #[error("Port {port} is taken by the app {owner} on this node.")]
    Owned {
        /// Such as `8080/tcp on 0.0.0.0`.
        port: String,
        /// Who has it.
        owner: AppName,
    },
}

impl PortRefusal {
    /// The machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::NoInterface { .. } => FailureReason::InterfaceNotFound,
            Self::NoIpv4 { .. } => FailureReason::InterfaceWithoutIpv4,
            Self::Owned { .. } => FailureReason::PortInUse,
        }
    }
}

/// The address that a port binds on a node with these interfaces.
///
/// # Errors
///
/// The interface that it names is not there, or has no IPv4 address.
pub fn address(interfaces: &[NetworkInterface], port: SinglePort<'_>) -> Result<Ipv4Addr, PortRefusal> {
    let Some(name) = port.host_interface else { return Ok(Ipv4Addr::UNSPECIFIED) };
    let Some(interface) = interfaces.iter().find(|interface| interface.name == *name) else {
        let known: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        return Err(PortRefusal::NoInterface { interface: name.to_owned(), known: known.join(", ") });
    };
    interface.ipv4.first().copied().ok_or_else(|| PortRefusal::NoIpv4 { interface: name.to_owned() })
}

/// Everything that stands against the ports of a spec on a node with these interfaces, where others hold `taken`; the first
/// obstacle of each port, and each obstacle once: a range shares its interface.
#[must_use]
pub fn refusals(spec: &AppSpec, interfaces: &[NetworkInterface], taken: &[(&AppName, &BoundPort)]) -> Vec<PortRefusal> {
    let Network::Ports(ports) = &spec.network else { return Vec::new() };
    let singles = ports.iter().flat_map(|port| port.singles());
    let mut found: Vec<PortRefusal> = Vec::new();
    for refusal in singles.filter_map(|port| judge(port, interfaces, taken).err()) {
        if !found.contains(&refusal) {
            found.push(refusal);
        }
    }
    found
}

fn judge(
    port: SinglePort<'_>,
    interfaces: &[NetworkInterface],
    taken: &[(&AppName, &BoundPort)],
) -> Result<(), PortRefusal> {
    let host_ip = address(interfaces, port)?;
    // An automatic one is free by choice.
    let Some(host_port) = port.host_port else { return Ok(()) };
    let (container_port, protocol) = (port.container_port, port.protocol);
    let wanted =
        BoundPort { instance: 0, container_port, host_port, protocol, host_ip, shared: false, host_interface: None };
    match taken.iter().find(|(_, held)| collide(held, &wanted)) {
        Some((owner, _)) => Err(PortRefusal::Owned { port: describe(&wanted), owner: AppName::clone(owner) }),
        None => Ok(()),
    }
}

/// Whether two ports of a node cannot be open at the same time.
#[must_use]
pub fn collide(a: &BoundPort, b: &BoundPort) -> bool {
    a.protocol == b.protocol && a.host_port == b.host_port && same_address(a.host_ip, b.host_ip)
}

/// Whether two addresses cannot both have the same port.
#[must_use]
pub fn same_address(a: Ipv4Addr, b: Ipv4Addr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

/// A port for people, such as `8080/tcp on 0.0.0.0`.
#[must_use]
pub fn describe(port: &BoundPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol} on {}", port.host_port, port.host_ip)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(ports: serde_json::Value) -> AppSpec {
        serde_json::from_value(json!({ "name": "a", "image": { "reference": "a:1" }, "network": { "ports": ports } }))
            .unwrap()
    }

    fn interface(name: &str, ipv4: &[&str]) -> NetworkInterface {
        let ipv4 = ipv4.iter().map(|ip| ip.parse().unwrap()).collect();
        NetworkInterface { name: name.to_owned(), ipv4, ipv6: Vec::new() }
    }

    #[test]
    fn each_port_is_refused_for_its_own_reason() {
        let interfaces = [interface("eth0", &["10.0.0.7"]), interface("wwan0", &[])];
        let owner = AppName::parse("till-x1").unwrap();
        let held = |host_ip: &str, protocol| BoundPort {
            instance: 0,
            container_port: 80,
            host_port: 8080,
            protocol,
            host_ip: host_ip.parse().unwrap(),
            shared: false,
            host_interface: None,
        };
        let table = [
            (json!([{ "containerPort": 80 }]), "0.0.0.0", None),
            (json!([{ "containerPort": 80, "hostPort": 8081 }]), "0.0.0.0", None),
            (json!([{ "containerPort": 80, "hostPort": 8080, "protocol": "udp" }]), "0.0.0.0", None),
            (json!([{ "containerPort": 80, "hostPort": 8080, "hostInterface": "eth0" }]), "127.0.0.1", None),
            (
                json!([{ "containerPort": 80, "hostPort": 8080, "hostInterface": "eth0" }]),
                "0.0.0.0",
                Some("Port 8080/tcp on 10.0.0.7 is taken by the app till-x1 on this node."),
            ),
            (
                json!([{ "containerPort": 80, "hostPort": 8080 }]),
                "10.0.0.7",
                Some("Port 8080/tcp on 0.0.0.0 is taken by the app till-x1 on this node."),
            ),
            (
                json!([{ "containerPort": 80, "hostInterface": "wwan0" }]),
                "0.0.0.0",
                Some("The network interface \"wwan0\" has no IPv4 address."),
            ),
            (
                json!([{ "containerPort": 80, "hostInterface": "eth9" }]),
                "0.0.0.0",
                Some("The node has no network interface named \"eth9\"; it has eth0, wwan0."),
            ),
            (
                json!([{ "containerPort": "80-90", "hostInterface": "eth9" }]),
                "0.0.0.0",
                Some("The node has no network interface named \"eth9\"; it has eth0, wwan0."),
            ),
        ];
        for (ports, ip, expected) in table {
            let held = held(ip, Protocol::Tcp);
            let found = refusals(&spec(ports.clone()), &interfaces, &[(&owner, &held)]);
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{ports}");
        }
    }
}
