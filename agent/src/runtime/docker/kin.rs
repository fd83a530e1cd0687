//! Which processes are a container's, where an engine has made it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

/// What the processes of a container have in common, and no other of the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kin {
    /// A namespace of processes of their own: its device and inode.
    Namespace(u64, u64),
    /// They live among the node's: their cgroups, as the kernel lists them.
    Cgroups(String),
    /// Nothing that tells them from the agent.
    Unknown,
}

impl Kin {
    /// That of a container, by its first process.
    pub(super) fn of(pid: i64) -> io::Result<Self> {
        let identity = |meta: Metadata| (meta.dev(), meta.ino());
        let its = identity(fs::metadata(format!("/proc/{pid}/ns/pid"))?);
        if its != identity(fs::metadata("/proc/self/ns/pid")?) {
            return Ok(Self::Namespace(its.0, its.1));
        }
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let is_agents = cgroups == fs::read_to_string("/proc/self/cgroup")?;
        let is_none = cgroups.lines().all(|line| line.ends_with(":/"));
        Ok(if is_agents || is_none { Self::Unknown } else { Self::Cgroups(cgroups) })
    }

    /// The pids of all of them. Blocks.
    pub(super) fn members(&self) -> io::Result<Vec<i32>> {
        let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids.filter(|pid| self.has(*pid)).collect())
    }

    /// Whether a process is one of them; one that is gone is not.
    fn has(&self, pid: i32) -> bool {
        match self {
            Self::Namespace(device, inode) => fs::metadata(format!("/proc/{pid}/ns/pid"))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (*device, *inode)),
            Self::Cgroups(cgroups) => {
                fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|its| its == *cgroups)
            }
            Self::Unknown => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn who_lives_with_the_agent_is_no_containers() {
        let own = std::process::id();
        let kin = Kin::of(own.into()).unwrap();
        assert_eq!(kin, Kin::Unknown);
        assert_eq!(kin.members().unwrap(), Vec::<i32>::new());
        let meta = fs::metadata("/proc/self/ns/pid").unwrap();
        let all = Kin::Namespace(meta.dev(), meta.ino()).members().unwrap();
        assert!(all.contains(&i32::try_from(own).unwrap()), "{all:?}");
        assert_eq!(Kin::Namespace(0, 0).members().unwrap(), Vec::<i32>::new());
    }
}
