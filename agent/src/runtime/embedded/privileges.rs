//! Capabilities of Linux that containers get.

use std::collections::HashSet;

use oci_spec::runtime::Capability;

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

/// What an ordinary container gets of a bounding set, which has a bit for each capability: the kernel gives no more.
pub(super) fn ordinary(bounding: u64) -> HashSet<Capability> {
    ORDINARY.into_iter().filter(|capability| bounding & (1 << number(*capability)) != 0).collect()
}

/// The kernel's number of a capability of [`ORDINARY`].
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::NetBindService => 10,
        Capability::NetRaw => 13,
        Capability::SysChroot => 18,
        Capability::AuditWrite => 29,
        Capability::Setfcap => 31,
        // Above every real one: never in a bounding set.
        _ => 63,
    }
}
