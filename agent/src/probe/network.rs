//! Sockets inside another network namespace.

use std::fs::File;
use std::io;
use std::net;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// Stack of the thread: it makes two system calls.
const STACK: usize = 64 * 1024;

/// A TCP socket that belongs to a network namespace; whoever uses it later may be anywhere.
///
/// Made by a thread of its own, which ends in that namespace: none of the agent's other threads ever leaves the node's.
pub(super) async fn socket(namespace: File) -> io::Result<TcpSocket> {
    let (made, making) = oneshot::channel();
    let make = move || -> io::Result<net::TcpStream> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let work = move || {
        // Nobody waits any more when the probe's time is over.
        let _ = made.send(make());
    };
    std::thread::Builder::new().name("network".to_owned()).stack_size(STACK).spawn(work)?;
    let socket = making.await.map_err(|_| io::Error::other("making a socket was interrupted"))??;
    Ok(TcpSocket::from_std_stream(socket))
}
