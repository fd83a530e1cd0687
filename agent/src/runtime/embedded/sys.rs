//! The few system calls that have no safe wrapper.
#![allow(unsafe_code, reason = "the kernel's interface is all there is; each call states why it is sound")]

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use tokio::io::unix::AsyncFd;

/// Brings up `lo` of the network namespace of the calling thread.
pub(super) fn loopback_up() -> nix::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is open, SIOCSIFFLAGS reads an `ifreq` with a terminated name, and ours outlives the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }).map(drop)
}

/// Lets the event loop watch an open file.
pub(super) fn watch(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` has one descriptor from its making to its drop, which is what is asked of it.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// Gives the calling process the signal dispositions that a program expects at its start.
///
/// Rust ignores SIGPIPE, and an ignored signal stays ignored across exec.
pub(super) fn default_signals() -> nix::Result<()> {
    SigSet::empty().thread_set_mask()?;
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map(drop)
}
