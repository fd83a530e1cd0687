//! Capabilities of Linux that containers get.

use std::collections::HashSet;
use std::{fs, io};

use longshore_model::linux::CapabilitySet;
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

    /// What there is of these.
    pub(super) fn of(self, wanted: CapabilitySet) -> HashSet<Capability> {
        let held = self.0 & wanted.bits();
        let held = NUMBERED.into_iter().enumerate().filter(|(number, _)| held >> number & 1 == 1);
        held.map(|(_, capability)| capability).collect()
    }

    /// What is missing of these.
    pub(super) fn lacks(self, wanted: CapabilitySet) -> CapabilitySet {
        let names = wanted.names().filter_map(|name| CapabilitySet::named(name).ok());
        names.filter(|one| one.bits() & self.0 == 0).collect()
    }

    /// Whether nothing is missing that the kernel has, whose last capability has the number `last`.
    pub(super) fn is_whole(self, last: u32) -> bool {
        let kernels = 1_u64.checked_shl(last + 1).map_or(u64::MAX, |bit| bit - 1);
        self.0 & kernels == kernels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_gets_no_more_than_there_is() {
        let count = |bits| [CapabilitySet::ORDINARY, CapabilitySet::EVERY].map(|set| Bounding(bits).of(set).len());
        assert_eq!(count(u64::MAX), [13, 41]);
        assert_eq!(count(!(1 << 13 | 1 << 29)), [11, 39]);
        assert_eq!(count(0), [0, 0]);
        let last = Bounding(1 << 40);
        assert!(last.of(CapabilitySet::EVERY).contains(&Capability::CheckpointRestore));
        assert_eq!(last.lacks(CapabilitySet::EVERY).names().count(), 40);
        assert_eq!(Bounding(u64::MAX).lacks(CapabilitySet::EVERY), CapabilitySet::NONE);
    }

    #[test]
    fn capabilities_are_at_the_numbers_of_their_names() {
        assert_eq!(NUMBERED.map(|capability| capability.to_string()), longshore_model::linux::CAPABILITIES);
    }

    #[test]
    fn a_bounding_set_is_whole_when_nothing_is_missing() {
        for (bits, last, whole) in
            [(0x1ff_ffff_ffff, 40, true), (0x1ff_feff_ffff, 40, false), (u64::MAX, 63, true), (0, 40, false)]
        {
            assert_eq!(Bounding(bits).is_whole(last), whole, "{bits:#x}");
        }
    }
}
