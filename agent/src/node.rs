//! Facts of this machine: what the agent says of it in its hello.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use longshore_model::capacity::Amounts;
use longshore_model::node::{NetworkInterface, NodeInfo};

use crate::runtime::embedded::INTERFACE_PREFIX;

/// Gathers everything that a hello says. Blocks for a moment.
///
/// # Errors
///
/// The kernel does not answer.
pub fn info(runtime: &str, capabilities: Vec<String>, host_ip: Option<Ipv4Addr>) -> io::Result<NodeInfo> {
    let kernel = nix::sys::utsname::uname()?;
    Ok(NodeInfo {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        architecture: architecture().to_owned(),
        kernel_release: kernel.release().to_string_lossy().into_owned(),
        cpus: cpus(),
        memory_bytes: memory(&std::fs::read_to_string("/proc/meminfo")?),
        interfaces: interfaces()?,
        capabilities,
        runtime: runtime.to_owned(),
        host_ip,
        allocatable: None,
        host_paths: None,
        accelerators: Vec::new(),
    })
}

/// What this machine has of what apps can ask for.
///
/// # Errors
///
/// The kernel does not answer.
pub fn capacity() -> io::Result<Amounts> {
    let memory = memory(&std::fs::read_to_string("/proc/meminfo")?);
    Ok(Amounts { cpu: u64::from(cpus()).saturating_mul(1000), memory })
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// The CPU architecture in OCI's words.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The machine's network interfaces with their addresses, by name; without those that lead to containers.
///
/// # Errors
///
/// The kernel does not answer.
pub fn interfaces() -> io::Result<Vec<NetworkInterface>> {
    let mut found: BTreeMap<String, NetworkInterface> = BTreeMap::new();
    for item in nix::ifaddrs::getifaddrs()? {
        if item.interface_name.starts_with(INTERFACE_PREFIX) {
            continue;
        }
        let entry = found.entry(item.interface_name.clone()).or_insert_with(|| NetworkInterface {
            name: item.interface_name.clone(),
            ipv4: Vec::new(),
            ipv6: Vec::new(),
        });
        let Some(address) = item.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            entry.ipv4.push(v4.ip());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            entry.ipv6.push(v6.ip());
        }
    }
    Ok(found.into_values().collect())
}

/// The IPv4 address by which this machine reaches `server` (`host:port`); `None` where there is no such way.
///
/// Connecting a UDP socket sends nothing: it makes the kernel choose a route. Blocks while it resolves the name.
#[must_use]
pub fn address_towards(server: &str) -> Option<Ipv4Addr> {
    let candidates: Vec<SocketAddr> = std::net::ToSocketAddrs::to_socket_addrs(server).ok()?.collect();
    candidates.into_iter().filter(SocketAddr::is_ipv4).find_map(|address| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(address).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    })
}

/// Bytes of memory, from the text of /proc/meminfo.
fn memory(meminfo: &str) -> u64 {
    let kibibytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_loopback_interface() {
        let interfaces = interfaces().unwrap();
        let names: Vec<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert!(names.contains(&"lo"), "{names:?}");
    }

    #[test]
    fn the_way_to_loopback_starts_on_loopback() {
        assert_eq!(address_towards("127.0.0.1:7441"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(address_towards("[::1]:7441"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(memory("MemTotal:       24000 kB\nMemFree: 1 kB\n"), 24000 * 1024);
        assert_eq!(memory(""), 0);
    }
}
