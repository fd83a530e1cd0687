//! What to run: the app spec, in the form that people write in YAML.
//!
//! The types hold what was asked for, including what is wrong with it: [`crate::validate`] finds all violations at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::configuration::Kind;
use crate::limits;
use crate::probe::Probe;

mod options;
mod ports;
mod text;

pub use options::{AcceleratorQuota, Capabilities, Device, DnsConfig, DnsOption, HostAlias, Logs, Ulimit};
pub use ports::{Port, PortRange, Protocol, SinglePort};

/// What to run on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppSpec {
    /// Prefix of the app's name.
    pub name: String,
    /// The image to run.
    pub image: Image,
    /// Replaces the image's entry point and its default arguments when not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments for `command` or for the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables, added to those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Config maps and secrets of which every key becomes an environment variable; `env` goes before, and a later one
    /// before an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFrom>,
    /// Limits of one instance.
    #[serde(default, skip_serializing_if = "Resources::is_unlimited")]
    pub resources: Resources,
    /// Accelerators that each instance has for itself; of one kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<AcceleratorQuota>,
    /// What happens when an instance ends.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// Copies to run on each node; none where the image alone is meant.
    #[serde(default = "one")]
    pub instances: u32,
    /// Directories mounted into every instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// How the app is reached.
    #[serde(default)]
    pub network: Network,
    /// When a fresh app counts as healthy, and when to give up.
    #[serde(default)]
    pub startup: Startup,
    /// How an instance is asked whether it is alive: one that is not is started anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// How an instance is asked whether it is ready: only then does it count as healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Whether it may do on the node what root may; only where the node allows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Whether it lives among the node's own processes; only where the node allows it.
    #[serde(default, rename = "hostPID", skip_serializing_if = "std::ops::Not::not")]
    pub host_pid: bool,
    /// Whom the program runs as, `user[:group]` by name or number; `None` leaves it to the image.
    #[serde(default, with = "crate::quantity::optional_text", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Absolute path inside the container where the program starts, made if it is missing; `None` leaves it to the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// One of [`crate::linux::SIGNALS`], which asks the program to end; `None` leaves it to the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How long the program may then take to end before it is killed; in YAML `30s`.
    #[serde(default, with = "crate::quantity::optional_duration", skip_serializing_if = "Option::is_none")]
    pub termination_grace_period: Option<Duration>,
    /// Whether everything that is no volume can only be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root_filesystem: bool,
    /// Capabilities of Linux beside or without the ordinary ones.
    #[serde(default, skip_serializing_if = "Capabilities::is_ordinary")]
    pub capabilities: Capabilities,
    /// Processes and threads that an instance may have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u32>,
    /// Limits of each process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// Bytes of /dev/shm, the memory that processes of an instance share; in YAML `128Mi`.
    #[serde(default, with = "crate::quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u64>,
    /// Devices of the node that every instance may use; only those that the node allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Further lines of its /etc/hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_aliases: Vec<HostAlias>,
    /// What of its /etc/resolv.conf is not the node's.
    #[serde(default, skip_serializing_if = "DnsConfig::is_nodes")]
    pub dns_config: DnsConfig,
    /// How much of its output is kept on the node.
    #[serde(default, skip_serializing_if = "Logs::is_ordinary")]
    pub logs: Logs,
}

impl AppSpec {
    /// The spec that runs an image and leaves everything else to its defaults.
    #[must_use]
    pub fn new(name: &str, source: ImageSource) -> Self {
        Self {
            name: name.to_owned(),
            image: Image { source, pull_policy: None, credential: None, keep_for: None },
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            resources: Resources::default(),
            accelerators: Vec::new(),
            restart_policy: RestartPolicy::default(),
            instances: one(),
            volumes: Vec::new(),
            network: Network::default(),
            startup: Startup::default(),
            liveness_probe: None,
            readiness_probe: None,
            privileged: false,
            host_pid: false,
            user: None,
            working_dir: None,
            stop_signal: None,
            termination_grace_period: None,
            read_only_root_filesystem: false,
            capabilities: Capabilities::default(),
            pids_limit: None,
            ulimits: Vec::new(),
            shm_size: None,
            devices: Vec::new(),
            host_aliases: Vec::new(),
            dns_config: DnsConfig::default(),
            logs: Logs::default(),
        }
    }

    /// Whether nothing runs of it: its image alone is meant.
    #[must_use]
    pub fn is_image_only(&self) -> bool {
        self.instances == 0
    }

    /// How long the program may take to end before it is killed.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.termination_grace_period.unwrap_or(limits::DEFAULT_GRACE)
    }
}

fn one() -> u32 {
    1
}

/// Where the image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "text::Image", into = "text::Image")]
pub struct Image {
    /// Exactly one of the two places.
    pub source: ImageSource,
    /// When to fetch a reference; `None` leaves it to [`Image::effective_pull_policy`].
    pub pull_policy: Option<PullPolicy>,
    /// Name of the registry credential to read a reference with; `None` leaves it to [`crate::registry::choose`].
    pub credential: Option<String>,
    /// How long after a pull it is not removed to make room, whether an app needs it or not.
    pub keep_for: Option<Duration>,
}

/// The place of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A reference by tag or digest in a registry.
    Reference(String),
    /// Absolute path, on the node, of an OCI or Docker archive.
    Archive(String),
}

/// When the agent asks the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At every deployment.
    Always,
    /// Only when the reference is not on the node.
    IfNotPresent,
    /// Never.
    Never,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "text::EnvVar", into = "text::EnvVar")]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub source: EnvSource,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvSource {
    /// The value itself.
    Value(String),
    /// A fact that the node fills in.
    NodeField(NodeField),
    /// The value of the node's label of this key.
    NodeLabel(String),
    /// The value of a key of a config map or a secret.
    Key(KeyOf),
}

/// A key of a config map or a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOf {
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The key.
    pub key: String,
}

/// A config map or a secret whose every key becomes an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "text::EnvFrom", into = "text::EnvFrom")]
pub struct EnvFrom {
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What is put before each key.
    pub prefix: String,
}

/// Facts of a node that a value can be taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeField {
    /// The IPv4 address by which the node reaches its server.
    #[serde(rename = "hostIP")]
    HostIp,
    /// The node's name.
    #[serde(rename = "nodeName")]
    Name,
}

/// Limits of one instance, and what it asks of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of a CPU; in YAML `0.5` or `500m`.
    #[serde(default, with = "crate::quantity::cpu", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Bytes of memory; in YAML `64Mi` or a number.
    #[serde(default, with = "crate::quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// What has to be free on the node for it.
    #[serde(default, skip_serializing_if = "Requests::is_nothing")]
    pub requests: Requests,
}

/// What of a node one instance holds, whether it uses it or not: admitted only where that much is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requests {
    /// Thousandths of a CPU; in YAML `0.5` or `500m`.
    #[serde(default, with = "crate::quantity::cpu", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Bytes of memory; in YAML `64Mi` or a number.
    #[serde(default, with = "crate::quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

impl Requests {
    /// Whether nothing has to be free.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Resources {
    /// Whether nothing is limited and nothing asked for.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens when an instance ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Start it again, whatever the exit code.
    #[default]
    Always,
    /// Start it again after an exit code other than 0.
    OnFailure,
    /// Leave it ended.
    Never,
}

/// A directory inside every instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "text::Volume", into = "text::Volume")]
pub struct Volume {
    /// Absolute path inside the container.
    pub mount_path: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// What is mounted.
    pub source: VolumeSource,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the node; kept when the app is removed.
    HostPath(HostPath),
    /// An empty directory of each instance; survives restarts, gone with the app.
    EmptyDir(EmptyDir),
    /// Keys of a config map or a secret as files, in memory only; the container may only read them.
    Projection(Projection),
}

/// Keys of a config map or a secret as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Which of the two.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Which keys, and where; empty for every key under its own name.
    pub items: Vec<Item>,
    /// Permissions of the files that say none themselves; `None` for [`Projection::DEFAULT_SECRET_MODE`] and
    /// [`Projection::DEFAULT_CONFIG_MODE`].
    pub mode: Option<u32>,
}

/// A key as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Where its file is, relative to the mount path.
    pub path: String,
    /// Permissions; in YAML a text of octal digits such as `"0440"`.
    #[serde(default, with = "crate::quantity::mode", skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl Projection {
    /// Permissions of a secret's files: their owner, whom the container runs as, may read them.
    pub const DEFAULT_SECRET_MODE: u32 = 0o400;
    /// Permissions of a config map's files.
    pub const DEFAULT_CONFIG_MODE: u32 = 0o444;

    /// The permissions of a file, of which `item` says these.
    #[must_use]
    pub fn mode_of(&self, item: Option<u32>) -> u32 {
        item.or(self.mode).unwrap_or(match self.kind {
            Kind::ConfigMap => Self::DEFAULT_CONFIG_MODE,
            Kind::Secret => Self::DEFAULT_SECRET_MODE,
        })
    }
}

/// A path of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostPath {
    /// Absolute, without `..` segments.
    pub path: String,
    /// Whether a missing directory is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create: bool,
}

/// An empty directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmptyDir {
    /// Where it lives.
    #[serde(default)]
    pub medium: Medium,
    /// Bytes that a directory in memory may hold.
    #[serde(default, with = "crate::quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<u64>,
}

/// Where an empty directory lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// The agent's data directory.
    #[default]
    Disk,
    /// A tmpfs.
    Memory,
}

/// How the app is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// The node's own network; `network: host` in YAML.
    Host,
    /// A network namespace of its own, with ports of the node mapped into it.
    Ports(Vec<Port>),
}

impl Default for Network {
    fn default() -> Self {
        Self::Ports(Vec::new())
    }
}

/// When a fresh app counts as healthy, and when to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Startup {
    /// How long every instance must stay up; in YAML `5s`.
    #[serde(default = "default_settle", with = "crate::quantity::duration")]
    pub settle: Duration,
    /// Starts of one instance before its task fails.
    #[serde(default = "default_max_starts")]
    pub max_starts: u32,
}

fn default_settle() -> Duration {
    limits::DEFAULT_SETTLE
}

fn default_max_starts() -> u32 {
    limits::DEFAULT_MAX_STARTS
}

impl Default for Startup {
    fn default() -> Self {
        Self { settle: limits::DEFAULT_SETTLE, max_starts: limits::DEFAULT_MAX_STARTS }
    }
}

impl Image {
    /// The pull policy in force: as said; else `Always` for the tag `latest` or no tag, and `IfNotPresent` otherwise.
    #[must_use]
    pub fn effective_pull_policy(&self) -> PullPolicy {
        if let Some(policy) = self.pull_policy {
            return policy;
        }
        match &self.source {
            ImageSource::Reference(reference) if floats(reference) => PullPolicy::Always,
            _ => PullPolicy::IfNotPresent,
        }
    }
}

/// Whether a reference names the tag `latest`, or no tag and no digest, and so may mean something else tomorrow.
#[must_use]
pub fn floats(reference: &str) -> bool {
    if reference.contains('@') {
        return false;
    }
    let last = reference.rsplit('/').next().unwrap_or(reference);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}
