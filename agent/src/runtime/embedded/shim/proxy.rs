//! Leads the node's ports into the container.
//!
//! The listening sockets were made in the node's network namespace and the shim itself has moved into the container's,
//! so that a plain connection to 127.0.0.1 arrives there: no firewall rule, no route and no forwarding is needed, and
//! nothing is left behind. The price is that the container sees 127.0.0.1 as every client's address.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::ports::{Bound, BoundSocket};

/// TCP connections of one container at a time: each costs two descriptors and two buffers.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes of a connection's buffer in each direction.
const BUFFER: usize = 16 * 1024;
/// Clients of one UDP port at a time: each costs a socket.
const MAX_FLOWS: usize = 512;
/// How long a UDP client may be silent in both directions before it is forgotten.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// Largest UDP payload.
const MAX_DATAGRAM: usize = 65_535;
/// Pause after the kernel refused a connection for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves all ports until the returned set is dropped. Must be called inside a runtime.
pub(super) fn serve(ports: Vec<Bound>) -> io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for port in ports {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port.container_port));
        match port.socket {
            BoundSocket::Tcp(listener) => {
                tasks.spawn(tcp(TcpListener::from_std(listener)?, target, Arc::clone(&connections)));
            }
            BoundSocket::Udp(socket) => {
                tasks.spawn(udp(Arc::new(UdpSocket::from_std(socket)?), target));
            }
        }
    }
    Ok(tasks)
}

async fn tcp(listener: TcpListener, target: SocketAddr, connections: Arc<Semaphore>) {
    let mut streams = JoinSet::new();
    loop {
        // Beyond the limit clients wait in the kernel's queue.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = streams.join_next(), if !streams.is_empty() => {}
            }
        };
        match accepted {
            Ok((client, _)) => {
                streams.spawn(async move {
                    connect(client, target).await;
                    drop(permit);
                });
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

async fn udp(socket: Arc<UdpSocket>, target: SocketAddr) {
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
                    None if flows.len() >= MAX_FLOWS => continue,
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
