//! The launch description: all that a shim needs to know, written by the agent before it starts the shim.

use std::path::{Path, PathBuf};
use std::{fs, io};

use longshore_model::app::BoundPort;
use longshore_model::limits;
use longshore_model::linux::CapabilitySet;
use longshore_model::name::AppName;
use longshore_model::spec::{Capabilities, DnsConfig, HostAlias, Ulimit};
use serde::{Deserialize, Serialize};

use super::cgroup::CgroupPath;
use super::egress::Egress;
use super::layout::{FILE_MODE, LAUNCH};
use super::logs::Rotation;
use super::volumes::VolumeMount;
use crate::devices::DeviceNode;
use crate::durable;

/// Version of the launch description and of the shim's socket; a shim refuses one that it does not know.
pub(super) const VERSION: u32 = 1;

/// All that a shim needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LaunchFile {
    /// [`VERSION`] of the agent that wrote it.
    pub(super) version: u32,
    /// The instance's app.
    pub(super) app: AppName,
    /// The instance's number.
    pub(super) index: u32,
    /// The app's revision.
    pub(super) revision: u64,
    /// The instance's run.
    pub(super) run: u32,
    /// Unpacked layers of the image, bottom first.
    pub(super) layers: Vec<PathBuf>,
    /// What to execute; never empty.
    pub(super) args: Vec<String>,
    /// The whole environment, each name once.
    pub(super) env: Vec<(String, String)>,
    /// `user[:group]` by name or number; empty means root.
    pub(super) user: String,
    /// Absolute working directory.
    pub(super) cwd: String,
    /// Signal that asks the program to end.
    pub(super) stop_signal: i32,
    /// Name of the host inside the container.
    pub(super) hostname: String,
    /// Whether the container lives in the node's own network namespace.
    pub(super) host_network: bool,
    /// Ports of the node that lead into it.
    pub(super) ports: Vec<BoundPort>,
    /// Whether these take no clients before the agent says so, since the instance has a readiness probe.
    #[serde(default)]
    pub(super) waits_for_readiness: bool,
    /// Volumes, in the spec's order.
    pub(super) volumes: Vec<VolumeMount>,
    /// Thousandths of a CPU.
    pub(super) cpu_millis: Option<u32>,
    /// Bytes of memory.
    pub(super) memory: Option<u64>,
    /// The container's cgroup.
    pub(super) cgroup: CgroupPath,
    /// Directory of the instance's output.
    pub(super) logs: PathBuf,
    /// How output is rotated.
    pub(super) rotation: Rotation,
    /// Where the agent mounts empty directories in memory: the shim must not keep other apps' alive.
    pub(super) volumes_root: PathBuf,
    /// How it reaches the outside, if it does.
    #[serde(default)]
    pub(super) egress: Option<Egress>,
    /// Whether it may do what root may.
    #[serde(default)]
    pub(super) privileged: bool,
    /// Whether it lives among the node's own processes.
    #[serde(default)]
    pub(super) host_pid: bool,
    /// Whether its root can only be read.
    #[serde(default)]
    pub(super) read_only_root: bool,
    /// Its capabilities, beside or without the ordinary ones.
    #[serde(default)]
    pub(super) capabilities: Capabilities,
    /// Processes and threads that it may have.
    #[serde(default)]
    pub(super) pids_limit: Option<u32>,
    /// Limits of each of its processes.
    #[serde(default)]
    pub(super) ulimits: Vec<Ulimit>,
    /// Bytes of its /dev/shm.
    #[serde(default = "default_shm_size")]
    pub(super) shm_size: u64,
    /// Devices that it has beside the usual ones.
    #[serde(default)]
    pub(super) devices: Vec<DeviceNode>,
    /// Further lines of its /etc/hosts.
    #[serde(default)]
    pub(super) host_aliases: Vec<HostAlias>,
    /// What of its /etc/resolv.conf is not the node's.
    #[serde(default)]
    pub(super) dns: DnsConfig,
    /// Whether standard input has variables from secrets, as JSON of pairs: those must not be in this file.
    #[serde(default)]
    pub(super) has_secret_env: bool,
    /// Whether its shim can run commands beside the program; those of the first agents cannot.
    #[serde(default)]
    pub(super) runs_commands: bool,
}

fn default_shm_size() -> u64 {
    limits::DEFAULT_SHM_SIZE
}

impl LaunchFile {
    /// The capabilities that it gets, if the machine has them.
    pub(super) fn granted(&self) -> CapabilitySet {
        if self.privileged { CapabilitySet::EVERY } else { self.capabilities.granted() }
    }
}

/// What the agent must know of a container that it finds: the part of a launch description that every version of the
/// agent can read of every other's, since shims outlive agents.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Label {
    pub(super) app: AppName,
    pub(super) index: u32,
    pub(super) revision: u64,
    pub(super) run: u32,
    pub(super) stop_signal: i32,
    pub(super) host_network: bool,
    pub(super) ports: Vec<BoundPort>,
    #[serde(default)]
    pub(super) waits_for_readiness: bool,
    pub(super) cgroup: CgroupPath,
    #[serde(default)]
    pub(super) runs_commands: bool,
}

impl Label {
    /// Whether its shim, which may be older than that, can be told to open and shut its ports.
    pub(super) fn can_be_shut(&self) -> bool {
        self.waits_for_readiness || self.ports.iter().any(|port| port.shared)
    }

    /// Reads it from the description of a container.
    pub(super) fn read(container: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(container.join(LAUNCH))?)?)
    }
}

impl LaunchFile {
    /// Reads the description of a container.
    pub(super) fn read(container: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(container.join(LAUNCH))?)?)
    }

    /// Writes it.
    pub(super) fn write(&self, container: &Path) -> io::Result<()> {
        durable::replace(&container.join(LAUNCH), &serde_json::to_vec(self)?, FILE_MODE)
    }
}
