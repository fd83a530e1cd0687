//! Children that do not outlive us.

#![allow(
    unsafe_code,
    reason = "only code that runs in the child before exec can ask the kernel to bind it to its parent"
)]

use std::io;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};
use tokio::process::Command;

/// Has the kernel kill the child when the thread that starts it ends, however it ends.
pub(super) fn die_with_us(command: &mut Command) {
    let parent = getpid();
    let bind = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // We may have died before the child asked for the signal.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
    };
    // SAFETY: the closure makes two system calls, prctl and getppid, which are safe in a child between fork and exec;
    // it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(bind);
    }
}
