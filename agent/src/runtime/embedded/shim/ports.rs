//! Ports of the node, bound before the shim leaves the node's network namespace.
//!
//! A TCP port that takes no connections stays ours: its socket stays bound and ceases to listen, so that the kernel refuses
//! clients itself, and nobody else can have the port meanwhile.
//!
//! One that several instances have (`SO_REUSEPORT`) listens only while it takes connections: the kernel shares them among those
//! that do.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};

use longshore_model::app::BoundPort;
use longshore_model::failure::FailureReason;
use longshore_model::spec::Protocol;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

use super::super::failure;
use crate::runtime::RuntimeError;

/// Connections that may wait to be accepted: a burst of clients while the container starts.
const BACKLOG: i32 = 128;
/// Port of a service that nobody offers any more.
const DISCARD: u16 = 9;

/// A bound port, and where it leads inside the container.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: BoundSocket,
    pub(super) port: BoundPort,
}

#[derive(Debug)]
pub(super) enum BoundSocket {
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// Holds a port that several instances have, and receives nothing.
    SharedUdp(SocketAddrV4, UdpSocket),
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
/// TCP ports that are not shared listen at once, since only that makes them ours: two sockets may both be bound while none listens.
pub(super) fn bind(ports: &[BoundPort], open: bool) -> Result<Vec<Bound>, RuntimeError> {
    let bound = |port: &BoundPort| {
        let socket = socket(port, open).map_err(|error| unbound(port, error))?;
        Ok(Bound { socket, port: port.clone() })
    };
    ports.iter().map(bound).collect()
}

/// Why a port is not bound.
pub(super) fn unbound(port: &BoundPort, error: io::Error) -> RuntimeError {
    let (number, protocol, address) = (port.host_port, word(port.protocol), port.host_ip);
    if error.kind() == ErrorKind::AddrInUse {
        failure::because(FailureReason::PortInUse, format!("port {number}/{protocol} of {address} is in use"))
    } else {
        failure::io(format!("binding {address}:{number}/{protocol}"), error)
    }
}

/// A socket of the group that shares the datagrams of new clients of a port.
pub(super) fn join(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = datagrams()?;
    socket.set_reuse_port(true)?;
    // Which of the node's addresses a client knows is what it has to be answered from.
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    Ok(socket.into())
}

/// A socket for the datagrams of one client only.
pub(super) fn connected(local: SocketAddrV4, client: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = datagrams()?;
    socket.bind(&SocketAddr::V4(local).into())?;
    socket.connect(&SocketAddr::V4(client).into())?;
    Ok(socket.into())
}

fn datagrams() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// Binds a port, in the calling thread's network.
pub(super) fn socket(port: &BoundPort, open: bool) -> io::Result<BoundSocket> {
    let address = SocketAddr::from((port.host_ip, port.host_port)).into();
    match port.protocol {
        Protocol::Tcp if port.shared => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address)?;
            // As in `keep_out`.
            socket.set_reuse_address(false)?;
            socket.set_nonblocking(true)?;
            Ok(BoundSocket::Tcp(socket.into()))
        }
        Protocol::Udp if port.shared => {
            let address = SocketAddrV4::new(port.host_ip, port.host_port);
            // To an address of the node's own where nobody is.
            let own = if port.host_ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { port.host_ip };
            Ok(BoundSocket::SharedUdp(address, connected(address, SocketAddrV4::new(own, DISCARD))?))
        }
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
