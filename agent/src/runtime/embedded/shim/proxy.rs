//! Leads the node's ports into the container.
//!
//! The listening sockets were made in the node's network namespace and the shim itself has moved into the container's,
//! so that a plain connection to 127.0.0.1 arrives there: no firewall rule, no route and no forwarding is needed, and
//! nothing is left behind. The price is that the container sees 127.0.0.1 as every client's address.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{self, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_model::app::BoundPort;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::failure;
use super::node_network::NodeNetwork;
use super::ports::{self, Bound, BoundSocket};
use super::shared_udp::SharedUdp;
use crate::runtime::RuntimeError;

/// TCP connections of one container at a time: each costs two descriptors and two buffers.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes of a connection's buffer in each direction.
const BUFFER: usize = 16 * 1024;
/// Clients of one UDP port at a time: each costs a socket.
pub(super) const MAX_FLOWS: usize = 512;
/// How long a UDP client may be silent in both directions before it is forgotten.
pub(super) const FLOW_IDLE: Duration = Duration::from_secs(60);
/// Largest UDP payload.
pub(super) const MAX_DATAGRAM: usize = 65_535;
/// Pause after the kernel refused a connection for want of descriptors or memory.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The ports of a container that was started, served until this is dropped.
pub(super) struct Proxy {
    ports: Vec<Port>,
    node: Arc<NodeNetwork>,
    connections: Arc<Connections>,
    tasks: JoinSet<()>,
    open: bool,
}

/// A port of the node.
struct Port {
    bound: BoundPort,
    way: Way,
}

/// How its traffic is led.
enum Way {
    Tcp {
        listener: net::TcpListener,
        accepting: Option<AbortHandle>,
    },
    Udp {
        /// Tells whether datagrams of clients are taken that were not known before.
        is_open: watch::Sender<bool>,
        task: AbortHandle,
    },
    SharedUdp(SharedUdp),
}

/// Where a port of the node leads.
fn target(port: &BoundPort) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.container_port))
}

impl Proxy {
    /// Serves all ports. Must be called inside a runtime.
    pub(super) fn serve(bound: Vec<Bound>, node: NodeNetwork, open: bool) -> io::Result<Self> {
        let (connections, tasks) = (Arc::default(), JoinSet::new());
        let mut proxy = Self { ports: Vec::new(), node: Arc::new(node), connections, tasks, open: false };
        for Bound { socket, port } in bound {
            let way = proxy.way(socket, target(&port))?;
            proxy.ports.push(Port { bound: port, way });
        }
        if open {
            proxy.open()?;
        }
        Ok(proxy)
    }

    /// The way to the container from a socket; nobody is let in yet.
    fn way(&mut self, socket: BoundSocket, target: SocketAddr) -> io::Result<Way> {
        Ok(match socket {
            BoundSocket::Tcp(listener) => Way::Tcp { listener, accepting: None },
            BoundSocket::Udp(socket) => {
                let (is_open, told) = watch::channel(false);
                let task = self.tasks.spawn(udp(Arc::new(UdpSocket::from_std(socket)?), target, told));
                Way::Udp { is_open, task }
            }
            BoundSocket::SharedUdp(address, holder) => {
                Way::SharedUdp(SharedUdp::new(address, holder, target, Arc::clone(&self.node)))
            }
        })
    }

    /// Binds the ports of these interfaces anew that are bound to another address. Connections that are there stay; on an error
    /// some ports may have moved, and it can be tried again.
    pub(super) fn relocate(&mut self, addresses: &BTreeMap<String, Ipv4Addr>) -> Result<(), RuntimeError> {
        for place in 0..self.ports.len() {
            let bound = &self.ports[place].bound;
            let address = bound.host_interface.as_ref().and_then(|name| addresses.get(name));
            let Some(address) = address.copied().filter(|address| *address != bound.host_ip) else { continue };
            let moved = BoundPort { host_ip: address, ..bound.clone() };
            // Open only once it leads somewhere.
            let socket = self.node.within(|| ports::socket(&moved, false)).map_err(|e| ports::unbound(&moved, e))?;
            let way = self.way(socket, target(&moved)).map_err(|e| ports::unbound(&moved, e))?;
            let old = std::mem::replace(&mut self.ports[place], Port { bound: moved, way });
            tracing::info!(port = old.bound.host_port, from = %old.bound.host_ip, to = %address, "a port has moved");
            old.leave(&self.connections);
        }
        if self.open { self.open().map_err(|e| failure::io("opening the ports", e)) } else { Ok(()) }
    }

    /// Lets new clients in. On an error those of some ports are; it can be tried again.
    pub(super) fn open(&mut self) -> io::Result<()> {
        self.open = true;
        for port in &mut self.ports {
            match &mut port.way {
                Way::Tcp { accepting: Some(_), .. } => {}
                Way::Tcp { listener, accepting } => {
                    ports::let_in(listener)?;
                    let listener = TcpListener::from_std(listener.try_clone()?)?;
                    let accept = tcp(listener, target(&port.bound), Arc::clone(&self.connections));
                    *accepting = Some(self.tasks.spawn(accept));
                }
                Way::Udp { is_open, .. } => drop(is_open.send_replace(true)),
                Way::SharedUdp(port) => port.open(&mut self.tasks)?,
            }
        }
        Ok(())
    }

    /// Keeps new clients out, and goes on with those that are there.
    pub(super) fn shut(&mut self) -> io::Result<()> {
        self.open = false;
        let connections = &self.connections;
        self.ports.iter_mut().map(|port| port.shut(connections)).fold(Ok(()), io::Result::and)
    }
}

impl Port {
    fn shut(&mut self, connections: &Connections) -> io::Result<()> {
        match &mut self.way {
            Way::Tcp { listener, accepting } => {
                let Some(accepting) = accepting.take() else { return Ok(()) };
                accepting.abort();
                // Whoever is in the kernel's queue has a connection already as far as it knows.
                while let Ok((client, _)) = listener.accept() {
                    connections.take(client, target(&self.bound));
                }
                return ports::keep_out(listener);
            }
            Way::Udp { is_open, .. } => drop(is_open.send_replace(false)),
            Way::SharedUdp(port) => port.shut(),
        }
        Ok(())
    }

    /// Gives the port up for another address: clients of UDP know only the one that is gone.
    fn leave(mut self, connections: &Connections) {
        if let Err(error) = self.shut(connections) {
            tracing::debug!(%error, "a port that is given up was not shut");
        }
        if let Way::Udp { task, .. } = self.way {
            task.abort();
        }
    }
}

/// The TCP connections of a container.
struct Connections {
    permits: Arc<Semaphore>,
    streams: Mutex<JoinSet<()>>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)), streams: Mutex::default() }
    }
}

impl Connections {
    fn carry(&self, client: TcpStream, target: SocketAddr, permit: OwnedSemaphorePermit) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(async move {
            connect(client, target).await;
            drop(permit);
        });
    }

    /// Carries one that was accepted without asking whether there is room: beyond the limit it is reset.
    fn take(&self, client: net::TcpStream, target: SocketAddr) {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(io::Error::other);
        let taken = permit.and_then(|permit| {
            client.set_nonblocking(true)?;
            Ok((TcpStream::from_std(client)?, permit))
        });
        match taken {
            Ok((client, permit)) => self.carry(client, target, permit),
            Err(error) => tracing::warn!(%error, "a connection is given up"),
        }
    }
}

async fn tcp(listener: TcpListener, target: SocketAddr, connections: Arc<Connections>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                // Beyond the limit one client of each port waits here, and the others in the kernel's queue. A port whose clients
                // are still to come takes no place.
                let Ok(permit) = Arc::clone(&connections.permits).acquire_owned().await else { return };
                connections.carry(client, target, permit);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connect(mut client: TcpStream, target: SocketAddr) {
    let mut upstream = match TcpStream::connect(target).await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(%error, %target, "the container takes no connection");
            // The client sees a reset, as it would without the proxy, and not an orderly end.
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            return;
        }
    };
    // Small messages must not wait for the other side's acknowledgement twice.
    let _ = client.set_nodelay(true);
    let _ = upstream.set_nodelay(true);
    if tokio::io::copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await.is_err() {
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        let _ = SockRef::from(&upstream).set_linger(Some(Duration::ZERO));
    }
}

/// One UDP client.
struct Flow {
    upstream: UdpSocket,
    last_used: Mutex<Instant>,
}

impl Flow {
    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle_at(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) + FLOW_IDLE
    }
}

async fn udp(socket: Arc<UdpSocket>, target: SocketAddr, is_open: watch::Receiver<bool>) {
    let mut flows: HashMap<SocketAddr, Arc<Flow>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok(client) = ended {
                    flows.remove(&client);
                }
            }
            received = socket.recv_from(&mut buffer) => {
                // A client that went away makes the next receive fail; that is no reason to stop.
                let Ok((length, client)) = received else { continue };
                let flow = match flows.get(&client) {
                    Some(flow) => Arc::clone(flow),
                    // Nobody refuses a datagram; it is lost.
                    None if !*is_open.borrow() || flows.len() >= MAX_FLOWS => continue,
                    None => match open_flow(target).await {
                        Ok(flow) => {
                            let flow = Arc::new(flow);
                            flows.insert(client, Arc::clone(&flow));
                            tasks.spawn(answer(Arc::clone(&socket), Arc::clone(&flow), client));
                            flow
                        }
                        Err(error) => {
                            tracing::warn!(%error, "opening a UDP flow failed");
                            continue;
                        }
                    },
                };
                flow.touch();
                // As on any network, a datagram that cannot be delivered now is lost.
                let _ = flow.upstream.try_send(&buffer[..length]);
            }
        }
    }
}

async fn open_flow(target: SocketAddr) -> io::Result<Flow> {
    let upstream = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    upstream.connect(target).await?;
    // Readiness is only known after the first wait, and the datagram at hand must not be lost to that.
    upstream.writable().await?;
    Ok(Flow { upstream, last_used: Mutex::new(Instant::now()) })
}

/// Sends the container's datagrams back to the client until the flow is idle.
async fn answer(socket: Arc<UdpSocket>, flow: Arc<Flow>, client: SocketAddr) -> SocketAddr {
    loop {
        // Waiting for readiness first means that an idle flow holds no buffer.
        match timeout_at(flow.idle_at(), flow.upstream.readable()).await {
            Err(_) if flow.idle_at() <= Instant::now() => return client,
            Err(_) => continue,
            Ok(Err(_)) => return client,
            Ok(Ok(())) => {}
        }
        let mut buffer = vec![0; MAX_DATAGRAM];
        // An ICMP refusal, because nothing listens inside yet, comes as an error here and is dropped.
        while let Ok(length) = flow.upstream.try_recv(&mut buffer) {
            flow.touch();
            let _ = socket.send_to(&buffer[..length], client).await;
        }
    }
}
