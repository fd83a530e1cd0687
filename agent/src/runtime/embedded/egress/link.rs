//! Interfaces, addresses and routes, over netlink: synchronous, since a shim must not have threads.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// Makes a pair of interfaces: `name` here, up and with the way to `address`, and `peer` in the namespace `inside`.
///
/// Both have the same hardware address and ask for none: whatever goes in at one end is for the other, and neither a
/// gateway nor an address of the node's end is needed. [`io::ErrorKind::AlreadyExists`] if name or address is taken;
/// nothing is made then.
pub(super) fn pair(name: &str, peer: &str, inside: &File, address: Ipv4Addr) -> io::Result<()> {
    let [a, b, c, d] = address.octets();
    // Of those that are assigned locally.
    let hardware = LinkAttribute::Address(vec![0x02, 0x6c, a, b, c, d]);
    // The far end cannot be up before the near one exists.
    let mut near = end(name, LinkFlags::Up | LinkFlags::Noarp);
    let mut far = end(peer, LinkFlags::Noarp);
    near.attributes.push(hardware.clone());
    far.attributes.extend([hardware, LinkAttribute::NetNsFd(inside.as_raw_fd())]);
    make(near, far)?;
    forbid_ipv6(name);
    // Exclusive, whichever interface the address's route leads to: the table of routes is the list of what is taken.
    add_route(name, Some(address)).inspect_err(|_| {
        let _ = delete(name);
    })
}

/// Makes a pair and removes it again: whether the kernel can. `name` has room for a digit.
pub(super) fn probe(name: &str) -> io::Result<()> {
    let (near, far) = (format!("{name}0"), format!("{name}1"));
    // What an agent has left that was killed just here.
    delete(&near)?;
    make(end(&near, LinkFlags::empty()), end(&far, LinkFlags::empty()))?;
    delete(&near)
}

fn end(name: &str, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = flags;
    message.header.change_mask = flags;
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}

fn make(mut near: LinkMessage, far: LinkMessage) -> io::Result<()> {
    near.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
    ]));
    call(RouteNetlinkMessage::NewLink(near), CREATE)
}

/// Brings the container's end up, with its address and the way to everything.
pub(super) fn address_inside(name: &str, address: Ipv4Addr) -> io::Result<()> {
    forbid_ipv6(name);
    let index = if_nametoindex(name)?;
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    call(RouteNetlinkMessage::SetLink(message), 0)?;
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
    call(RouteNetlinkMessage::NewAddress(message), CREATE)?;
    add_route(name, None)
}

/// Deletes an interface, and its peer with it; one that is not there is no error.
pub(super) fn delete(name: &str) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match call(RouteNetlinkMessage::DelLink(message), 0) {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(()),
        other => other,
    }
}

/// A route over an interface: to one address, or to everything.
fn add_route(name: &str, to: Option<Ipv4Addr>) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(if_nametoindex(name)?));
    if let Some(address) = to {
        message.header.destination_prefix_length = 32;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
    }
    call(RouteNetlinkMessage::NewRoute(message), CREATE)
}

/// No link-local addresses: they would reach what the node serves to its own links.
fn forbid_ipv6(name: &str) {
    // A kernel without IPv6 has no such file.
    let _ = fs::write(Path::new("/proc/sys/net/ipv6/conf").join(name).join("disable_ipv6"), "1");
}

/// Sends one request to the kernel and waits for its word on it.
fn call(request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    let kernel = SocketAddr::new(0, 0);
    socket.bind_auto()?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send_to(&buffer, &kernel, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) => match error.code {
            None => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
        },
        _ => Err(io::Error::other("the kernel gave no answer to a request over netlink")),
    }
}
