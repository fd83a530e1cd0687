//! Connections to ports of instances, from inside their networks.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::Domain;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{RuntimeError, failure, listeners};
use crate::probe::network;

/// Time for a connection within the machine: a program with a full queue lets it wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection to a port of an instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The instance does not run, or cannot be reached at all.
    #[error(transparent)]
    NotRunning(#[from] RuntimeError),
    /// None of its processes takes connections on the port.
    #[error("{0}")]
    NotListening(String),
}

/// Where an instance's ports are.
pub(super) struct Network {
    /// The open file of its network namespace.
    pub(super) namespace: File,
    /// Whether that is the node's own, or otherwise not the instance's alone.
    pub(super) is_shared: bool,
}

/// Connects to a port of whoever lives in a network.
///
/// Where that is the node's own, the node's programs listen there as well, and what is on the loopback counts on the network
/// being kept out. So the place is one that only `processes` listen at, which tells those of the instance; it blocks.
pub(super) async fn connect(
    port: u16,
    network: Network,
    processes: impl Fn() -> io::Result<Vec<i32>> + Clone + Send + 'static,
) -> Result<TcpStream, PortError> {
    let Network { namespace, is_shared } = network;
    let connecting = async {
        if is_shared { among_others(port, &namespace, processes).await } else { alone(port, &namespace).await }
    };
    let waited = TIMEOUT.as_secs();
    let late = |_| PortError::NotListening(format!("port {port} took no connection within {waited} s"));
    timeout(TIMEOUT, connecting).await.map_err(late)?
}

/// By either address of the loopback: all that listens in there is the instance's.
async fn alone(port: u16, namespace: &File) -> Result<TcpStream, PortError> {
    match dial(namespace, (Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(stream) => Ok(stream),
        // A program may take IPv6 alone, and a network may have none.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let other = dial(namespace, (Ipv6Addr::LOCALHOST, port).into()).await;
            other.map_err(|_| PortError::NotListening(format!("nothing listens on port {port} of the instance")))
        }
        Err(error) => Err(failure::io("connecting inside the container's network", error).into()),
    }
}

async fn dial(namespace: &File, address: SocketAddr) -> io::Result<TcpStream> {
    network::socket(namespace.try_clone()?, Domain::for_address(address)).await?.connect(address).await
}

async fn among_others(
    port: u16,
    namespace: &File,
    processes: impl Fn() -> io::Result<Vec<i32>> + Clone + Send + 'static,
) -> Result<TcpStream, PortError> {
    let find = async || {
        let processes = processes.clone();
        let found = match namespace.try_clone() {
            Ok(namespace) => network::within(namespace, move || listeners::find(port, &processes()?)).await,
            Err(error) => Err(error),
        };
        found.map_err(|error| failure::io("looking for who listens on the port", error))
    };
    // Not whether others do: that is the node's own affair.
    let nobody = || {
        PortError::NotListening(format!(
            "no process of the instance listens on port {port}; since it is in the node's own network, no other port can be \
             reached"
        ))
    };
    let place = find().await?.ok_or_else(nobody)?;
    let stream = dial(namespace, place.address).await.map_err(|_| nobody())?;
    // The same socket was there before and is there still, so that it was nobody else who took the connection.
    if find().await? == Some(place) { Ok(stream) } else { Err(nobody()) }
}
