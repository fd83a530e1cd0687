//! The node's network, which the shim has left.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Stack of a thread that makes a few system calls.
const STACK: usize = 64 * 1024;

/// The node's network namespace.
#[derive(Debug)]
pub(super) struct NodeNetwork(File);

impl NodeNetwork {
    /// The one that the calling thread is in.
    pub(super) fn of_caller() -> io::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/net")?))
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    /// Does something quick in it, on a thread that ends there: the shim's own never comes back, since whoever looks for the
    /// container's network finds it by the shim's, and what the proxy connects to must be inside.
    pub(super) fn within<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let work = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            make()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("network".to_owned()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, work)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the node's network is lost")))
        })
    }
}
