//! The way out: containers with mapped ports reach what their node reaches.
//!
//! Each container has a point-to-point pair of interfaces, and goes out under the node's own address. All that there is
//! beside the pairs, one packet filter table and the forwarding of interfaces that had none, is shared by every agent of
//! a network namespace and goes with the last pair. Nothing of it is on disk: the kernel is asked what there is.
//! `docs/decisions/0005-egress.md` says why.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod filter;
mod forwarding;
mod link;
mod range;

pub use range::{Choice, Range};

use super::failure;
use crate::runtime::RuntimeError;

/// What the names of all our interfaces on nodes begin with.
pub const INTERFACE_PREFIX: &str = "ls-";
/// The container's end of a pair.
const INSIDE: &str = "eth0";
/// The calling thread's network namespace.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Addresses that are tried before a range counts as full.
const MAX_TRIES: u32 = 64;

/// How containers of this node go out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Egress {
    /// Where the containers' addresses are from.
    pub(super) range: Range,
    /// The program that installs packet filters.
    filter: PathBuf,
    /// Names this node's interfaces, so that several agents can share a namespace.
    tag: String,
}

impl Egress {
    /// Finds out whether and how there is a way out; leaves nothing changed.
    ///
    /// # Errors
    ///
    /// Says in one sentence why there is none.
    pub(super) fn find(choice: Choice, node_uid: &str) -> Result<Self, String> {
        let (range, filter) = choose(choice)?;
        let tag = tag(node_uid);
        link::probe(&format!("{INTERFACE_PREFIX}{tag}"))
            .map_err(|e| format!("the kernel makes no pairs of interfaces: {e}"))?;
        Ok(Self { range, filter, tag })
    }
}

/// What the way out would be, and what could stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// Where containers' addresses would be from.
    pub range: Range,
    /// All rules of nftables, as it lists them.
    pub ruleset: String,
    /// The rules of iptables' older kind for what is forwarded, as it prints them; empty where that kind is not in use.
    pub legacy: String,
}

/// Looks for the way out, without trying it.
///
/// # Errors
///
/// Says in one sentence why there is none.
pub fn look(choice: Choice) -> Result<WayOut, String> {
    let (range, filter) = choose(choice)?;
    let ruleset = filter::ruleset(&filter).map_err(|e| format!("nft cannot be used: {e}"))?;
    let legacy = filter::legacy_forward().map_err(|e| format!("iptables-legacy cannot be used: {e}"))?;
    Ok(WayOut { range, ruleset, legacy })
}

/// The range and the program that installs packet filters.
fn choose(choice: Choice) -> Result<(Range, PathBuf), String> {
    let taken = || fs::read_to_string("/proc/net/route").map(|table| range::taken(&table));
    let taken = taken().map_err(|e| format!("the node's routes cannot be read: {e}"))?;
    let range = choice.pick(&taken)?;
    let filter = filter::program().ok_or("nft is not installed")?;
    filter::check(&filter, range).map_err(|e| format!("nft cannot be used: {e}"))?;
    Ok((range, filter))
}

/// Six characters that tell this node's interfaces from another agent's.
fn tag(node_uid: &str) -> String {
    hex::encode(&Sha256::digest(node_uid.as_bytes())[..3])
}

/// Holds up every other agent and shim of the calling thread's network namespace while they make or remove what is shared.
///
/// The namespace itself is what is locked: nothing on disk, and nothing left by a crash.
fn lock() -> io::Result<Flock<File>> {
    Flock::lock(File::open(NAMESPACE)?, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Connects the calling process's network namespace with `node`, the node's. The process must have one thread only.
pub(super) fn attach(egress: &Egress, node: &File) -> Result<Ipv4Addr, RuntimeError> {
    let inside = File::open(NAMESPACE).map_err(|e| failure::io("opening the network namespace", e))?;
    let enter = |namespace: &File| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| failure::io("changing the network namespace", e))
    };
    enter(node)?;
    let plugged = plug(egress, &inside);
    enter(&inside)?;
    let address = plugged.map_err(|e| failure::io("making the container's way out", e))?;
    link::address_inside(INSIDE, address).map_err(|e| failure::io("setting the container's address", e))?;
    Ok(address)
}

/// The node's side: the pair, the address's route, the filter and forwarding.
fn plug(egress: &Egress, inside: &File) -> io::Result<Ipv4Addr> {
    let _lock = lock()?;
    for _ in 0..MAX_TRIES {
        let address = egress.range.address(rand::random());
        let name = format!("{INTERFACE_PREFIX}{}{:06x}", egress.tag, address.to_bits() & 0xff_ffff);
        // The kernel's own tables say which names and addresses are taken, whoever took them.
        match link::pair(&name, INSIDE, inside, address) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        }
        let closed = forwarding::closed()?;
        filter::install(&egress.filter, egress.range, &closed)?;
        // In this order: what is opened is guarded already, and known to the one who closes it again.
        forwarding::set(&closed, true)?;
        forwarding::set(&[name], true)?;
        return Ok(address);
    }
    Err(io::Error::other(format!("no free address was found in {}", egress.range)))
}

/// Takes the container's end away, and with it the node's, from inside the container's network namespace.
pub(super) fn detach() -> io::Result<()> {
    link::delete(INSIDE)
}

/// Names of our interfaces in this network namespace: of this node, or of all agents.
fn interfaces(tag: &str) -> io::Result<Vec<String>> {
    let start = format!("{INTERFACE_PREFIX}{tag}");
    let mut names: Vec<String> = nix::ifaddrs::getifaddrs()?.map(|interface| interface.interface_name).collect();
    names.retain(|name| name.starts_with(&start));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a pair of this node is left.
pub(super) fn is_left(node_uid: &str) -> io::Result<bool> {
    interfaces(&tag(node_uid)).map(|names| !names.is_empty())
}

/// Removes this node's pairs if it `has_containers` no more, and what is shared when no agent has a pair any more.
///
/// A pair goes with its container; but the kernel takes its time over the network of one that was killed with its shim.
pub(super) fn tidy(node_uid: &str, has_containers: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let Some(filter) = filter::program() else { return Ok(()) };
    let _lock = lock()?;
    let stale = interfaces(&tag(node_uid))?;
    // Asked after: a container that comes in between has a directory before it has an interface.
    if !stale.is_empty() && !has_containers()? {
        stale.iter().try_for_each(|name| link::delete(name))?;
    }
    if !interfaces("")?.is_empty() {
        return Ok(());
    }
    let Some(opened) = filter::opened(&filter)? else { return Ok(()) };
    // Where somebody has switched all forwarding on meanwhile, it is theirs.
    if !forwarding::is_general()? {
        forwarding::set(&opened, false)?;
    }
    filter::remove(&filter)
}
