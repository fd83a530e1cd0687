//! Leads the node's ports into the container.
//!
//! The listening sockets were made in the node's network namespace and the shim itself has moved into the container's,
//! so that a plain connection to 127.0.0.1 arrives there: no firewall rule, no route and no forwarding is needed, and
//! nothing is left behind. The price is that the container sees 127.0.0.1 as every client's address.

use std::collections::HashMap;
use std::io;
use std::net::{self, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use super::node_network::NodeNetwork;
use super::ports::{self, Bound, BoundSocket};
use super::shared_udp::SharedUdp;

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
    connections: Arc<Connections>,
    tasks: JoinSet<()>,
}

/// A port of the node.
enum Port {
    Tcp {
        listener: net::TcpListener,
        target: SocketAddr,
        accepting: Option<AbortHandle>,
    },
    /// Tells whether datagrams of clients are taken that were not known before.
    Udp(watch::Sender<bool>),
    SharedUdp(SharedUdp),
}

impl Proxy {
    /// Serves all ports. Must be called inside a runtime.
    pub(super) fn serve(bound: Vec<Bound>, node: NodeNetwork, open: bool) -> io::Result<Self> {
        let node = Arc::new(node);
        let mut proxy = Self { ports: Vec::new(), connections: Arc::default(), tasks: JoinSet::new() };
        for port in bound {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port.container_port));
            proxy.ports.push(match port.socket {
                BoundSocket::Tcp(listener) => Port::Tcp { listener, target, accepting: None },
                BoundSocket::Udp(socket) => {
                    let (is_open, told) = watch::channel(false);
                    proxy.tasks.spawn(udp(Arc::new(UdpSocket::from_std(socket)?), target, told));
                    Port::Udp(is_open)
                }
                BoundSocket::SharedUdp(address, holder) => {
                    Port::SharedUdp(SharedUdp::new(address, holder, target, Arc::clone(&node)))
                }
            });
        }
        if open {
            proxy.open()?;
        }
        Ok(proxy)
    }

    /// Lets new clients in. On an error those of some ports are; it can be tried again.
    pub(super) fn open(&mut self) -> io::Result<()> {
        for port in &mut self.ports {
            match port {
                Port::Tcp { accepting: Some(_), .. } => {}
                Port::Tcp { listener, target, accepting } => {
                    ports::let_in(listener)?;
                    let listener = TcpListener::from_std(listener.try_clone()?)?;
                    *accepting = Some(self.tasks.spawn(tcp(listener, *target, Arc::clone(&self.connections))));
                }
                Port::Udp(is_open) => drop(is_open.send_replace(true)),
                Port::SharedUdp(port) => port.open(&mut self.tasks)?,
            }
        }
        Ok(())
    }

    /// Keeps new clients out, and goes on with those that are there.
    pub(super) fn shut(&mut self) -> io::Result<()> {
        let mut shut = Ok(());
        for port in &mut self.ports {
            match port {
                Port::Tcp { listener, target, accepting } => {
                    let Some(accepting) = accepting.take() else { continue };
                    accepting.abort();
                    // Whoever is in the kernel's queue has a connection already as far as it knows.
                    while let Ok((client, _)) = listener.accept() {
                        self.connections.take(client, *target);
                    }
                    shut = shut.and(ports::keep_out(listener));
                }
                Port::Udp(is_open) => drop(is_open.send_replace(false)),
                Port::SharedUdp(port) => port.shut(),
            }
        }
        shut
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
        // Beyond the limit clients wait in the kernel's queue.
        let Ok(permit) = Arc::clone(&connections.permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => connections.carry(client, target, permit),
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
