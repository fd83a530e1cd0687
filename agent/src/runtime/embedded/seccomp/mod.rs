//! The filter of system calls that ordinary containers run under: what, and why, is in
//! `docs/decisions/0012-system-calls.md`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::Capability;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

mod profile;

/// Numbers of system calls that a kernel to come may give out: from here on x86_64 has an old range for another ABI.
const NUMBERS: i64 = 512;

/// Rules by number of system call; none for one means that all its arguments are allowed.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What is installed for a container, compiled.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    /// Allows what the profile allows, and refuses the rest with EPERM.
    profile: BpfProgram,
    /// Says ENOSYS for what shall seem not to exist, so that programs take what they took before it did.
    unknown: BpfProgram,
}

/// Whether containers of this machine run under the filter: the architecture has a profile, and the kernel has filters.
#[must_use]
pub fn is_offered() -> bool {
    architecture().is_some() && Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

fn architecture() -> Option<TargetArch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(TargetArch::x86_64),
        "aarch64" => Some(TargetArch::aarch64),
        _ => None,
    }
}

impl Filter {
    /// The filter for a container with these capabilities; `None` where [`is_offered`] is false.
    ///
    /// # Errors
    ///
    /// The filter is too long for the kernel.
    pub(super) fn for_container(capabilities: &HashSet<Capability>) -> Result<Option<Self>, BackendError> {
        let Some(architecture) = architecture().filter(|_| is_offered()) else { return Ok(None) };
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::compile(architecture, capabilities, kernel_version(&release)).map(Some)
    }

    fn compile(
        architecture: TargetArch,
        capabilities: &HashSet<Capability>,
        kernel: (u32, u32),
    ) -> Result<Self, BackendError> {
        let numbers = numbers(architecture);
        let allowed = allowed(&numbers, architecture, capabilities, kernel)?;
        let gated = profile::WITH_CAPABILITY.iter().map(|(_, names)| *names);
        let known = profile::ALLOWED.into_iter().chain(gated).flat_map(str::split_whitespace);
        let newest = known.filter_map(|name| numbers.get(name).copied()).max();
        let mut unknown: Rules = (newest.unwrap_or_default() + 1..NUMBERS).map(|number| (number, Vec::new())).collect();
        if !capabilities.contains(&Capability::SysAdmin) {
            unknown.extend(numbers.get(profile::CLONE3).map(|number| (*number, Vec::new())));
        }
        let [eperm, enosys] = [Errno::EPERM, Errno::ENOSYS].map(|errno| SeccompAction::Errno(errno as u32));
        let program = |rules, otherwise, action| SeccompFilter::new(rules, otherwise, action, architecture)?.try_into();
        Ok(Self {
            profile: program(allowed, eperm, SeccompAction::Allow)?,
            unknown: program(unknown, SeccompAction::Allow, enosys)?,
        })
    }

    /// Puts the calling process under the filter, for good, and forbids it new privileges.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(super) fn install(&self) -> Result<(), seccompiler::Error> {
        // Of two filters that refuse a call, the kernel gives the error of the one that was installed last.
        seccompiler::apply_filter(&self.profile)?;
        seccompiler::apply_filter(&self.unknown)
    }
}

/// The architecture's system calls: numbers by name.
fn numbers(architecture: TargetArch) -> BTreeMap<&'static str, i64> {
    let name = |number| match architecture {
        TargetArch::x86_64 => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
        TargetArch::aarch64 => syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
        TargetArch::riscv64 => None,
    };
    (0..NUMBERS).filter_map(|number| Some((name(usize::try_from(number).ok()?)?, number))).collect()
}

fn allowed(
    numbers: &BTreeMap<&'static str, i64>,
    architecture: TargetArch,
    capabilities: &HashSet<Capability>,
    kernel: (u32, u32),
) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let mut add = |name: &str, alternatives: Vec<SeccompRule>| {
        rules.extend(numbers.get(name).map(|number| (*number, alternatives)));
    };
    let first = |operator, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    add(profile::CLONE, vec![SeccompRule::new(vec![first(SeccompCmpOp::MaskedEq(profile::CLONE_NAMESPACES), 0)?])?]);
    let families = profile::REFUSED_FAMILIES.map(|family| first(SeccompCmpOp::Ne, family));
    add(profile::SOCKET, vec![SeccompRule::new(families.into_iter().collect::<Result<_, _>>()?)?]);
    let personalities = profile::PERSONALITIES.map(|value| SeccompRule::new(vec![first(SeccompCmpOp::Eq, value)?]));
    add(profile::PERSONALITY, personalities.into_iter().collect::<Result<_, _>>()?);

    let mut lists = profile::ALLOWED.to_vec();
    if architecture == TargetArch::x86_64 {
        lists.push(profile::ALLOWED_X86_64);
    }
    if kernel >= profile::TRACING_KERNEL {
        lists.push(profile::TRACING);
    }
    let held = profile::WITH_CAPABILITY.iter().filter(|(capability, _)| capabilities.contains(capability));
    lists.extend(held.map(|(_, names)| names));
    for name in lists.into_iter().flat_map(str::split_whitespace) {
        // In the place of a rule on arguments, if there was one: the capability allows them all.
        add(name, Vec::new());
    }
    Ok(rules)
}

/// Reads the beginning of a kernel's release; 0.0 if it has none, which allows least.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests;
