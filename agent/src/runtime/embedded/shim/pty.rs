//! The terminal of a command: one of the container's own, whose other side goes to the agent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};

use super::super::descriptors;

/// What a command's terminal is to be.
#[derive(Clone, Debug)]
pub(super) struct Pty {
    socket: Rc<OwnedFd>,
    size: (u16, u16),
}

impl Pty {
    /// Of this many columns and rows; the other side goes through the socket.
    pub(super) fn new(socket: OwnedFd, size: (u16, u16)) -> Self {
        Self { socket: Rc::new(socket), size }
    }

    /// Makes it the terminal of this process, which leads a session and is in the container, as its user.
    pub(super) fn take(&self) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        // Not by its path, which the container can make lead elsewhere.
        let terminal = ioctl_tiocgptpeer(&master, flags)?;
        let (columns, rows) = self.size;
        tcsetwinsize(&master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        ioctl_tiocsctty(&terminal)?;
        descriptors::send_some(&*self.socket, b"\n", &[master.as_fd()])?;
        dup2_stdin(&terminal)?;
        dup2_stdout(&terminal)?;
        dup2_stderr(&terminal)?;
        Ok(())
    }
}
