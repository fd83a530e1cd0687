//! Makes the container: everything up to, and without, the first instruction of its program.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read};
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use longshore_model::failure::FailureReason;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, setgroups};

use super::super::cgroup::{self, CgroupPath};
use super::super::egress::{self, Egress};
use super::super::launch::LaunchFile;
use super::super::layout::SHIM_LOG;
use super::super::oci::{self, Machine};
use super::super::privileges::Bounding;
use super::super::seccomp::Filter;
use super::super::state::Failure;
use super::super::{failure, sys, user, volumes};
use super::devices;
use super::executor::Exec;
use super::node_network::NodeNetwork;
use super::ports::{self, Bound};
use super::rootfs;
use super::ulimits;
use super::{CONTAINER, LIBRARY, first_error};
use crate::runtime::RuntimeError;

/// Descriptors that a shim asks for: two per proxied connection, and some to spare.
const SHIM_OPEN_FILES: u64 = 4096;

/// A container that waits to be started, and what the shim holds of it.
pub(super) struct Made {
    pub(super) container: Container,
    pub(super) init: Pid,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
    /// Ends without a word when the program runs, and says why when it cannot.
    pub(super) exec: PipeReader,
    pub(super) ports: Vec<Bound>,
    /// The network that its ports are of.
    pub(super) node: NodeNetwork,
}

/// Makes the container of the current directory. The process must have one thread only.
///
/// `secret_env` reaches the program and nothing else: not config.json, and not the library.
pub(super) fn container(launch: &LaunchFile, secret_env: &[(String, String)]) -> Result<Made, RuntimeError> {
    // First what the spec asks for: where the shim may raise its own limit, that is what there is.
    ulimits::raise(&launch.ulimits)?;
    let open_files = raise_open_files()?;
    // The container library keeps the caller's groups unless the container has some of its own.
    setgroups(&[]).map_err(|e| failure::io("dropping groups", e))?;
    let ports = ports::bind(&launch.ports, !launch.waits_for_readiness)?;
    let node = NodeNetwork::of_caller().map_err(|e| failure::io("opening the node's network namespace", e))?;
    if !launch.host_network {
        leave_network(launch.egress.as_ref(), &node)?;
    }
    rootfs::leave_mount_namespace()?;
    let root = rootfs::mount_root(launch)?;
    let read = |path: &str| user::read_inside(&root, path).map_err(|e| failure::io(format!("reading {path}"), e));
    let identity = user::resolve(&launch.user, &read("/etc/passwd")?, &read("/etc/group")?)?;
    user::make_directory_inside(&root, &launch.cwd)
        .map_err(|e| failure::io(format!("making the working directory {}", launch.cwd), e))?;
    for volume in launch.volumes.iter().filter(|volume| volume.is_projection) {
        volumes::hand_over(&volume.source, identity.uid, identity.gid)
            .map_err(|e| failure::io(format!("handing over the files for {}", volume.target), e))?;
    }
    let sources = rootfs::stage(launch)?;
    let machine = machine(launch, open_files)?;
    let spec = oci::configuration(launch, &identity, &sources, &machine)
        .map_err(|e| failure::other(format!("the container's configuration is wrong: {e}")))?;
    // Looked at once more where it matters: with any other path the library would kill processes that are not ours.
    let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()).and_then(|path| path.to_str());
    CgroupPath::try_from(cgroup.unwrap_or_default().to_owned()).map_err(|e| failure::other(e.to_string()))?;
    spec.save("config.json").map_err(|e| failure::other(format!("writing config.json failed: {e}")))?;
    let filter = if launch.privileged { None } else { filter(launch, &machine)? };
    create(launch, secret_env, (ports, node), filter).inspect(|_| {
        if let Err(error) = rootfs::release_volumes(&launch.volumes_root) {
            tracing::warn!(%error, "volumes stay mounted in the shim");
        }
    })
}

fn machine(launch: &LaunchFile, open_files: u64) -> Result<Machine, RuntimeError> {
    let devices = if launch.privileged { devices::of_machine() } else { Ok(Vec::new()) };
    let bounding = Bounding::own().map_err(|e| failure::io("reading the shim's capabilities", e))?;
    let lacking = bounding.lacks(launch.capabilities.named());
    if !lacking.is_empty() {
        let message = format!("the agent does not have the capabilities {lacking} itself, so that it cannot give them");
        return Err(failure::because(FailureReason::Unsupported, message));
    }
    Ok(Machine {
        bounding,
        open_files,
        limits_swap: cgroup::limits_swap(),
        masked: thermal_throttles(),
        devices: devices.map_err(|e| failure::io("looking for devices", e))?,
    })
}

fn filter(launch: &LaunchFile, machine: &Machine) -> Result<Option<Filter>, RuntimeError> {
    let filter = Filter::for_container(&machine.bounding.of(launch.granted()))
        .map_err(|e| failure::other(format!("the filter of system calls is wrong: {e}")))?;
    if filter.is_none() {
        tracing::warn!("this machine has no filter of system calls for containers");
    }
    Ok(filter)
}

fn create(
    launch: &LaunchFile,
    secret_env: &[(String, String)],
    (ports, node): (Vec<Bound>, NodeNetwork),
    filter: Option<Filter>,
) -> Result<Made, RuntimeError> {
    let pipe = || std::io::pipe().map_err(|e| failure::io("making a pipe", e));
    let (stdout, stdout_writer) = pipe()?;
    let (stderr, stderr_writer) = pipe()?;
    let (mut exec, exec_writer) = pipe()?;
    let stdin = File::open("/dev/null").map_err(|e| failure::io("opening /dev/null", e))?;
    let report = Rc::new(File::from(std::os::fd::OwnedFd::from(exec_writer)));
    let env = launch.env.iter().chain(secret_env).cloned().collect();
    let (args, ulimits) = (launch.args.clone(), launch.ulimits.clone());
    let executor = Exec { args, env, ulimits, filter, report, terminal: None };
    fs::create_dir_all(LIBRARY).map_err(|e| failure::io("making the library's directory", e))?;
    // The builder and with it our end of the pipes is dropped with this statement.
    let built = ContainerBuilder::new(CONTAINER.to_owned(), SyscallType::default())
        .with_root_path(LIBRARY)
        .map(|builder| {
            builder.with_executor(executor).with_stdin(stdin).with_stdout(stdout_writer).with_stderr(stderr_writer)
        })
        .and_then(|builder| builder.as_init(".").with_systemd(false).with_detach(true).build());
    let explain = |error: &dyn std::fmt::Display, exec: &mut PipeReader| {
        // What the container's own side said is exact; the library only passes on that something failed.
        let mut said = Vec::new();
        let _ = exec.take(64 * 1024).read_to_end(&mut said);
        match serde_json::from_slice::<Failure>(&said) {
            Ok(said) => said.into(),
            Err(_) => failure::other(cause().unwrap_or_else(|| error.to_string())),
        }
    };
    let container = built.map_err(|error| explain(&error, &mut exec))?;
    let init = container.pid().ok_or_else(|| failure::other("the container has no first process"))?;
    Ok(Made { container, init: Pid::from_raw(init.as_raw()), stdout, stderr, exec, ports, node })
}

/// Why the library could not make the container, by the shim's log.
fn cause() -> Option<String> {
    let text = fs::read_to_string(SHIM_LOG).ok()?;
    first_error(&text).map(|cause| format!("the container could not be made: {cause}"))
}

/// Moves the shim into a network namespace of its own, with `lo` up and perhaps a way out.
fn leave_network(egress: Option<&Egress>, node: &NodeNetwork) -> Result<(), RuntimeError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failure::io("making a network namespace", e))?;
    sys::loopback_up().map_err(|e| failure::io("bringing up lo", e))?;
    // As elsewhere: a container that does not run as root may still serve port 80, of its own namespace only.
    if let Ok(mut file) = OpenOptions::new().write(true).open("/proc/sys/net/ipv4/ip_unprivileged_port_start") {
        std::io::Write::write_all(&mut file, b"0").map_err(|e| failure::io("opening low ports", e))?;
    }
    if let Some(egress) = egress {
        let address = egress::attach(egress, node.file())?;
        tracing::info!(%address, "the container reaches the outside");
    }
    Ok(())
}

/// Raises the shim's own limit of open files, and returns the hard one.
fn raise_open_files() -> Result<u64, RuntimeError> {
    let fail = |e| failure::io("reading the limit of open files", e);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail)?;
    if soft < SHIM_OPEN_FILES.min(hard) {
        setrlimit(Resource::RLIMIT_NOFILE, SHIM_OPEN_FILES.min(hard), hard).map_err(fail)?;
    }
    Ok(hard)
}

/// Where each processor tells how often it was too hot, which follows the load of other containers.
fn thermal_throttles() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path().join("thermal_throttle"));
    let mut paths: Vec<_> =
        paths.filter(|path| path.is_dir()).filter_map(|path| path.into_os_string().into_string().ok()).collect();
    paths.sort();
    paths
}
