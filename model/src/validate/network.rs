//! Rules of mapped ports.

use super::{Path, Violations, at_most, quoted};
use crate::limits;
use crate::spec::{AppSpec, Network, Port, PortRange};

pub(super) fn network(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    let Network::Ports(ports) = &spec.network else {
        return;
    };
    let mapping = path.field("port_mapping");
    let list = mapping.field("ports");
    at_most(ports.len(), limits::MAX_PORTS, list, bad);
    how_many(ports, spec.instances, list, bad);
    for (index, port) in ports.iter().enumerate() {
        let entry = list.index(index);
        one_port(port, entry, bad);
        let earlier = ports.iter().take(index.min(limits::MAX_PORTS));
        if let Some((first, what)) = earlier.enumerate().find_map(|(at, other)| Some((at, clash(port, other)?))) {
            bad.add(entry, format!("{what} ports[{first}]"));
        }
    }
}

/// Ranges have few entries and many ports.
fn how_many(ports: &[Port], instances: u32, list: Path<'_>, bad: &mut Violations) {
    let mapped = ports.iter().take(limits::MAX_PORTS).map(|port| port.container_port.count()).sum::<usize>();
    let bound = mapped.saturating_mul(instances as usize);
    if mapped > limits::MAX_MAPPED_PORTS {
        let most = limits::MAX_MAPPED_PORTS;
        bad.add(list, format!("has {mapped} ports, those of ranges one by one; at most {most} are allowed"));
    } else if bound > limits::MAX_BOUND_PORTS && instances <= limits::MAX_INSTANCES {
        let most = limits::MAX_BOUND_PORTS;
        let description =
            format!("has {mapped} ports for each of {instances} instances; at most {most} are allowed together");
        bad.add(list, description);
    }
}

fn one_port(port: &Port, path: Path<'_>, bad: &mut Violations) {
    let container = port.container_port;
    if container.first == 0 {
        bad.add(path.field("container_port"), "is needed, from 1 to 65535");
    } else {
        order(container, path.field("container_port"), bad);
    }
    match port.host_port {
        Some(PortRange { first: 0, .. }) => {
            bad.add(path.field("host_port"), "is 0; leave it out to let the node choose");
        }
        Some(host) if !order(host, path.field("host_port"), bad) => {}
        Some(host) if container.count() != 0 && host.count() != container.count() => {
            let description = format!(
                "has {} ports for {} of the container; both ranges must be of the same length",
                host.count(),
                container.count()
            );
            bad.add(path.field("host_port"), description);
        }
        _ => {}
    }
    if let Some(name) = &port.host_interface {
        interface(name, path.field("host_interface"), bad);
    }
}

/// Whether a range begins with its first port.
fn order(range: PortRange, path: Path<'_>, bad: &mut Violations) -> bool {
    let is_right = range.first <= range.last;
    if !is_right {
        bad.add(path, format!("is {range}; a range ends with its last port"));
    }
    is_right
}

/// What two ports have in common that they must not.
fn clash(port: &Port, other: &Port) -> Option<&'static str> {
    if port == other {
        return Some("is the same as");
    }
    let same_address = match (&port.host_interface, &other.host_interface) {
        (Some(one), Some(two)) => one == two,
        // Without an interface all addresses are bound, the other's too.
        _ => true,
    };
    let hosts = port.host_port.zip(other.host_port);
    let same_port = hosts.is_some_and(|(one, two)| one.overlaps(two)) && port.protocol == other.protocol;
    (same_address && same_port).then_some("takes the same host port as")
}

/// The kernel's rules of interface names.
fn interface(name: &str, path: Path<'_>, bad: &mut Violations) {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    if !fits || !name.chars().all(is_plain) {
        bad.add(path, format!("{} is not the name of a network interface such as eth0", quoted(name)));
    }
}
