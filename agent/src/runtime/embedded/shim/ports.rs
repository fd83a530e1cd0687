//! Ports of the node, bound before the shim leaves the node's network namespace.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use longshore_model::app::BoundPort;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use socket2::{Domain, Socket, Type};

use super::super::failure;
use crate::runtime::RuntimeError;

/// Connections that may wait to be accepted: a burst of clients while the container starts.
const BACKLOG: i32 = 128;

/// A bound port, and where it leads inside the container.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: BoundSocket,
    pub(super) container_port: u16,
}

#[derive(Debug)]
pub(super) enum BoundSocket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Binds all ports; the first that is taken fails it.
///
/// TCP ports listen at once, since only that makes them ours: two sockets may both be bound while none listens.
pub(super) fn bind(ports: &[BoundPort]) -> Result<Vec<Bound>, RuntimeError> {
    ports
        .iter()
        .map(|port| match open(port) {
            Ok(socket) => Ok(Bound { socket, container_port: port.container_port }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(failure::because(
                FailureReason::PortInUse,
                format!("port {}/{} of {} is in use", port.host_port, word(port.protocol), port.host_ip),
            )),
            Err(error) => {
                Err(failure::io(format!("binding {}:{}/{}", port.host_ip, port.host_port, word(port.protocol)), error))
            }
        })
        .collect()
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn open(port: &BoundPort) -> io::Result<BoundSocket> {
    let address = SocketAddr::from((port.host_ip, port.host_port)).into();
    match port.protocol {
        Protocol::Tcp => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Connections of an earlier run in TIME_WAIT do not hold the port; a listener still does.
            socket.set_reuse_address(true)?;
            socket.bind(&address)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(BoundSocket::Tcp(socket.into()))
        }
        Protocol::Udp => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.bind(&address)?;
            socket.set_nonblocking(true)?;
            Ok(BoundSocket::Udp(socket.into()))
        }
    }
}
