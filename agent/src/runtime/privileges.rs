//! Capabilities of Linux that containers get.

use std::collections::HashSet;
use std::{fs, io};

use oci_spec::runtime::Capability;

/// Each at the kernel's number for it.
const NUMBERED: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What an ordinary container may do: Docker's set without MKNOD, since cgroup v2 has no device filter here.
const ORDINARY: [Capability; 13] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// A bounding set: a bit for each capability. The kernel gives a process no others, nor what that starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounding(pub(super) u64);

impl Bounding {
    /// That of this process.
    pub(super) fn own() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let bits = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
        bits.map(Self).ok_or_else(|| io::Error::other("/proc/self/status has no CapBnd"))
    }

    /// What a privileged container gets of it: everything.
    pub(super) fn all(self) -> HashSet<Capability> {
        let held = NUMBERED.into_iter().enumerate().filter(|(number, _)| self.0 & (1 << number) != 0);
        held.map(|(_, capability)| capability).collect()
    }

    /// What an ordinary container gets of it.
    pub(super) fn ordinary(self) -> HashSet<Capability> {
        self.all().intersection(&HashSet::from(ORDINARY)).copied().collect()
    }

    /// Whether nothing is missing that the kernel has, whose last capability has the number `last`.
    pub(super) fn is_whole(self, last: u32) -> bool {
        let kernels = 1_u64.checked_shl(last + 1).map_or(u64::MAX, |bit| bit - 1);
        self.0 & kernels == kernels
    }
}

/// Names of what an ordinary container may do, as engines have them.
pub(super) fn ordinary_names() -> Vec<String> {
    ORDINARY.iter().map(Capability::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_no_more_than_there_is() {
        let count = |bits| [Bounding(bits).ordinary().len(), Bounding(bits).all().len()];
        assert_eq!(count(u64::MAX), [13, 41]);
        assert_eq!(count(!(1 << 13 | 1 << 29)), [11, 39]);
        assert_eq!(count(0), [0, 0]);
        assert!(Bounding(1 << 40).all().contains(&Capability::CheckpointRestore));
        assert!(!Bounding(u64::MAX).ordinary().contains(&Capability::Mknod));
    }

    #[test]
    fn a_bounding_set_is_whole_when_nothing_is_missing() {
        for (bits, last, whole) in
            [(0x1ff_ffff_ffff, 40, true), (0x1ff_feff_ffff, 40, false), (u64::MAX, 63, true), (0, 40, false)]
        {
            assert_eq!(Bounding(bits).is_whole(last), whole, "{bits:#x}");
        }
    }

    #[test]
    fn names_are_those_of_engines() {
        let names = ordinary_names();
        assert_eq!((names[0].as_str(), names[6].as_str()), ("AUDIT_WRITE", "NET_BIND_SERVICE"));
    }
}
