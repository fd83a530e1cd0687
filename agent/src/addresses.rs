//! Changes of the node's addresses, as the kernel tells them: a lease of DHCP that ends may change one while apps are bound to it.

use std::io::{self, ErrorKind};
use std::thread;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use tokio::sync::watch;

/// The kernel's group of messages on IPv4 addresses: RTMGRP_IPV4_IFADDR.
const IPV4_ADDRESSES: u32 = 0x10;
/// Bytes of a message that are read: what it says does not matter.
const MESSAGE: usize = 4096;
/// Stack of the thread that waits for them.
const STACK: usize = 64 * 1024;

/// Tells of each change for as long as the agent lives, from a thread that does nothing but wait.
///
/// # Errors
///
/// The kernel does not offer it.
pub fn tell_changes(told: watch::Sender<()>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, IPV4_ADDRESSES))?;
    let wait = move || {
        let mut buffer = [0; MESSAGE];
        loop {
            match socket.recv(&mut &mut buffer[..], 0) {
                Ok(_) => {}
                // There were more messages than the kernel keeps: that is news as well.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return tracing::error!(%error, "changes of the node's addresses are not seen any more"),
            }
            told.send_replace(());
        }
    };
    thread::Builder::new().name("addresses".to_owned()).stack_size(STACK).spawn(wait).map(drop)
}
