//! Words of Linux that specs and nodes use: capabilities, signals, and limits of processes.

use std::fmt;

/// Every capability, each at the kernel's number for it, without the `CAP_` of the kernel's own names.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The word for all capabilities at once.
pub const ALL: &str = "ALL";

/// Signals that can ask a program to end.
pub const SIGNALS: [&str; 29] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGCHLD",
    "SIGCONT",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The signal of this number, of [`SIGNALS`].
#[must_use]
pub fn signal(number: u8) -> Option<&'static str> {
    // Two numbers are not among them: a signal that nothing sends, and SIGSTOP, which ends nothing.
    let place = match number {
        1..=15 => number - 1,
        17..=18 => number - 2,
        20.. => number - 3,
        _ => return None,
    };
    SIGNALS.get(usize::from(place)).copied()
}

/// Limits of a process, as Docker and Compose call them.
pub const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Some capabilities: a bit for each, by the kernel's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

/// A text that names no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a capability of Linux such as NET_ADMIN, nor {ALL}")]
pub struct UnknownCapability;

impl CapabilitySet {
    /// None.
    pub const NONE: Self = Self(0);
    /// All that there are.
    pub const EVERY: Self = Self((1 << CAPABILITIES.len()) - 1);
    /// What an ordinary container may do: Docker's set without MKNOD, since cgroup v2 has no device filter with the embedded
    /// runtime.
    pub const ORDINARY: Self = Self(0xa004_25fb);

    /// Reads a name such as `NET_ADMIN` or `CAP_NET_ADMIN`, or [`ALL`].
    ///
    /// # Errors
    ///
    /// There is no such capability; names have capital letters.
    pub fn named(name: &str) -> Result<Self, UnknownCapability> {
        if name == ALL {
            return Ok(Self::EVERY);
        }
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        let number = CAPABILITIES.iter().position(|known| *known == name).ok_or(UnknownCapability)?;
        Ok(Self(1 << number))
    }

    /// Those of both.
    #[must_use]
    pub fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those that are not among the others.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A bit for each, by the kernel's number.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Their names, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CAPABILITIES
            .into_iter()
            .enumerate()
            .filter_map(move |(number, name)| (self.0 >> number & 1 == 1).then_some(name))
    }
}

impl FromIterator<CapabilitySet> for CapabilitySet {
    fn from_iter<T: IntoIterator<Item = Self>>(sets: T) -> Self {
        sets.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_their_numbers() {
        let known = [(1, "SIGHUP"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (17, "SIGCHLD"), (31, "SIGSYS")];
        for (number, name) in known {
            assert_eq!(signal(number), Some(name));
        }
        for number in [0, 16, 19, 32, 64, 255] {
            assert_eq!(signal(number), None, "{number}");
        }
    }

    #[test]
    fn capabilities_are_known_by_their_names_alone() {
        let admin = CapabilitySet::named("NET_ADMIN").unwrap();
        assert_eq!((admin.bits(), admin), (1 << 12, CapabilitySet::named("CAP_NET_ADMIN").unwrap()));
        assert_eq!(CapabilitySet::named(ALL), Ok(CapabilitySet::EVERY));
        for wrong in ["", "net_admin", "CAP_", "CAP_CAP_CHOWN", "CAP_ALL", "CHOWN\0", "СHOWN", "CHOWN ", "12"] {
            assert_eq!(CapabilitySet::named(wrong), Err(UnknownCapability), "{wrong:?}");
        }
        assert_eq!(CapabilitySet::EVERY.names().count(), 41);
    }

    #[test]
    fn the_ordinary_ones_are_dockers_without_mknod() {
        let names = "CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, \
                     SYS_CHROOT, AUDIT_WRITE, SETFCAP";
        assert_eq!(CapabilitySet::ORDINARY.to_string(), names);
        assert_eq!(CapabilitySet::NONE.to_string(), "");
    }
}
