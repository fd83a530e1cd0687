//! Connections by the hundred: who waits, and for whom.

use longshore_server::listen::{MAX_HANDSHAKES, bind};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;

/// Lets this process have as many descriptors as it may: both ends of every connection are its own.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[tokio::test]
async fn those_who_keep_quiet_keep_nobody_out() {
    raise_descriptor_limit();
    let (address, pin, mut seen) = impatient(LONG, LONG, LONG).await;
    let mut silent = Vec::new();
    for _ in 0..=MAX_HANDSHAKES {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    connect_pinned(&address, pin).await.unwrap();
    assert!(seen.recv().await.is_some());
}

#[tokio::test]
async fn a_fleet_may_dial_before_anybody_accepts() {
    raise_descriptor_limit();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let limit: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    // More than the usual backlog of 1024, where the kernel allows it.
    let count = limit.min(1500);
    let mut dialled = Vec::new();
    for _ in 0..count {
        dialled.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    }
    for _ in 0..count {
        listener.accept().await.unwrap();
    }
}
