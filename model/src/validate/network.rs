//! Rules of mapped ports.

use super::{Path, Violations, at_most, quoted};
use crate::limits;
use crate::spec::{AppSpec, Network, Port};

pub(super) fn network(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    let Network::Ports(ports) = &spec.network else {
        return;
    };
    let mapping = path.field("port_mapping");
    let list = mapping.field("ports");
    at_most(ports.len(), limits::MAX_PORTS, list, bad);
    for (index, port) in ports.iter().enumerate() {
        let entry = list.index(index);
        one_port(port, spec.instances, entry, bad);
        let earlier = ports.iter().take(index.min(limits::MAX_PORTS));
        if let Some((first, what)) = earlier.enumerate().find_map(|(at, other)| Some((at, clash(port, other)?))) {
            bad.add(entry, format!("{what} ports[{first}]"));
        }
    }
}

fn one_port(port: &Port, instances: u32, path: Path<'_>, bad: &mut Violations) {
    if port.container_port == 0 {
        bad.add(path.field("container_port"), "is needed, from 1 to 65535");
    }
    if port.host_port == Some(0) {
        bad.add(path.field("host_port"), "is 0; leave it out to let the node choose");
    } else if port.host_port.is_some() && instances > 1 {
        let description = format!(
            "can be fixed for one instance only, and there are {instances}; leave it out to let the node choose"
        );
        bad.add(path.field("host_port"), description);
    }
    if let Some(name) = &port.host_interface {
        interface(name, path.field("host_interface"), bad);
    }
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
    let same_port = port.host_port.is_some() && port.host_port == other.host_port && port.protocol == other.protocol;
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
