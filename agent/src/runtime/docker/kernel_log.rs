//! What the kernel's log says of containers that passed their memory limit.
//!
//! Engines hear of it through events of the container's cgroup, and some of them miss it. The log names the cgroup, which
//! bears the container's id.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;

/// Where the kernel's log is.
const LOG: &str = "/dev/kmsg";
/// Bytes of the longest record.
const RECORD: usize = 8192;
/// Records looked through: more than the largest buffer holds, so that a kernel that talks without end holds up nobody.
const MAX_RECORDS: usize = 1_000_000;

/// Whether the log, as far back as the kernel keeps it, tells of a kill for memory in this container's cgroup; false also
/// where the log cannot be read. Blocks for a moment.
pub(super) fn tells_of_memory(container: &str) -> bool {
    let flags = OFlag::O_NONBLOCK.bits();
    let Ok(mut log) = File::options().read(true).custom_flags(flags).open(LOG) else { return false };
    let mut record = vec![0; RECORD];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(length) if is_such(&String::from_utf8_lossy(&record[..length]), container) => return true,
            Ok(_) => {}
            // Overwritten while it was being read: the next read goes on with the oldest that is left.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    false
}

/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=<path>,task_memcg=<path>,task=…`: the first path is whose limit it
/// was, the container's own and not the node's.
fn is_such(record: &str, container: &str) -> bool {
    let words = record.split_once("oom-kill:constraint=CONSTRAINT_MEMCG,").map(|(_, words)| words.split(','));
    words.into_iter().flatten().filter_map(|word| word.strip_prefix("oom_memcg=")).any(|path| path.contains(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_within_the_containers_own_limit_count() {
        let kill = |limit: &str, task: &str| {
            format!(
                "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg={limit},task_memcg={task},task=app"
            )
        };
        assert!(is_such(&kill("/libpod_parent/libpod-abc", "/libpod_parent/libpod-abc"), "abc"));
        assert!(is_such(&kill("/system.slice/docker-abc.scope", "/x"), "abc"));
        assert!(!is_such(&kill("/system.slice", "/docker/abc"), "abc"), "a limit above it");
        assert!(!is_such("6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,task_memcg=/docker/abc,task=app", "abc"));
    }
}
