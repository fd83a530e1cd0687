//! A UDP port that several instances have on the node.
//!
//! Each instance that takes new clients has a socket in one group of the kernel's (`SO_REUSEPORT`), which gives each client's
//! datagrams to one of them. Whoever leaves or joins the group changes whom that is; so a client gets a socket of its own
//! from its first datagram on, connected to it, and what is connected goes before the group. Another socket that is connected to
//! nobody holds the port meanwhile.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{self, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::node_network::NodeNetwork;
use super::ports;
use super::proxy::{ACCEPT_PAUSE, FLOW_IDLE, MAX_DATAGRAM, MAX_FLOWS};

/// The port, as one instance has it.
pub(super) struct SharedUdp {
    address: SocketAddrV4,
    node: Arc<NodeNetwork>,
    flows: Arc<Flows>,
    _holder: net::UdpSocket,
    member: Option<(net::UdpSocket, AbortHandle)>,
}

impl SharedUdp {
    pub(super) fn new(
        address: SocketAddrV4,
        holder: net::UdpSocket,
        target: SocketAddr,
        node: Arc<NodeNetwork>,
    ) -> Self {
        let flows =
            Arc::new(Flows { target, node: Arc::clone(&node), known: Mutex::default(), tasks: Mutex::default() });
        Self { address, node, flows, _holder: holder, member: None }
    }

    /// Takes its share of new clients.
    pub(super) fn open(&mut self, tasks: &mut JoinSet<()>) -> io::Result<()> {
        if self.member.is_some() {
            return Ok(());
        }
        let address = self.address;
        let socket = self.node.within(move || ports::join(address))?;
        let receiver = UdpSocket::from_std(socket.try_clone()?)?;
        let task = tasks.spawn(receive_all(receiver, address.port(), Arc::clone(&self.flows)));
        self.member = Some((socket, task));
        Ok(())
    }

    /// Leaves new clients to the others.
    pub(super) fn shut(&mut self) {
        let Some((socket, task)) = self.member.take() else { return };
        task.abort();
        // What is in its queue is meant for nobody else any more.
        let mut buffer = vec![0; MAX_DATAGRAM];
        while let Ok((length, route)) = receive(&socket, self.address.port(), &mut buffer) {
            self.flows.deliver(route, &buffer[..length]);
        }
    }
}

/// Between whom datagrams pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    client: SocketAddrV4,
    /// The node's address that the client knows.
    local: SocketAddrV4,
}

/// The clients of a port.
struct Flows {
    target: SocketAddr,
    node: Arc<NodeNetwork>,
    /// The socket inside the container of each.
    known: Mutex<HashMap<Route, net::UdpSocket>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Flows {
    fn known(&self) -> MutexGuard<'_, HashMap<Route, net::UdpSocket>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what came by the group: the first datagram of a client, or one that was quicker than its socket.
    fn deliver(self: &Arc<Self>, route: Route, datagram: &[u8]) {
        let mut known = self.known();
        if !known.contains_key(&route) {
            if known.len() >= MAX_FLOWS {
                return;
            }
            match self.begin(route) {
                Ok(inside) => drop(known.insert(route, inside)),
                Err(error) => return tracing::warn!(%error, "opening a UDP flow failed"),
            }
        }
        if let Some(inside) = known.get(&route) {
            // As on any network, a datagram that cannot be delivered now is lost.
            let _ = inside.send(datagram);
        }
    }

    fn begin(self: &Arc<Self>, route: Route) -> io::Result<net::UdpSocket> {
        let inside = net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        inside.connect(self.target)?;
        inside.set_nonblocking(true)?;
        let outside = self.node.within(move || ports::connected(route.local, route.client))?;
        let (outside, carried) = (UdpSocket::from_std(outside)?, UdpSocket::from_std(inside.try_clone()?)?);
        let flows = Arc::downgrade(self);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            carry(&carried, &outside, route.client).await;
            if let Some(flows) = flows.upgrade() {
                flows.known().remove(&route);
            }
        });
        Ok(inside)
    }
}

async fn receive_all(socket: UdpSocket, port: u16, flows: Arc<Flows>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.async_io(Interest::READABLE, || receive(&socket, port, &mut buffer)).await {
            Ok((length, route)) => flows.deliver(route, &buffer[..length]),
            Err(error) => {
                tracing::warn!(%error, "receiving a datagram failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Receives a datagram, and which address of the node it was for, without waiting.
fn receive(socket: &impl AsRawFd, port: u16, buffer: &mut [u8]) -> io::Result<(usize, Route)> {
    let mut space = nix::cmsg_space!(nix::libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let local = got.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))),
        _ => None,
    });
    match (got.address, local) {
        (Some(client), Some(local)) => {
            Ok((got.bytes, Route { client: client.into(), local: SocketAddrV4::new(local, port) }))
        }
        _ => Err(io::Error::other("a datagram from or to nowhere")),
    }
}

/// Carries a client's datagrams in both directions until it has been silent for a while.
async fn carry(inside: &UdpSocket, outside: &UdpSocket, client: SocketAddrV4) {
    loop {
        let idle_at = Instant::now() + FLOW_IDLE;
        tokio::select! {
            readable = inside.readable() => if readable.is_err() { return },
            readable = outside.readable() => if readable.is_err() { return },
            () = sleep_until(idle_at) => return,
        }
        // Only now: an idle flow holds no buffer.
        let mut buffer = vec![0; MAX_DATAGRAM];
        // An ICMP refusal, because nothing listens there yet or any more, comes as an error and is dropped.
        while let Ok(length) = inside.try_recv(&mut buffer) {
            let _ = outside.send(&buffer[..length]).await;
        }
        while let Ok((length, from)) = outside.try_recv_from(&mut buffer) {
            // Others' may have come before the socket was connected.
            if from == SocketAddr::V4(client) {
                let _ = inside.send(&buffer[..length]).await;
            }
        }
    }
}
