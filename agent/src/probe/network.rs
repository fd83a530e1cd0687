//! Work and sockets inside another network namespace.

use std::fs::File;
use std::io;
use std::net;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

/// Stack of the thread: it makes system calls, and reads tables of the kernel.
const STACK: usize = 256 * 1024;

/// Does something quick in a network namespace.
///
/// A thread of its own does it, which ends in that namespace: none of the agent's other threads ever leaves the node's.
pub(crate) async fn within<T: Send + 'static>(
    namespace: File,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, doing) = oneshot::channel();
    let work = move || {
        // Nobody waits any more when the probe's time is over.
        let _ = done.send(setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| act()));
    };
    std::thread::Builder::new().name("network".to_owned()).stack_size(STACK).spawn(work)?;
    doing.await.map_err(|_| io::Error::other("work in another network was interrupted"))?
}

/// A TCP socket that belongs to a network namespace; whoever uses it later may be anywhere.
pub(crate) async fn socket(namespace: File, domain: Domain) -> io::Result<TcpSocket> {
    let made = within(namespace, move || {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(net::TcpStream::from(socket))
    });
    Ok(TcpSocket::from_std_stream(made.await?))
}
