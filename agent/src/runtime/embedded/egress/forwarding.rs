//! Forwarding of packets, interface by interface.
//!
//! The node's general switch is left alone: other tools tell by it whether forwarding is wanted, and act on it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::INTERFACE_PREFIX;
use super::filter::is_plain;

/// One directory per interface, and two that stand for several.
const INTERFACES: &str = "/proc/sys/net/ipv4/conf";

/// Whether the node forwards in general.
pub(super) fn is_general() -> io::Result<bool> {
    is_on(Path::new("/proc/sys/net/ipv4/ip_forward"))
}

fn is_on(switch: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(switch)?.trim() != "0")
}

/// Interfaces from which nothing would be forwarded, and so no answer to a container.
pub(super) fn closed() -> io::Result<Vec<String>> {
    if is_general()? {
        return Ok(Vec::new());
    }
    let mut closed = Vec::new();
    for entry in fs::read_dir(INTERFACES)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let is_eligible =
            is_plain(&name) && !name.starts_with(INTERFACE_PREFIX) && !["all", "default", "lo"].contains(&&*name);
        // One that went meanwhile needs nothing.
        if is_eligible && !is_on(&Path::new(INTERFACES).join(&name).join("forwarding")).unwrap_or(true) {
            closed.push(name);
        }
    }
    Ok(closed)
}

/// Switches interfaces on or off; those that are gone are passed over.
pub(super) fn set(names: &[String], on: bool) -> io::Result<()> {
    for name in names {
        match fs::write(Path::new(INTERFACES).join(name).join("forwarding"), if on { "1" } else { "0" }) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
