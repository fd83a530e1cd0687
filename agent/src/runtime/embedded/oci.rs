//! The OCI runtime configuration of a container: a pure function of its launch description and of the machine.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::launch::LaunchFile;
use super::layout::ROOTFS;
use super::privileges::Bounding;
use crate::devices::DeviceNode;

/// Descriptors that a program may open without asking for more.
const OPEN_FILES_SOFT: u64 = 65_536;
/// Descriptors that a program may ask for.
const OPEN_FILES_HARD: u64 = 1_048_576;
/// Period of a CPU limit in microseconds, the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// Smallest CPU quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA: i64 = 1_000;

/// Paths of /proc and /sys that tell or change too much of the machine: as Docker, with those of
/// [`Machine::masked`].
const MASKED: [&str; 12] = [
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
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Paths of /proc that a container may read only: as Docker.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the machine allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// What capabilities the shim can give.
    pub(super) bounding: Bounding,
    /// The shim's hard limit of open files.
    pub(super) open_files: u64,
    /// Whether swap can be limited.
    pub(super) limits_swap: bool,
    /// Paths that no ordinary container shall see, and that not every machine has.
    pub(super) masked: Vec<String>,
    /// The machine's devices, for a privileged container.
    pub(super) devices: Vec<DeviceNode>,
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
    machine: &Machine,
) -> Result<Spec, OciSpecError> {
    let namespaces = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .filter(|typ| !(launch.host_pid && *typ == LinuxNamespaceType::Pid))
    .map(|typ| LinuxNamespaceBuilder::default().typ(typ).build())
    .collect::<Result<Vec<_>, _>>()?;
    let hidden = |paths: &[&str], more: &[String]| {
        let all = paths.iter().map(|&path| path.to_owned()).chain(more.iter().cloned());
        all.filter(|_| !launch.privileged).collect::<Vec<_>>()
    };
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(launch.cgroup.as_str())
        .resources(resources(launch, machine)?)
        .devices(devices(launch, machine)?)
        .masked_paths(hidden(&MASKED, &machine.masked))
        .readonly_paths(hidden(&READ_ONLY, &[]))
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(ROOTFS).readonly(launch.read_only_root).build()?)
        .hostname(launch.hostname.clone())
        .mounts(mounts(launch, sources)?)
        .process(process(launch, identity, machine)?)
        .linux(linux)
        .build()
}

fn process(launch: &LaunchFile, identity: &Identity, machine: &Machine) -> Result<Process, OciSpecError> {
    let allowed = machine.bounding.of(launch.granted());
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(allowed.clone())
        .effective(allowed.clone())
        .permitted(allowed)
        .inheritable(std::collections::HashSet::new())
        .ambient(std::collections::HashSet::new())
        .build()?;
    // A hard limit that is lowered here could not be raised again to what the spec says.
    let own = launch.ulimits.iter().find(|limit| limit.name == "nofile");
    let hard = OPEN_FILES_HARD.max(own.map_or(0, |limit| limit.hard.cast_unsigned()));
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES_SOFT.min(machine.open_files))
        .hard(hard.min(machine.open_files))
        .build()?;
    let mut process = ProcessBuilder::default()
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
        .build()?;
    // Left out, not false: the library asks in places whether it is there, and not what it says.
    process.set_no_new_privileges((!launch.privileged).then_some(true));
    Ok(process)
}

/// Nodes in the container's /dev, beside those that every container has.
fn devices(launch: &LaunchFile, machine: &Machine) -> Result<Vec<LinuxDevice>, OciSpecError> {
    // A privileged container may have the same device twice over; the library would fail to make it twice.
    let is_own = |device: &&DeviceNode| launch.devices.iter().all(|own| own.target != device.target);
    let all = launch.devices.iter().chain(machine.devices.iter().filter(is_own));
    all.map(|device| {
        LinuxDeviceBuilder::default()
            .path(&device.target)
            .typ(kind(device))
            .major(device.major)
            .minor(device.minor)
            .file_mode(device.mode)
            .uid(device.uid)
            .gid(device.gid)
            .build()
    })
    .collect()
}

fn kind(device: &DeviceNode) -> LinuxDeviceType {
    if device.is_block { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

/// What the kernel lets the container use of all devices; the library adds those that every container has.
fn device_rules(launch: &LaunchFile) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let base = LinuxDeviceCgroupBuilder::default().allow(launch.privileged).access("rwm").build();
    let own = launch.devices.iter().map(|device| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(device))
            .major(device.major)
            .minor(device.minor)
            .access(device.permissions.as_str())
            .build()
    });
    std::iter::once(base).chain(own.filter(|_| !launch.privileged)).collect()
}

fn resources(launch: &LaunchFile, machine: &Machine) -> Result<LinuxResources, OciSpecError> {
    let mut resources = LinuxResourcesBuilder::default().devices(device_rules(launch)?);
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
    if let Some(limit) = launch.pids_limit {
        resources = resources.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    resources.build()
}

fn mounts(launch: &LaunchFile, sources: &Sources) -> Result<Vec<Mount>, OciSpecError> {
    let shm_size = format!("size={}", launch.shm_size);
    let mut mounts = vec![
        mount("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            Path::new("devpts"),
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/shm", "tmpfs", Path::new("shm"), &["nosuid", "noexec", "nodev", "mode=1777", &shm_size])?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", access(!launch.privileged)])?,
    ];
    if launch.privileged {
        // Only here: where it is mounted a container can raise its own limits, whatever the options are.
        let options = ["nosuid", "noexec", "nodev", "relatime"];
        mounts.push(mount("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), &options)?);
    }
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

fn access(is_read_only: bool) -> &'static str {
    if is_read_only { "ro" } else { "rw" }
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use longshore_model::limits;
    use longshore_model::name::AppName;
    use longshore_model::spec::{Capabilities, DnsConfig, Ulimit};
    use serde_json::{Value, json};

    use super::super::cgroup::CgroupPath;
    use super::super::launch::VERSION;
    use super::super::volumes::VolumeMount;
    use super::*;

    fn launch() -> LaunchFile {
        LaunchFile {
            version: VERSION,
            app: AppName::parse("web-1").unwrap(),
            index: 0,
            revision: 1,
            run: 1,
            layers: vec![],
            args: vec!["/app".to_owned(), "serve".to_owned()],
            env: vec![("A".to_owned(), "1=2".to_owned())],
            user: String::new(),
            cwd: "/srv".to_owned(),
            stop_signal: 15,
            hostname: "web-1-0".to_owned(),
            host_network: false,
            ports: vec![],
            waits_for_readiness: false,
            volumes: vec![],
            cpu_millis: None,
            memory: None,
            cgroup: CgroupPath::new("n", "web-1-0-1").unwrap(),
            logs: PathBuf::new(),
            rotation: super::super::logs::Rotation::default(),
            volumes_root: PathBuf::new(),
            egress: None,
            privileged: false,
            host_pid: false,
            read_only_root: false,
            capabilities: Capabilities::default(),
            pids_limit: None,
            ulimits: vec![],
            shm_size: limits::DEFAULT_SHM_SIZE,
            devices: vec![],
            host_aliases: vec![],
            dns: DnsConfig::default(),
            has_secret_env: false,
            runs_commands: true,
        }
    }

    fn disk(target: &str) -> DeviceNode {
        DeviceNode {
            source: PathBuf::from("/dev/sda"),
            target: target.to_owned(),
            is_block: true,
            major: 8,
            minor: 0,
            mode: 0o660,
            uid: 0,
            gid: 6,
            permissions: "r".to_owned(),
        }
    }

    const MACHINE: Machine = Machine {
        bounding: Bounding(0x1ff_feff_ffff),
        open_files: 20_000,
        limits_swap: true,
        masked: Vec::new(),
        devices: Vec::new(),
    };

    fn json_of(launch: &LaunchFile, machine: &Machine) -> Value {
        let identity = Identity { uid: 5, gid: 6, groups: vec![7] };
        let volumes = (0..launch.volumes.len()).map(|at| PathBuf::from(format!("/stage/{at}"))).collect();
        let sources = Sources { etc: PathBuf::from("/c/etc"), volumes };
        serde_json::to_value(configuration(launch, &identity, &sources, machine).unwrap()).unwrap()
    }

    #[test]
    fn the_process_is_what_the_launch_says() {
        let spec = json_of(&launch(), &MACHINE);
        let process = &spec["process"];
        assert_eq!(process["args"], json!(["/app", "serve"]));
        assert_eq!(process["env"], json!(["A=1=2"]));
        assert_eq!(process["cwd"], "/srv");
        assert_eq!(process["user"], json!({ "uid": 5, "gid": 6, "additionalGids": [7] }));
        assert_eq!(process["noNewPrivileges"], true);
        assert_eq!(process["rlimits"], json!([{ "type": "RLIMIT_NOFILE", "hard": 20_000, "soft": 20_000 }]));
        assert_eq!(spec["root"]["path"], "rootfs");
        assert_eq!(spec["linux"]["cgroupsPath"], "/longshore/n/web-1-0-1");
    }

    #[test]
    fn what_the_spec_says_of_open_files_is_not_barred_beforehand() {
        let machine = Machine { open_files: 4_000_000, ..MACHINE };
        for (hard, expected) in [(100, 1_048_576), (2_000_000, 2_000_000), (9_000_000, 4_000_000), (-1, 4_000_000)] {
            let ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 50, hard }];
            let spec = json_of(&LaunchFile { ulimits, ..launch() }, &machine);
            assert_eq!(spec["process"]["rlimits"][0]["hard"], expected, "{hard}");
        }
    }

    #[test]
    fn no_namespace_of_the_network_and_no_cgroup_mount_is_asked_for() {
        let spec = json_of(&launch(), &MACHINE);
        let namespaces: Vec<&Value> =
            spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| &n["type"]).collect();
        assert_eq!(namespaces, ["mount", "pid", "ipc", "uts", "cgroup"]);
        let mounts = spec["mounts"].as_array().unwrap();
        let targets: Vec<&str> = mounts.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
        let expected = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"];
        assert_eq!(targets, [&expected[..], &["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]].concat());
        assert!(mounts.iter().all(|mount| !mount["type"].as_str().unwrap().starts_with("cgroup")));
        assert!(mounts[5]["options"].as_array().unwrap().contains(&json!("ro")), "/sys is read-only");
    }

    #[test]
    fn capabilities_are_what_docker_gives_and_the_machine_has() {
        let count = |bounding| {
            let spec = json_of(&launch(), &Machine { bounding: Bounding(bounding), ..MACHINE });
            let sets = &spec["process"]["capabilities"];
            assert_eq!(sets["inheritable"], json!([]));
            assert_eq!(sets["ambient"], json!([]));
            let bounding = sets["bounding"].as_array().unwrap().clone();
            assert!(!bounding.contains(&json!("CAP_SYS_ADMIN")) && !bounding.contains(&json!("CAP_MKNOD")));
            bounding.len()
        };
        assert_eq!(count(u64::MAX), 13);
        assert_eq!(count(!(1 << 13 | 1 << 29)), 11);
        assert_eq!(count(0), 0);
    }

    #[test]
    fn a_container_has_its_devices_and_no_others() {
        let spec = json_of(&LaunchFile { devices: vec![disk("/dev/disk")], ..launch() }, &MACHINE);
        let device = &spec["linux"]["devices"][0];
        let numbers = (&device["path"], &device["type"], &device["major"], &device["fileMode"], &device["gid"]);
        assert_eq!(numbers, (&json!("/dev/disk"), &json!("b"), &json!(8), &json!(0o660), &json!(6)));
        let rule = json!({ "allow": true, "type": "b", "major": 8, "minor": 0, "access": "r" });
        let rules = json!([{ "allow": false, "access": "rwm" }, rule]);
        assert_eq!(spec["linux"]["resources"]["devices"], rules);
        let machine = Machine { devices: vec![disk("/dev/disk"), disk("/dev/sda")], ..MACHINE };
        let spec = json_of(&LaunchFile { devices: vec![disk("/dev/disk")], privileged: true, ..launch() }, &machine);
        let paths: Vec<&Value> = spec["linux"]["devices"].as_array().unwrap().iter().map(|d| &d["path"]).collect();
        assert_eq!(paths, ["/dev/disk", "/dev/sda"]);
    }

    #[test]
    fn a_privileged_container_is_held_back_by_nothing() {
        let machine = Machine { devices: vec![disk("/dev/sda")], masked: vec!["/sys/x".to_owned()], ..MACHINE };
        let spec = json_of(&LaunchFile { privileged: true, ..launch() }, &machine);
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 40, "all that there are");
        assert_eq!(spec["process"]["noNewPrivileges"], Value::Null, "left out");
        assert_eq!((&spec["linux"]["maskedPaths"], &spec["linux"]["readonlyPaths"]), (&json!([]), &json!([])));
        assert_eq!(spec["linux"]["devices"][0]["path"], "/dev/sda");
        assert_eq!(spec["linux"]["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
        let mounts = spec["mounts"].as_array().unwrap();
        let options = |target: &str| {
            let mount = mounts.iter().find(|mount| mount["destination"] == target).unwrap();
            mount["options"].as_array().unwrap().clone()
        };
        for target in ["/sys", "/sys/fs/cgroup"] {
            assert!(!options(target).contains(&json!("ro")), "{target}");
        }
    }

    #[test]
    fn host_pid_is_no_namespace_of_processes_and_nothing_else() {
        let mut host = json_of(&LaunchFile { host_pid: true, ..launch() }, &MACHINE);
        let mut own = json_of(&launch(), &MACHINE);
        // Sets, in no order.
        for spec in [&mut host, &mut own] {
            spec["process"]["capabilities"].take();
        }
        let namespaces = host["linux"]["namespaces"].as_array_mut().unwrap();
        assert!(namespaces.iter().all(|namespace| namespace["type"] != "pid"));
        namespaces.insert(1, json!({ "type": "pid" }));
        assert_eq!(host, own);
    }

    #[test]
    fn what_tells_of_the_machine_is_masked() {
        let throttle = "/sys/devices/system/cpu/cpu0/thermal_throttle";
        let spec = json_of(&launch(), &Machine { masked: vec![throttle.to_owned()], ..MACHINE });
        let masked = spec["linux"]["maskedPaths"].as_array().unwrap();
        for path in ["/proc/kcore", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap", throttle] {
            assert!(masked.contains(&json!(path)), "{path}");
        }
    }

    #[test]
    fn limits_become_resources() {
        let none = json_of(&launch(), &MACHINE);
        assert_eq!(none["linux"]["resources"]["memory"], Value::Null);
        assert_eq!(none["linux"]["resources"]["cpu"], Value::Null);
        let limited = LaunchFile { cpu_millis: Some(1500), memory: Some(1 << 26), ..launch() };
        let resources = &json_of(&limited, &MACHINE)["linux"]["resources"];
        assert_eq!(resources["cpu"], json!({ "quota": 150_000, "period": 100_000 }));
        assert_eq!(resources["memory"], json!({ "limit": 1 << 26, "swap": 1 << 26 }));
        assert_eq!(resources["devices"], json!([{ "allow": false, "access": "rwm" }]));
        let without_swap = json_of(&limited, &Machine { limits_swap: false, ..MACHINE });
        assert_eq!(without_swap["linux"]["resources"]["memory"], json!({ "limit": 1 << 26 }));
        let tiny = LaunchFile { cpu_millis: Some(1), ..launch() };
        assert_eq!(json_of(&tiny, &MACHINE)["linux"]["resources"]["cpu"]["quota"], 1000, "the kernel takes no less");
    }

    #[test]
    fn options_are_the_specs() {
        let none = json_of(&launch(), &MACHINE);
        assert_eq!((&none["root"]["readonly"], &none["linux"]["resources"]["pids"]), (&json!(false), &Value::Null));
        assert!(none["mounts"][3]["options"].as_array().unwrap().contains(&json!("size=67108864")));
        let capabilities = Capabilities { add: vec!["NET_ADMIN".to_owned()], drop: vec!["ALL".to_owned()] };
        let (pids_limit, shm_size) = (Some(100), 1 << 20);
        let all = LaunchFile { read_only_root: true, capabilities, pids_limit, shm_size, ..launch() };
        let spec = json_of(&all, &MACHINE);
        assert_eq!(spec["root"]["readonly"], true);
        assert_eq!(spec["linux"]["resources"]["pids"], json!({ "limit": 100 }));
        assert!(spec["mounts"][3]["options"].as_array().unwrap().contains(&json!("size=1048576")));
        for set in ["bounding", "effective", "permitted"] {
            assert_eq!(spec["process"]["capabilities"][set], json!(["CAP_NET_ADMIN"]), "{set}");
        }
    }

    #[test]
    fn volumes_are_mounted_outer_first_and_over_our_own_files() {
        let volume = |target: &str, read_only| VolumeMount {
            source: PathBuf::new(),
            id: None,
            target: target.to_owned(),
            read_only,
            is_projection: false,
        };
        let volumes = vec![volume("/a/b", true), volume("/a", false), volume("/etc/hosts", false)];
        let spec = json_of(&LaunchFile { volumes, ..launch() }, &MACHINE);
        let mounts: Vec<(&str, &str)> = spec["mounts"].as_array().unwrap()[6..]
            .iter()
            .map(|mount| (mount["destination"].as_str().unwrap(), mount["source"].as_str().unwrap()))
            .collect();
        let expected = [
            ("/etc/hostname", "/c/etc/hostname"),
            ("/etc/resolv.conf", "/c/etc/resolv.conf"),
            ("/a", "/stage/1"),
            ("/a/b", "/stage/0"),
            ("/etc/hosts", "/stage/2"),
        ];
        assert_eq!(mounts, expected);
        let inner = &spec["mounts"].as_array().unwrap()[9]["options"];
        assert_eq!(*inner, json!(["rbind", "rprivate", "rro"]));
    }
}
