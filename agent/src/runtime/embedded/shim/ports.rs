//! Ports of the node, bound before the shim leaves the node's network namespace.
//!
//! A TCP port that takes no connections stays ours: its socket stays bound and ceases to listen, so that the kernel refuses
//! clients itself, and nobody else can have the port meanwhile.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};

use longshore_model::app::BoundPort;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use socket2::{Domain, SockRef, Socket, Type};

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

/// Lets connections of a TCP port in. Does nothing where they are let in already.
pub(super) fn let_in(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // For the connections that are open: as long as both they and the listener say so, they do not bar it.
    socket.set_reuse_address(true)?;
    socket.listen(BACKLOG)
}

/// Refuses further connections of a TCP port; those that nobody has accepted are reset.
pub(super) fn keep_out(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    // Linux takes this for the end of listening; the socket stays bound, and can listen again.
    socket.shutdown(Shutdown::Read)?;
    // Somebody else who says so too could else take the port from one who only has it bound.
    socket.set_reuse_address(false)
}

/// Binds all ports; the first that is taken fails it. While not `open`, TCP ports refuse connections.
///
/// TCP ports listen at once, since only that makes them ours: two sockets may both be bound while none listens.
pub(super) fn bind(ports: &[BoundPort], open: bool) -> Result<Vec<Bound>, RuntimeError> {
    ports
        .iter()
        .map(|port| match socket(port, open) {
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

fn socket(port: &BoundPort, open: bool) -> io::Result<BoundSocket> {
    let address = SocketAddr::from((port.host_ip, port.host_port)).into();
    match port.protocol {
        Protocol::Tcp => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Connections of an earlier run in TIME_WAIT do not hold the port; a listener still does.
            socket.set_reuse_address(true)?;
            socket.bind(&address)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let listener = TcpListener::from(socket);
            if !open {
                keep_out(&listener)?;
            }
            Ok(BoundSocket::Tcp(listener))
        }
        Protocol::Udp => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.bind(&address)?;
            socket.set_nonblocking(true)?;
            Ok(BoundSocket::Udp(socket.into()))
        }
    }
}
