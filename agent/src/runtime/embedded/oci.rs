//! The OCI runtime configuration of a container: a pure function of its launch description and of the machine.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::launch::LaunchFile;
use super::layout::ROOTFS;

/// What an ordinary container may do: Docker's set without MKNOD, since cgroup v2 has no device filter here.
const CAPABILITIES: [Capability; 13] = [
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

/// Descriptors that a program may open without asking for more.
const OPEN_FILES_SOFT: u64 = 65_536;
/// Descriptors that a program may ask for.
const OPEN_FILES_HARD: u64 = 1_048_576;
/// Period of a CPU limit in microseconds, the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// Smallest CPU quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA: i64 = 1_000;

/// Paths of /proc and /sys that tell or change too much of the machine: as runc.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// Paths of /proc that a container may read only: as runc.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// The shim's capability bounding set, bit by number.
    pub(super) bounding: u64,
    /// The shim's hard limit of open files.
    pub(super) open_files: u64,
    /// Whether swap can be limited.
    pub(super) limits_swap: bool,
}

/// Who the program runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// User.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Further groups.
    pub(super) groups: Vec<u32>,
}

/// Where the shim has put what is mounted into the container.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// Directory with `hosts`, `hostname` and `resolv.conf`.
    pub(super) etc: PathBuf,
    /// One per volume of the launch description.
    pub(super) volumes: Vec<PathBuf>,
}

/// The configuration of a container.
///
/// The network namespace is left out in both modes: the container takes the shim's, which is either the node's own or
/// one that the shim has made.
pub(super) fn configuration(
    launch: &LaunchFile,
    identity: &Identity,
    sources: &Sources,
    machine: Machine,
) -> Result<Spec, OciSpecError> {
    let namespaces = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|typ| LinuxNamespaceBuilder::default().typ(typ).build())
    .collect::<Result<Vec<_>, _>>()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(launch.cgroup.as_str())
        .resources(resources(launch, machine)?)
        .masked_paths(MASKED.map(str::to_owned).to_vec())
        .readonly_paths(READ_ONLY.map(str::to_owned).to_vec())
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(ROOTFS).readonly(false).build()?)
        .hostname(launch.hostname.clone())
        .mounts(mounts(launch, sources)?)
        .process(process(launch, identity, machine)?)
        .linux(linux)
        .build()
}

fn process(launch: &LaunchFile, identity: &Identity, machine: Machine) -> Result<Process, OciSpecError> {
    let allowed: std::collections::HashSet<Capability> = CAPABILITIES
        .into_iter()
        .filter(|capability| machine.bounding & (1 << capability_number(*capability)) != 0)
        .collect();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(allowed.clone())
        .effective(allowed.clone())
        .permitted(allowed)
        .inheritable(std::collections::HashSet::new())
        .ambient(std::collections::HashSet::new())
        .build()?;
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES_SOFT.min(machine.open_files))
        .hard(OPEN_FILES_HARD.min(machine.open_files))
        .build()?;
    ProcessBuilder::default()
        .terminal(false)
        .user(
            UserBuilder::default()
                .uid(identity.uid)
                .gid(identity.gid)
                .additional_gids(identity.groups.clone())
                .build()?,
        )
        .args(launch.args.clone())
        .env(launch.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
        .cwd(launch.cwd.clone())
        .capabilities(capabilities)
        .rlimits(vec![files])
        .no_new_privileges(true)
        .build()
}

/// The kernel's number of a capability of [`CAPABILITIES`].
fn capability_number(capability: Capability) -> u32 {
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

fn resources(launch: &LaunchFile, machine: Machine) -> Result<LinuxResources, OciSpecError> {
    let no_devices = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
    let mut resources = LinuxResourcesBuilder::default().devices(vec![no_devices]);
    if let Some(bytes) = launch.memory {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut memory = LinuxMemoryBuilder::default().limit(bytes);
        if machine.limits_swap {
            // The sum of both: no swap at all, so that passing the limit is told at once and not after thrashing.
            memory = memory.swap(bytes);
        }
        resources = resources.memory(memory.build()?);
    }
    if let Some(millis) = launch.cpu_millis {
        let quota = (i64::from(millis) * CPU_PERIOD as i64 / 1000).max(MIN_CPU_QUOTA);
        resources = resources.cpu(LinuxCpuBuilder::default().period(CPU_PERIOD).quota(quota).build()?);
    }
    resources.build()
}

fn mounts(launch: &LaunchFile, sources: &Sources) -> Result<Vec<Mount>, OciSpecError> {
    let mut mounts = vec![
        mount("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            Path::new("devpts"),
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/shm", "tmpfs", Path::new("shm"), &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", "ro"])?,
    ];
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = format!("/etc/{name}");
        if launch.volumes.iter().any(|volume| volume.target == target) {
            continue;
        }
        mounts.push(mount(&target, "bind", &sources.etc.join(name), &["bind", "rprivate"])?);
    }
    let mut volumes: Vec<_> = launch.volumes.iter().zip(&sources.volumes).collect();
    // A volume inside another one must be mounted after it.
    volumes.sort_by_key(|(volume, _)| Path::new(&volume.target).components().count());
    for (volume, source) in volumes {
        let access = if volume.read_only { "rro" } else { "rw" };
        mounts.push(mount(&volume.target, "bind", source, &["rbind", "rprivate", access])?);
    }
    Ok(mounts)
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
}
