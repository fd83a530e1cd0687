//! Puts the question of a probe to an instance, from inside its network or from the node.
//!
//! What follows from the answers is decided in [`longshore_model::health`].

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use longshore_model::health::Answer;
use longshore_model::probe::{Action, Probe, TcpSocket};
use longshore_model::quantity;
use socket2::Domain;
use tokio::net::TcpStream;

mod http;
pub(crate) mod network;

/// Where an instance is asked that is asked itself.
#[derive(Debug)]
pub enum Network {
    /// It lives in the node's own network.
    Node,
    /// It has one of its own: the open file of a network namespace.
    Own(File),
}

impl Network {
    /// What the open file of a network namespace stands for.
    ///
    /// # Errors
    ///
    /// The kernel does not say which one it is, or which one is the node's.
    pub fn of(namespace: File) -> io::Result<Self> {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let (own, its) = (std::fs::metadata("/proc/self/ns/net")?, namespace.metadata()?);
        Ok(if identity(own) == identity(its) { Self::Node } else { Self::Own(namespace) })
    }
}

/// Asks, and takes no answer for a failure once the probe's timeout is over.
pub async fn ask(probe: &Probe, network: Network) -> Answer {
    let asked = async {
        match &probe.action {
            Action::HttpGet(get) => http::get(get, network).await,
            Action::TcpSocket(TcpSocket { host, port }) => match connect(host.as_deref(), *port, network).await {
                Ok(_) => Answer::passed("connected"),
                Err(error) => Answer::failed(in_words(&error)),
            },
            // Put by the runtime, which has the instance's processes: the network is not where it is asked.
            Action::Exec(_) => Answer::failed("a command cannot be run over a network"),
        }
    };
    tokio::time::timeout(probe.timeout, asked).await.unwrap_or_else(|_| silence(probe.timeout))
}

/// What it is called when no answer has come.
pub(crate) fn silence(timeout: Duration) -> Answer {
    Answer::failed(format!("no answer within {}", quantity::duration::format(timeout)))
}

/// Connects to a host from the node, or to the instance itself from inside its network.
async fn connect(host: Option<&str>, port: u16, network: Network) -> io::Result<TcpStream> {
    match (host, network) {
        (Some(host), _) => TcpStream::connect((host, port)).await,
        (None, Network::Node) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await,
        (None, Network::Own(namespace)) => {
            let socket = network::socket(namespace, Domain::IPV4).await?;
            socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
        }
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
