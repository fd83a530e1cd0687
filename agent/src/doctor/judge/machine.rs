//! What the embedded runtime needs of the kernel.

use longshore_doctor::Finding;

/// The first kernel on which a path can be opened without following links, as host paths are.
const OPENS_SAFELY: (u32, u32) = (5, 6);
/// The first kernel on which a mount can be made read-only with all that is below it, as read-only volumes are.
const MOUNTS_READ_ONLY: (u32, u32) = (5, 12);
/// Descriptors of a shim with many connections: see `shim`.
const ENOUGH_FILES: u64 = 4096;

/// Without these no container can be made: their numbers are the kernel's.
const NEEDED: [(u32, &str); 12] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (12, "CAP_NET_ADMIN"),
    (18, "CAP_SYS_CHROOT"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
];
/// Containers have these too, as far as the machine has them.
const USUAL: [(u32, &str); 5] = [
    (4, "CAP_FSETID"),
    (10, "CAP_NET_BIND_SERVICE"),
    (13, "CAP_NET_RAW"),
    (29, "CAP_AUDIT_WRITE"),
    (31, "CAP_SETFCAP"),
];

/// Whether the kernel has overlayfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Overlay {
    /// It is there.
    Loaded,
    /// It is loaded when it is needed.
    Module,
    /// Neither.
    Missing,
}

/// What there is of cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Cgroups {
    /// Whether only version 2 is mounted.
    pub(in crate::doctor) is_unified: bool,
    /// Whether anything is mounted.
    pub(in crate::doctor) is_mounted: bool,
    /// Controllers that are not offered, of those that are used.
    pub(in crate::doctor) missing: Vec<&'static str>,
}

/// The kernel's release, such as `6.1.0-18-amd64`.
pub(in crate::doctor) fn kernel(release: &str) -> Finding {
    let check = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        let hint = "Linux 5.12 or a later one is needed.";
        return Finding::degraded(check, format!("a release that cannot be read: {release:?}"), hint);
    };
    if (major, minor) < OPENS_SAFELY {
        Finding::broken(check, format!("{release} cannot mount host paths safely"), "Use Linux 5.12 or a later one.")
    } else if (major, minor) < MOUNTS_READ_ONLY {
        let found = format!("{release} cannot mount volumes read-only; specs with such volumes fail");
        Finding::degraded(check, found, "Use Linux 5.12 or a later one.")
    } else {
        Finding::fine(check, release)
    }
}

/// Whether layers can be stacked.
pub(in crate::doctor) fn overlay(overlay: Overlay) -> Finding {
    match overlay {
        Overlay::Loaded => Finding::fine("overlayfs", "is there"),
        Overlay::Module => Finding::fine("overlayfs", "is a module, loaded when it is needed"),
        Overlay::Missing => {
            let hint = "Use a kernel with CONFIG_OVERLAY_FS, or install its modules and run `modprobe overlay`.";
            Finding::broken("overlayfs", "the kernel does not have it", hint)
        }
    }
}

/// Whether containers can have namespaces of their own.
pub(in crate::doctor) fn namespaces(missing: &[&str]) -> Finding {
    if missing.is_empty() {
        return Finding::fine("namespaces", "mount, PID, network, IPC, UTS and cgroup");
    }
    let hint = "Use a kernel with them, and look at /proc/sys/user/max_*_namespaces: 0 forbids them.";
    Finding::broken("namespaces", format!("there are none of these kinds: {}", missing.join(", ")), hint)
}

/// Whether limits are enforced.
pub(in crate::doctor) fn cgroups(cgroups: &Cgroups) -> Finding {
    let check = "cgroups";
    if !cgroups.is_mounted {
        let hint = "Mount them: systemd does; without it, `mount -t cgroup2 none /sys/fs/cgroup`.";
        return Finding::broken(check, "none are mounted", hint);
    }
    let version = if cgroups.is_unified { "version 2" } else { "version 1" };
    if cgroups.missing.is_empty() {
        return Finding::fine(check, format!("{version} with cpu, memory and pids"));
    }
    let found = format!("{version} without {}: specs with such limits are refused", cgroups.missing.join(" and "));
    let hint =
        "Switch them on at boot: `cgroup_enable=memory` for memory on a Raspberry Pi; else a kernel that has them.";
    Finding::degraded(check, found, hint)
}

/// Whether system calls can be filtered.
pub(in crate::doctor) fn seccomp(is_there: bool) -> Finding {
    if is_there {
        return Finding::fine("seccomp", "is there");
    }
    let hint =
        "Use a kernel with CONFIG_SECCOMP_FILTER; architectures other than x86_64 and aarch64 have no filter here.";
    Finding::degraded("seccomp", "system calls of containers are not filtered", hint)
}

/// The bounding set, bit by number.
pub(in crate::doctor) fn capabilities(bounding: u64) -> Finding {
    let check = "capabilities";
    let missing = |of: &[(u32, &'static str)]| -> Vec<&'static str> {
        of.iter().filter(|(number, _)| bounding & (1 << number) == 0).map(|(_, name)| *name).collect()
    };
    let hint =
        "Something before the agent took them away: CapabilityBoundingSet= of its unit, or a container around it.";
    let (needed, usual) = (missing(&NEEDED), missing(&USUAL));
    if !needed.is_empty() {
        let found = format!("missing from the bounding set, and needed: {}", needed.join(", "));
        Finding::broken(check, found, hint)
    } else if !usual.is_empty() {
        let found = format!("missing from the bounding set, and so from every container: {}", usual.join(", "));
        Finding::degraded(check, found, hint)
    } else {
        Finding::fine(check, "all that agent and containers use")
    }
}

/// The hard limit of open files.
pub(in crate::doctor) fn open_files(hard: u64) -> Finding {
    if hard >= ENOUGH_FILES {
        return Finding::fine("open files", format!("up to {hard}"));
    }
    let found = format!("at most {hard}: one is used for each container, and two for each connection to its ports");
    Finding::degraded("open files", found, "Raise LimitNOFILE= of the agent's unit.")
}

#[cfg(test)]
mod tests {
    use longshore_doctor::Verdict;

    use super::*;

    #[test]
    fn kernels_are_told_apart_by_what_they_can() {
        let table = [
            ("6.1.0-18-amd64", Verdict::Fine),
            ("5.12", Verdict::Fine),
            ("10.0.0", Verdict::Fine),
            ("5.11.0-generic", Verdict::Degraded),
            ("5.6.0", Verdict::Degraded),
            ("5.4.0-150-generic", Verdict::Broken),
            ("4.19.0", Verdict::Broken),
            ("unknown", Verdict::Degraded),
            ("", Verdict::Degraded),
        ];
        for (release, verdict) in table {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn parts_of_the_kernel_are_there_or_missing() {
        let verdicts = [Overlay::Loaded, Overlay::Module, Overlay::Missing].map(|found| overlay(found).verdict);
        assert_eq!(verdicts, [Verdict::Fine, Verdict::Fine, Verdict::Broken]);
        assert_eq!(namespaces(&[]).verdict, Verdict::Fine);
        assert_eq!(namespaces(&["pid"]).found, "there are none of these kinds: pid");
        assert_eq!((seccomp(true).verdict, seccomp(false).verdict), (Verdict::Fine, Verdict::Degraded));
        let mounted = Cgroups { is_mounted: true, ..Cgroups::default() };
        assert_eq!(cgroups(&Cgroups::default()).verdict, Verdict::Broken);
        assert_eq!(cgroups(&mounted).found, "version 1 with cpu, memory and pids");
        let poor = Cgroups { is_unified: true, missing: vec!["memory"], ..mounted };
        assert_eq!(cgroups(&poor).found, "version 2 without memory: specs with such limits are refused");
        assert_eq!(cgroups(&poor).verdict, Verdict::Degraded);
    }

    #[test]
    fn capabilities_are_needed_or_usual() {
        assert_eq!(capabilities(u64::MAX).verdict, Verdict::Fine);
        // CAP_SYS_RESOURCE is used by nobody here.
        assert_eq!(capabilities(!(1 << 24)).verdict, Verdict::Fine);
        let poor = capabilities(!(1 << 13));
        assert_eq!(poor.verdict, Verdict::Degraded);
        assert!(poor.found.ends_with(": CAP_NET_RAW"), "{poor:?}");
        let broken = capabilities(!(1 << 13 | 1 << 21 | 1 << 27));
        assert_eq!(broken.verdict, Verdict::Broken);
        assert!(broken.found.ends_with(": CAP_SYS_ADMIN, CAP_MKNOD"), "{broken:?}");
        assert_eq!((open_files(1024).verdict, open_files(20_000).verdict), (Verdict::Degraded, Verdict::Fine));
    }
}
