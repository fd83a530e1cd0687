//! Host ports: which of them an app gets, and that no two get the same.
//!
//! One table holds the ports of all apps of this node, so that deployments that run at once cannot race for one. What
//! other programs hold is found by binding, once, while the task is CHECKING: before anything is fetched or started.
//!
//! A fixed port of an app with several instances is held once, by the app; they share its traffic.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_model::app::BoundPort;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::node::NetworkInterface;
use longshore_model::port::{PortRefusal, address, collide, describe, same_address};
use longshore_model::spec::{AppSpec, Network, Protocol, SinglePort};

/// Ports that the agent chooses from: below the kernel's usual ephemeral range (32768 and up), so that no outgoing
/// connection holds one by chance.
const FIRST_AUTOMATIC: u16 = 20_000;
/// How many there are.
const AUTOMATIC: u16 = 12_768;

/// Why an app cannot have its ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The node's interfaces or another app stand against it.
    #[error(transparent)]
    Refused(#[from] PortRefusal),
    /// The spec asks for it twice.
    #[error("Port {port} is asked for twice by this app.")]
    Twice {
        /// Such as `8080/tcp on 0.0.0.0`.
        port: String,
    },
    /// A program that is none of our apps has it.
    #[error("Port {port} is taken by a program outside Longshore.")]
    Foreign {
        /// Such as `8080/tcp on 0.0.0.0`.
        port: String,
    },
    /// The kernel does not let it be bound.
    #[error("Port {port} cannot be bound: {problem}.")]
    Unbindable {
        /// Such as `80/tcp on 0.0.0.0`.
        port: String,
        /// What the kernel said.
        problem: String,
    },
    /// Every port of the automatic range is taken.
    #[error(
        "No port is free in the automatic range {FIRST_AUTOMATIC} to {}.",
        FIRST_AUTOMATIC + AUTOMATIC - 1
    )]
    Exhausted,
}

impl PortError {
    /// The machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            _ => FailureReason::PortInUse,
        }
    }
}

/// Owners of a port by protocol and number, each with the address that it binds.
type Taken = HashMap<(Protocol, u16), Vec<(Ipv4Addr, AppName)>>;

/// The host ports of all apps of this node.
#[derive(Debug, Default)]
pub struct PortTable {
    taken: Mutex<Taken>,
}

impl PortTable {
    /// Notes ports that an app holds already, as at the agent's start.
    pub fn adopt(&self, app: &AppName, ports: &[BoundPort]) {
        let mut taken = self.taken();
        for port in ports {
            insert(&mut taken, app, port);
        }
    }

    /// Gives up every port of an app but these, which it has already.
    pub fn keep_only(&self, app: &AppName, ports: &[BoundPort]) {
        let mut taken = self.taken();
        forget(&mut taken, app);
        ports.iter().for_each(|port| insert(&mut taken, app, port));
    }

    /// Lets an app have these ports, and those in `spare` as well, instead of those that it has. Changes nothing on an error.
    ///
    /// # Errors
    ///
    /// [`PortRefusal::Owned`].
    pub fn relocate(&self, app: &AppName, ports: &[BoundPort], spare: &[BoundPort]) -> Result<(), PortError> {
        let mut taken = self.taken();
        for port in ports {
            if let Some(owner) = owner(&taken, port).filter(|owner| *owner != app) {
                return Err(PortRefusal::Owned { port: describe(port), owner: owner.clone() }.into());
            }
        }
        forget(&mut taken, app);
        ports.iter().chain(spare).for_each(|port| insert(&mut taken, app, port));
        Ok(())
    }

    /// Gives up every port of an app.
    pub fn release(&self, app: &AppName) {
        forget(&mut self.taken(), app);
    }

    /// Finds and reserves the ports of every instance: those in `kept` again, fixed ones as the spec says, the others
    /// chosen, beginning at a random place. What its own containers have open, as `held` says, is not tested by binding.
    /// Those in `spare` stay the app's as well. On an error it has those and what is held. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// See [`PortError`].
    pub fn reserve(&self, request: &Request<'_>, random: u32) -> Result<Vec<BoundPort>, PortError> {
        let mut taken = self.taken();
        let mut ports: Vec<BoundPort> = Vec::new();
        forget(&mut taken, request.app);
        let reserved = wanted(request.spec).try_for_each(|(instance, place, port)| {
            // The ports of the first instance come first, in the spec's order.
            if let Some(first) = ports.get(place).filter(|first| first.shared && first.instance != instance) {
                let bound = BoundPort { instance, ..first.clone() };
                ports.push(bound);
                return Ok(());
            }
            let bound = choose(&taken, request, (instance, place), port, random)?;
            insert(&mut taken, request.app, &bound);
            ports.push(bound);
            Ok(())
        });
        if let Err(error) = reserved {
            forget(&mut taken, request.app);
            // What still runs keeps its ports.
            request.held.iter().chain(request.spare).for_each(|port| insert(&mut taken, request.app, port));
            return Err(error);
        }
        request.spare.iter().for_each(|port| insert(&mut taken, request.app, port));
        Ok(ports)
    }

    /// Everything that stands against an app's ports, as [`PortTable::reserve`] would find it; nothing is reserved. What the app has
    /// already is its own, and is not tested by binding, so that none of its containers meets a test. Blocks for a moment.
    #[must_use]
    pub fn foresee(
        &self,
        app: &AppName,
        spec: &AppSpec,
        interfaces: &[NetworkInterface],
        random: u32,
    ) -> Vec<PortError> {
        // Kept to the end: a reservation would take what is bound meanwhile for another program's.
        let table = self.taken();
        let held = owned(&table, app);
        let mut taken = table.clone();
        forget(&mut taken, app);
        // Further instances share the fixed ports of the first, and get others of the automatic range.
        let spec = AppSpec { instances: spec.instances.min(1), ..spec.clone() };
        let request = Request { app, spec: &spec, interfaces, kept: &[], held: &held, spare: &[] };
        let mut refusals = Vec::new();
        for (instance, place, port) in wanted(&spec) {
            match choose(&taken, &request, (instance, place), port, random) {
                Ok(bound) => insert(&mut taken, app, &bound),
                Err(refusal) => refusals.push(refusal),
            }
        }
        refusals
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Each insertion is whole; a panic in between leaves at worst a reservation too many.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where ports are that are bound to interfaces, now that these have such addresses; and of each of the interfaces the address, if it
/// has one.
#[must_use]
pub fn moved(ports: &[BoundPort], interfaces: &[NetworkInterface]) -> (Vec<BoundPort>, BTreeMap<String, Ipv4Addr>) {
    let mut addresses = BTreeMap::new();
    let mut moved = ports.to_vec();
    for port in &mut moved {
        let Some(name) = &port.host_interface else { continue };
        let interface = interfaces.iter().find(|interface| interface.name == *name);
        // It may be about to get another.
        let Some(address) = interface.and_then(|interface| interface.ipv4.first().copied()) else { continue };
        addresses.insert(name.clone(), address);
        port.host_ip = address;
    }
    (moved, addresses)
}

/// What an app asks for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Its spec.
    pub spec: &'a AppSpec,
    /// The node's interfaces.
    pub interfaces: &'a [NetworkInterface],
    /// Ports that it had before.
    pub kept: &'a [BoundPort],
    /// Ports that its running containers hold.
    pub held: &'a [BoundPort],
    /// Ports of another revision of it, which may have to come back: the two never run at the same time.
    pub spare: &'a [BoundPort],
}

/// Every port of every instance, with its place among those of the instance.
fn wanted(spec: &AppSpec) -> impl Iterator<Item = (u32, usize, SinglePort<'_>)> {
    let ports = match &spec.network {
        Network::Host => &[],
        Network::Ports(ports) => ports.as_slice(),
    };
    let singles = move || ports.iter().flat_map(|port| port.singles()).enumerate();
    (0..spec.instances).flat_map(move |instance| singles().map(move |(place, port)| (instance, place, port)))
}

fn choose(
    taken: &Taken,
    request: &Request<'_>,
    (instance, place): (u32, usize),
    port: SinglePort<'_>,
    random: u32,
) -> Result<BoundPort, PortError> {
    let host_ip = address(request.interfaces, port)?;
    let bound = |host_port: u16| BoundPort {
        instance,
        container_port: port.container_port,
        host_port,
        protocol: port.protocol,
        host_ip,
        shared: port.host_port.is_some() && request.spec.instances > 1,
        host_interface: port.host_interface.map(str::to_owned),
    };
    let test = |bound: BoundPort| {
        if let Some(owner) = owner(taken, &bound) {
            return Err(if owner == request.app {
                PortError::Twice { port: describe(&bound) }
            } else {
                PortRefusal::Owned { port: describe(&bound), owner: owner.clone() }.into()
            });
        }
        // One that the containers of another revision hold is free before those of this one are made.
        let is_held = request.held.iter().any(|held| collide(held, &bound));
        if is_held { Ok(bound) } else { bind(&bound).map(|()| bound) }
    };
    if let Some(host_port) = port.host_port {
        return test(bound(host_port));
    }
    // One that was chosen before stays for the app's life, even if that means waiting for somebody else to leave it.
    if let Some(kept) = kept_port(request, (instance, place), port) {
        return test(bound(kept.host_port));
    }
    let start = random % u32::from(AUTOMATIC);
    let candidates = (0..u32::from(AUTOMATIC)).map(|step| (start + step) % u32::from(AUTOMATIC));
    let mut fresh = candidates
        .filter_map(|offset| u16::try_from(offset).ok())
        .filter_map(|offset| test(bound(FIRST_AUTOMATIC + offset)).ok());
    fresh.next().ok_or(PortError::Exhausted)
}

/// What was chosen before for a port of an instance: of several that lead to the same port of the container, the one in the
/// same place among these.
fn kept_port<'a>(
    request: &Request<'a>,
    (instance, place): (u32, usize),
    port: SinglePort<'_>,
) -> Option<&'a BoundPort> {
    let same = |other: &SinglePort<'_>| other.container_port == port.container_port && other.protocol == port.protocol;
    let nth = wanted(request.spec).filter(|(of, at, other)| *of == instance && *at < place && same(other)).count();
    let is_its = |kept: &&BoundPort| {
        kept.instance == instance && kept.container_port == port.container_port && kept.protocol == port.protocol
    };
    let is_automatic = |kept: &&BoundPort| (FIRST_AUTOMATIC..FIRST_AUTOMATIC + AUTOMATIC).contains(&kept.host_port);
    request.kept.iter().filter(is_its).nth(nth).filter(is_automatic)
}

fn bind(port: &BoundPort) -> Result<(), PortError> {
    let address = (port.host_ip, port.host_port);
    let bound = match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => PortError::Foreign { port: describe(port) },
        _ => PortError::Unbindable { port: describe(port), problem: error.to_string() },
    })
}

fn owner<'a>(taken: &'a Taken, port: &BoundPort) -> Option<&'a AppName> {
    let owners = taken.get(&(port.protocol, port.host_port))?;
    owners.iter().find(|(ip, _)| same_address(*ip, port.host_ip)).map(|(_, owner)| owner)
}

/// What an app has, as far as it matters to whoever asks for ports.
fn owned(taken: &Taken, app: &AppName) -> Vec<BoundPort> {
    let all = taken.iter().flat_map(|(port, owners)| owners.iter().map(move |owner| (port, owner)));
    let own = all.filter(|(_, (_, owner))| owner == app);
    own.map(|((protocol, host_port), (host_ip, _))| BoundPort {
        instance: 0,
        container_port: 0,
        host_port: *host_port,
        protocol: *protocol,
        host_ip: *host_ip,
        shared: false,
        host_interface: None,
    })
    .collect()
}

fn insert(taken: &mut Taken, app: &AppName, port: &BoundPort) {
    let owners = taken.entry((port.protocol, port.host_port)).or_default();
    // Several instances may share it.
    if !owners.iter().any(|(ip, owner)| *ip == port.host_ip && owner == app) {
        owners.push((port.host_ip, app.clone()));
    }
}

fn forget(taken: &mut Taken, app: &AppName) {
    for owners in taken.values_mut() {
        owners.retain(|(_, owner)| owner != app);
    }
    taken.retain(|_, owners| !owners.is_empty());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn spec(ports: &[u16]) -> AppSpec {
        let ports: Vec<_> = ports
            .iter()
            .map(|port| serde_json::json!({ "containerPort": 80, "hostPort": port, "hostInterface": "lo" }))
            .collect();
        let spec = serde_json::json!({
            "name": "a", "instances": 3, "image": { "reference": "a" }, "network": { "ports": ports },
        });
        serde_json::from_value(spec).unwrap()
    }

    fn loopback() -> Vec<NetworkInterface> {
        vec![NetworkInterface { name: "lo".to_owned(), ipv4: vec![Ipv4Addr::LOCALHOST], ipv6: Vec::new() }]
    }

    #[test]
    fn everything_against_an_apps_ports_is_foreseen_and_none_is_taken() {
        let table = PortTable::default();
        let [foreign, owned] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [foreign_port, owned_port] = [&foreign, &owned].map(|one| one.local_addr().unwrap().port());
        drop(owned);
        let [web, till] = ["web", "till"].map(|name| AppName::parse(name).unwrap());
        let request = Request {
            app: &web,
            spec: &spec(&[owned_port]),
            interfaces: &loopback(),
            kept: &[],
            held: &[],
            spare: &[],
        };
        let bound = table.reserve(&request, 0).unwrap();
        let before = table.taken().clone();
        let wanted = spec(&[foreign_port, owned_port, owned_port]);
        let refusals = table.foresee(&till, &wanted, &loopback(), 0);
        assert!(matches!(refusals[0], PortError::Foreign { .. }), "{refusals:?}");
        assert!(matches!(refusals[1], PortError::Refused(PortRefusal::Owned { .. })), "{refusals:?}");
        assert_eq!(refusals.len(), 3);
        // Even while something else than its container has it: that one may be about to be made again.
        let open = TcpListener::bind((bound[0].host_ip, owned_port)).unwrap();
        assert_eq!(table.foresee(&web, &spec(&[owned_port]), &loopback(), 0), []);
        drop(open);
        let twice = table.foresee(&web, &spec(&[owned_port, owned_port]), &loopback(), 0);
        assert!(matches!(twice[..], [PortError::Twice { .. }]), "{twice:?}");
        assert_eq!(*table.taken(), before);
        TcpListener::bind((Ipv4Addr::LOCALHOST, owned_port)).unwrap();
    }
}
