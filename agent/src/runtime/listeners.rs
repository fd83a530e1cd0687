//! Who listens on a TCP port of a network that several share, as the kernel tells it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a socket that takes connections, in the kernel's tables.
const LISTEN: &str = "0A";

/// A socket that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// Of the node, or unspecified for all of them.
    address: IpAddr,
    port: u16,
    /// What the kernel calls the socket.
    inode: u64,
}

/// Where a connection reaches a process that was asked for, and nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The address.
    pub(super) address: SocketAddr,
    /// The socket that takes the connection.
    inode: u64,
}

/// Finds a place at which one of these processes takes connections on a port of the calling process's network. Blocks.
///
/// # Errors
///
/// The kernel's tables cannot be read.
pub(super) fn find(port: u16, processes: &[i32]) -> io::Result<Option<Place>> {
    let listeners = listeners()?;
    Ok(choose(&listeners, port, &sockets_of(processes)))
}

/// The place of a listener with these sockets. One where others could take the connection too is none: the kernel would decide
/// who gets it.
fn choose(listeners: &[Listener], port: u16, own: &HashSet<u64>) -> Option<Place> {
    let there: Vec<&Listener> = listeners.iter().filter(|listener| listener.port == port).collect();
    let is_own = |listener: &&&Listener| own.contains(&listener.inode);
    let places = there.iter().filter(is_own).flat_map(|listener| {
        reached_at(listener.address).into_iter().map(|address| (SocketAddr::new(address, port), listener.inode))
    });
    let is_safe = |address: IpAddr| there.iter().filter(|other| covers(other.address, address)).all(|o| is_own(&o));
    let safe = places.filter(|(address, _)| is_safe(address.ip()));
    // That of the node itself, which no network has to be up for.
    let (address, inode) = safe.min_by_key(|(address, _)| !address.ip().is_loopback())?;
    Some(Place { address, inode })
}

/// Addresses at which somebody can be reached who listens on this one.
fn reached_at(address: IpAddr) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => vec![Ipv4Addr::LOCALHOST.into()],
        // Whether it takes IPv4 as well is the socket's own affair.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => vec![Ipv6Addr::LOCALHOST.into()],
        address => vec![address.to_canonical()],
    }
}

/// Whether somebody who listens on the one address may take connections to the other.
fn covers(listening: IpAddr, address: IpAddr) -> bool {
    match listening {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.is_ipv4(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        listening => listening.to_canonical() == address,
    }
}

fn listeners() -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => found.extend(text.lines().filter_map(read)),
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Reads a row of the kernel's tables; `None` where it is none of a listener.
fn read(row: &str) -> Option<Listener> {
    let mut fields = row.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN).then_some(Listener { address: read_address(address)?, port, inode })
}

/// Words of 32 bits, each as this machine has it in memory.
fn read_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::V4(word(0)?.into())),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(words.into_iter().flatten()).for_each(|(byte, from)| *byte = from);
            Some(IpAddr::V6(bytes.into()))
        }
        _ => None,
    }
}

/// What the kernel calls the sockets that these processes have open.
fn sockets_of(processes: &[i32]) -> HashSet<u64> {
    let mut found = HashSet::new();
    for process in processes {
        // One that has just ended has none.
        let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            found.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn listener(address: &str, inode: u64) -> Listener {
        Listener { address: address.parse().unwrap(), port: 80, inode }
    }

    /// Listeners, and where those with the inodes 1 and 2 are reached.
    type Case = (&'static [(&'static str, u64)], Option<&'static str>);

    #[test]
    fn only_what_is_the_processes_own_and_nobody_elses_is_a_place() {
        let table: [Case; 12] = [
            (&[], None),
            (&[("0.0.0.0", 9)], None),
            (&[("0.0.0.0", 1)], Some("127.0.0.1:80")),
            (&[("::", 1)], Some("[::1]:80")),
            (&[("127.0.0.1", 1)], Some("127.0.0.1:80")),
            (&[("192.0.2.7", 1)], Some("192.0.2.7:80")),
            // The node's own on the loopback, the app's on an interface.
            (&[("127.0.0.1", 9), ("192.0.2.7", 1)], Some("192.0.2.7:80")),
            (&[("192.0.2.7", 2), ("127.0.0.1", 1)], Some("127.0.0.1:80")),
            // A port that both have by SO_REUSEPORT: the kernel chooses.
            (&[("0.0.0.0", 1), ("0.0.0.0", 9)], None),
            (&[("0.0.0.0", 1), ("127.0.0.1", 9)], None),
            (&[("127.0.0.1", 1), ("::", 9)], None),
            (&[("0.0.0.0", 1), ("::", 9), ("::1", 2)], None),
        ];
        for (listening, place) in table {
            let listeners: Vec<Listener> = listening.iter().map(|(address, inode)| listener(address, *inode)).collect();
            let chosen = choose(&listeners, 80, &HashSet::from([1, 2]));
            assert_eq!(chosen.map(|place| place.address.to_string()).as_deref(), place, "{listening:?}");
            assert_eq!(choose(&listeners, 81, &HashSet::from([1, 2])), None, "another port");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn rows_of_the_kernels_tables_are_read() {
        let row = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        let read_row = read(row).unwrap();
        assert_eq!(read_row, Listener { address: Ipv4Addr::LOCALHOST.into(), port: 8080, inode: 4711 });
        let sixth =
            "0: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1";
        assert_eq!(read(sixth).unwrap().address, "2001:db8::1".parse::<IpAddr>().unwrap());
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        for other in [row.replace(" 0A ", " 01 ").as_str(), head, "", "0: 7F:50 0:0 0A 0 0 0 0 0 1"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_listener_of_this_process_is_its_own_and_of_no_other() {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let own = i32::try_from(std::process::id()).unwrap();
        let place = find(port, &[own]).unwrap().unwrap();
        assert_eq!(place.address, socket.local_addr().unwrap());
        assert_eq!(find(port, &[]).unwrap(), None);
        drop(socket);
        assert_eq!(find(port, &[own]).unwrap(), None);
    }
}
