//! The lock by which a shim is known to live.
//!
//! A record lock rather than flock(2): it belongs to the process and not to the open file, so that the container's
//! processes, which are forked from the shim, never hold it; and the kernel tells who holds it, translated to the pid
//! namespace of the one who asks, so that no pid has to be kept on disk.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Held for as long as this value lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the lock; `None` if another process holds it.
pub(super) fn take(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(Some(Lock { _file: file })),
        Err(Errno::EACCES | Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Keeps shims from beginning in a container that is looked at or removed, for as long as this value lives.
#[derive(Debug)]
pub(super) struct KeptOut {
    _lock: Option<Lock>,
}

/// Keeps shims out; `None` if one is in already.
pub(super) fn keep_out(path: &Path) -> io::Result<Option<KeptOut>> {
    match take(path) {
        Ok(lock) => Ok(lock.map(|lock| KeptOut { _lock: Some(lock) })),
        // Where there is no room for the lock's file, a shim cannot make it either.
        Err(error)
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::NotFound) =>
        {
            Ok(Some(KeptOut { _lock: None }))
        }
        Err(error) => Err(error),
    }
}

/// The holder's pid: `None` if nobody holds it, `Some(0)` or less if our pid namespace cannot see the holder.
fn holder(path: &Path) -> io::Result<Option<i32>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut answer = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_GETLK(&mut answer))?;
    Ok((i32::from(answer.l_type) != libc::F_UNLCK).then_some(answer.l_pid))
}

/// Whether some process holds the lock.
pub(super) fn is_held(path: &Path) -> io::Result<bool> {
    Ok(holder(path)?.is_some())
}

/// The network namespace of the process that holds the lock, and of no other; `None` if nobody holds it.
pub(super) fn network_of_holder(path: &Path) -> io::Result<Option<File>> {
    let Some(pid) = holder(path)?.filter(|pid| *pid > 0) else { return Ok(None) };
    let network = match File::open(format!("/proc/{pid}/ns/net")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok((holder(path)? == Some(pid)).then_some(network))
}

/// Kills the process that holds the lock, and no other: the lock is looked at again once the process is pinned.
pub(super) fn kill_holder(path: &Path) -> io::Result<()> {
    let Some(raw) = holder(path)? else { return Ok(()) };
    let Some(pid) = Pid::from_raw(raw).filter(|_| raw > 1) else { return Ok(()) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    if holder(path)? != Some(raw) {
        return Ok(());
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
