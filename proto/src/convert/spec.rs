//! App specs.

use bytes::Bytes;
use longshore_model::configuration::Kind;
use longshore_model::limits;
use longshore_model::spec::{
    AcceleratorQuota, AppSpec, Capabilities, Device, DnsConfig, DnsOption, EmptyDir, EnvFrom, EnvSource, EnvVar,
    HostAlias, HostPath, Image, ImageSource, Item, KeyOf, Logs, Medium, Network, NodeField, Port, PortRange,
    Projection, Protocol, PullPolicy, Requests, Resources, RestartPolicy, Startup, Ulimit, Volume, VolumeSource,
};
use longshore_model::validate::{Path, Violations};
use prost::Message;

use super::{FromWire, list, mirrored, optional, read_with, required};
use crate::v1;

mirrored!(PullPolicy, PullPolicy, none: None, { Always => Always, IfNotPresent => IfNotPresent, Never => Never });
mirrored!(NodeField, NodeField, none: None, { HostIp => HostIp, Name => Name });
mirrored!(RestartPolicy, RestartPolicy, none: Some(Self::Always), {
    Always => Always, OnFailure => OnFailure, Never => Never,
});
mirrored!(Medium, EmptyDirMedium, none: Some(Self::Disk), { Disk => Disk, Memory => Memory });
mirrored!(Protocol, Protocol, none: Some(Self::Tcp), { Tcp => Tcp, Udp => Udp });

/// The encoded form of a spec, made once and shared by all the nodes of a job.
#[must_use]
pub fn encode_spec(spec: &AppSpec) -> Bytes {
    v1::AppSpec::from(spec).encode_to_vec().into()
}

/// Reads what [`encode_spec`] made.
///
/// # Errors
///
/// The bytes are too many or no message, or the message is no spec.
pub fn decode_spec(bytes: &[u8]) -> Result<AppSpec, Violations> {
    read_with(|bad| AppSpec::from_wire(bytes, Path::Root.field("spec"), bad))
}

impl FromWire<&[u8]> for AppSpec {
    fn from_wire(wire: &[u8], path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        if wire.len() > limits::MAX_SPEC {
            bad.add(path, format!("is {} bytes long; at most {} are allowed", wire.len(), limits::MAX_SPEC));
            return None;
        }
        let decoded = v1::AppSpec::decode(wire);
        let message = decoded.map_err(|error| bad.add(path, format!("is not an encoded AppSpec: {error}")));
        Self::from_wire(message.ok()?, path, bad)
    }
}

impl From<&AppSpec> for v1::AppSpec {
    fn from(spec: &AppSpec) -> Self {
        Self {
            name: spec.name.clone(),
            image: Some(v1::Image::from(&spec.image)),
            command: spec.command.clone(),
            args: spec.args.clone(),
            env: spec.env.iter().map(v1::EnvVar::from).collect(),
            env_from: spec.env_from.iter().map(v1::EnvFrom::from).collect(),
            resources: (!spec.resources.is_unlimited()).then(|| spec.resources.into()),
            accelerators: spec.accelerators.iter().map(v1::AcceleratorQuota::from).collect(),
            restart_policy: v1::RestartPolicy::from(spec.restart_policy).into(),
            instances: spec.instances,
            image_only: spec.is_image_only(),
            volumes: spec.volumes.iter().map(v1::Volume::from).collect(),
            network: Some(v1::Network::from(&spec.network)),
            startup: Some(spec.startup.into()),
            privileged: spec.privileged,
            host_pid: spec.host_pid,
            user: spec.user.clone().unwrap_or_default(),
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            stop_signal: spec.stop_signal.clone().unwrap_or_default(),
            termination_grace_period: spec.termination_grace_period.map(super::duration),
            read_only_root_filesystem: spec.read_only_root_filesystem,
            capabilities: (!spec.capabilities.is_ordinary()).then(|| v1::Capabilities::from(&spec.capabilities)),
            pids_limit: spec.pids_limit.unwrap_or(0),
            ulimits: spec.ulimits.iter().map(v1::Ulimit::from).collect(),
            shm_size_bytes: spec.shm_size.unwrap_or(0),
            devices: spec.devices.iter().map(v1::Device::from).collect(),
            host_aliases: spec.host_aliases.iter().map(v1::HostAlias::from).collect(),
            dns_config: (!spec.dns_config.is_nodes()).then(|| v1::DnsConfig::from(&spec.dns_config)),
            logs: (!spec.logs.is_ordinary()).then(|| v1::Logs::from(&spec.logs)),
            liveness_probe: spec.liveness_probe.as_ref().map(v1::Probe::from),
            readiness_probe: spec.readiness_probe.as_ref().map(v1::Probe::from),
        }
    }
}

impl FromWire<v1::AppSpec> for AppSpec {
    fn from_wire(wire: v1::AppSpec, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let image = required(wire.image, path.field("image"), bad);
        let env = list(wire.env, path.field("env"), bad);
        let restart_policy = FromWire::from_wire(wire.restart_policy, path.field("restart_policy"), bad);
        let grace = optional(wire.termination_grace_period, path.field("termination_grace_period"), bad);
        Some(Self {
            name: wire.name,
            image: image.unwrap_or_else(|| Image {
                source: stand_in_source(),
                pull_policy: None,
                credential: None,
                keep_for: None,
            }),
            command: wire.command,
            args: wire.args,
            env: env.unwrap_or_default(),
            env_from: list(wire.env_from, path.field("env_from"), bad).unwrap_or_default(),
            resources: wire.resources.map(Resources::from).unwrap_or_default(),
            accelerators: wire.accelerators.into_iter().map(AcceleratorQuota::from).collect(),
            restart_policy: restart_policy.unwrap_or_default(),
            instances: if wire.image_only { 0 } else { wire.instances.max(1) },
            volumes: list(wire.volumes, path.field("volumes"), bad).unwrap_or_default(),
            network: optional(wire.network, path.field("network"), bad).flatten().unwrap_or_default(),
            startup: optional(wire.startup, path.field("startup"), bad).flatten().unwrap_or_default(),
            privileged: wire.privileged,
            host_pid: wire.host_pid,
            user: said(wire.user),
            working_dir: said(wire.working_dir),
            stop_signal: said(wire.stop_signal),
            termination_grace_period: grace.flatten(),
            read_only_root_filesystem: wire.read_only_root_filesystem,
            capabilities: wire.capabilities.map(Capabilities::from).unwrap_or_default(),
            pids_limit: (wire.pids_limit != 0).then_some(wire.pids_limit),
            ulimits: wire.ulimits.into_iter().map(Ulimit::from).collect(),
            shm_size: (wire.shm_size_bytes != 0).then_some(wire.shm_size_bytes),
            devices: wire.devices.into_iter().map(Device::from).collect(),
            host_aliases: wire.host_aliases.into_iter().map(HostAlias::from).collect(),
            dns_config: wire.dns_config.map(DnsConfig::from).unwrap_or_default(),
            logs: wire.logs.map(Logs::from).unwrap_or_default(),
            liveness_probe: optional(wire.liveness_probe, path.field("liveness_probe"), bad).flatten(),
            readiness_probe: optional(wire.readiness_probe, path.field("readiness_probe"), bad).flatten(),
        })
    }
}

/// A text that may be left out, which is to be empty on the wire.
pub(super) fn said(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<&Capabilities> for v1::Capabilities {
    fn from(capabilities: &Capabilities) -> Self {
        Self { add: capabilities.add.clone(), drop: capabilities.drop.clone() }
    }
}

impl From<v1::Capabilities> for Capabilities {
    fn from(wire: v1::Capabilities) -> Self {
        Self { add: wire.add, drop: wire.drop }
    }
}

impl From<&Logs> for v1::Logs {
    fn from(logs: &Logs) -> Self {
        Self {
            max_size_bytes: logs.max_size.unwrap_or(0),
            max_files: logs.max_files.unwrap_or(0),
            directory: logs.directory.clone().unwrap_or_default(),
        }
    }
}

impl From<v1::Logs> for Logs {
    fn from(wire: v1::Logs) -> Self {
        Self {
            max_size: (wire.max_size_bytes != 0).then_some(wire.max_size_bytes),
            max_files: (wire.max_files != 0).then_some(wire.max_files),
            directory: said(wire.directory),
        }
    }
}

impl From<&Ulimit> for v1::Ulimit {
    fn from(limit: &Ulimit) -> Self {
        Self { name: limit.name.clone(), soft: limit.soft, hard: (limit.hard != limit.soft).then_some(limit.hard) }
    }
}

impl From<v1::Ulimit> for Ulimit {
    fn from(wire: v1::Ulimit) -> Self {
        Self { name: wire.name, soft: wire.soft, hard: wire.hard.unwrap_or(wire.soft) }
    }
}

impl From<&AcceleratorQuota> for v1::AcceleratorQuota {
    fn from(quota: &AcceleratorQuota) -> Self {
        Self { kind: quota.kind.clone(), count: quota.count }
    }
}

impl From<v1::AcceleratorQuota> for AcceleratorQuota {
    fn from(wire: v1::AcceleratorQuota) -> Self {
        Self { kind: wire.kind, count: wire.count.max(1) }
    }
}

impl From<&Device> for v1::Device {
    fn from(device: &Device) -> Self {
        Self {
            host_path: device.host_path.clone(),
            container_path: device.container_path.clone().unwrap_or_default(),
            permissions: device.permissions.clone(),
        }
    }
}

impl From<v1::Device> for Device {
    fn from(wire: v1::Device) -> Self {
        Self {
            host_path: wire.host_path,
            container_path: said(wire.container_path),
            permissions: said(wire.permissions).unwrap_or_else(|| Self::ALL_PERMISSIONS.to_owned()),
        }
    }
}

impl From<&HostAlias> for v1::HostAlias {
    fn from(alias: &HostAlias) -> Self {
        Self { ip: alias.ip.clone(), hostnames: alias.hostnames.clone() }
    }
}

impl From<v1::HostAlias> for HostAlias {
    fn from(wire: v1::HostAlias) -> Self {
        Self { ip: wire.ip, hostnames: wire.hostnames }
    }
}

impl From<&DnsConfig> for v1::DnsConfig {
    fn from(config: &DnsConfig) -> Self {
        let option = |option: &DnsOption| v1::DnsOption {
            name: option.name.clone(),
            value: option.value.clone().unwrap_or_default(),
        };
        Self {
            nameservers: config.nameservers.clone(),
            searches: config.searches.clone(),
            options: config.options.iter().map(option).collect(),
        }
    }
}

impl From<v1::DnsConfig> for DnsConfig {
    fn from(wire: v1::DnsConfig) -> Self {
        let option = |option: v1::DnsOption| DnsOption { name: option.name, value: said(option.value) };
        Self {
            nameservers: wire.nameservers,
            searches: wire.searches,
            options: wire.options.into_iter().map(option).collect(),
        }
    }
}

/// A source with which nothing is wrong, where there is none.
fn stand_in_source() -> ImageSource {
    ImageSource::Reference("missing:0".to_owned())
}

impl From<&Image> for v1::Image {
    fn from(image: &Image) -> Self {
        let source = match &image.source {
            ImageSource::Reference(reference) => v1::image::Source::Reference(reference.clone()),
            ImageSource::Archive(path) => v1::image::Source::Archive(path.clone()),
        };
        let policy = image.pull_policy.map_or(v1::PullPolicy::Unspecified, v1::PullPolicy::from);
        let credential = image.credential.clone().unwrap_or_default();
        let keep_for = image.keep_for.map(super::duration);
        Self { source: Some(source), pull_policy: policy.into(), credential, keep_for }
    }
}

impl FromWire<v1::Image> for Image {
    fn from_wire(wire: v1::Image, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let is_said = wire.pull_policy != v1::PullPolicy::Unspecified as i32;
        let pull_policy = optional(is_said.then_some(wire.pull_policy), path.field("pull_policy"), bad);
        let source = match wire.source {
            Some(v1::image::Source::Reference(reference)) => ImageSource::Reference(reference),
            Some(v1::image::Source::Archive(path)) => ImageSource::Archive(path),
            None => {
                bad.add(path, "needs a `reference` or an `archive`");
                stand_in_source()
            }
        };
        let credential = said(wire.credential);
        let keep_for = optional(wire.keep_for, path.field("keep_for"), bad).flatten();
        Some(Self { source, pull_policy: pull_policy.flatten(), credential, keep_for })
    }
}

impl From<&EnvVar> for v1::EnvVar {
    fn from(env: &EnvVar) -> Self {
        let source = match &env.source {
            EnvSource::Value(value) => v1::env_var::Source::Value(value.clone()),
            EnvSource::NodeField(field) => v1::env_var::Source::NodeField(v1::NodeField::from(*field).into()),
            EnvSource::NodeLabel(key) => v1::env_var::Source::NodeLabel(key.clone()),
            EnvSource::Key(KeyOf { kind: Kind::Secret, name, key }) => {
                v1::env_var::Source::SecretKey(v1::SecretKey { secret: name.clone(), key: key.clone() })
            }
            EnvSource::Key(KeyOf { kind: Kind::ConfigMap, name, key }) => {
                v1::env_var::Source::ConfigKey(v1::ConfigKey { config_map: name.clone(), key: key.clone() })
            }
        };
        Self { name: env.name.clone(), source: Some(source) }
    }
}

impl FromWire<v1::EnvVar> for EnvVar {
    fn from_wire(wire: v1::EnvVar, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let source = match wire.source {
            Some(v1::env_var::Source::Value(value)) => Some(EnvSource::Value(value)),
            Some(v1::env_var::Source::NodeField(field)) => {
                NodeField::from_wire(field, path.field("node_field"), bad).map(EnvSource::NodeField)
            }
            Some(v1::env_var::Source::NodeLabel(key)) => Some(EnvSource::NodeLabel(key)),
            Some(v1::env_var::Source::SecretKey(v1::SecretKey { secret, key })) => {
                Some(EnvSource::Key(KeyOf { kind: Kind::Secret, name: secret, key }))
            }
            Some(v1::env_var::Source::ConfigKey(v1::ConfigKey { config_map, key })) => {
                Some(EnvSource::Key(KeyOf { kind: Kind::ConfigMap, name: config_map, key }))
            }
            None => {
                bad.add(path, "needs a `value`, a `node_field`, a `node_label`, a `secret_key` or a `config_key`");
                None
            }
        };
        Some(Self { name: wire.name, source: source.unwrap_or_else(|| EnvSource::Value(String::new())) })
    }
}

impl From<&EnvFrom> for v1::EnvFrom {
    fn from(from: &EnvFrom) -> Self {
        let source = match from.kind {
            Kind::Secret => v1::env_from::Source::Secret(from.name.clone()),
            Kind::ConfigMap => v1::env_from::Source::ConfigMap(from.name.clone()),
        };
        Self { prefix: from.prefix.clone(), source: Some(source) }
    }
}

impl FromWire<v1::EnvFrom> for EnvFrom {
    fn from_wire(wire: v1::EnvFrom, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let (kind, name) = match wire.source {
            Some(v1::env_from::Source::Secret(name)) => (Kind::Secret, name),
            Some(v1::env_from::Source::ConfigMap(name)) => (Kind::ConfigMap, name),
            None => {
                bad.add(path, "needs a `secret` or a `config_map`");
                return None;
            }
        };
        Some(Self { kind, name, prefix: wire.prefix })
    }
}

impl From<&Projection> for v1::Projection {
    fn from(taken: &Projection) -> Self {
        let item = |item: &Item| v1::ProjectedKey {
            key: item.key.clone(),
            path: item.path.clone(),
            mode: item.mode.unwrap_or(0),
        };
        let items = taken.items.iter().map(item).collect();
        Self { name: taken.name.clone(), items, mode: taken.mode.unwrap_or(0) }
    }
}

fn projection(kind: Kind, wire: v1::Projection) -> VolumeSource {
    let mode = |mode: u32| (mode != 0).then_some(mode);
    let item = |item: v1::ProjectedKey| Item { key: item.key, path: item.path, mode: mode(item.mode) };
    let items = wire.items.into_iter().map(item).collect();
    VolumeSource::Projection(Projection { kind, name: wire.name, items, mode: mode(wire.mode) })
}

impl From<Resources> for v1::Resources {
    fn from(resources: Resources) -> Self {
        let requests = resources.requests;
        Self {
            cpu_millis: resources.cpu.unwrap_or(0),
            memory_bytes: resources.memory.unwrap_or(0),
            requests: (!requests.is_nothing()).then(|| requests.into()),
        }
    }
}

impl From<Requests> for v1::Requests {
    fn from(requests: Requests) -> Self {
        Self { cpu_millis: requests.cpu.unwrap_or(0), memory_bytes: requests.memory.unwrap_or(0) }
    }
}

impl From<v1::Requests> for Requests {
    fn from(wire: v1::Requests) -> Self {
        Self {
            cpu: (wire.cpu_millis != 0).then_some(wire.cpu_millis),
            memory: (wire.memory_bytes != 0).then_some(wire.memory_bytes),
        }
    }
}

impl From<v1::Resources> for Resources {
    fn from(wire: v1::Resources) -> Self {
        Self {
            cpu: (wire.cpu_millis != 0).then_some(wire.cpu_millis),
            memory: (wire.memory_bytes != 0).then_some(wire.memory_bytes),
            requests: wire.requests.map(Requests::from).unwrap_or_default(),
        }
    }
}

impl From<&Volume> for v1::Volume {
    fn from(volume: &Volume) -> Self {
        let source = match &volume.source {
            VolumeSource::HostPath(HostPath { path, create }) => {
                v1::volume::Source::HostPath(v1::HostPath { path: path.clone(), create: *create })
            }
            VolumeSource::EmptyDir(EmptyDir { medium, size_limit }) => v1::volume::Source::EmptyDir(v1::EmptyDir {
                medium: v1::EmptyDirMedium::from(*medium).into(),
                size_limit_bytes: size_limit.unwrap_or(0),
            }),
            VolumeSource::Projection(taken) => match taken.kind {
                Kind::ConfigMap => v1::volume::Source::ConfigMap(taken.into()),
                Kind::Secret => v1::volume::Source::Secret(taken.into()),
            },
        };
        Self { mount_path: volume.mount_path.clone(), read_only: volume.read_only, source: Some(source) }
    }
}

impl FromWire<v1::Volume> for Volume {
    fn from_wire(wire: v1::Volume, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let source = match wire.source {
            Some(v1::volume::Source::HostPath(v1::HostPath { path, create })) => {
                VolumeSource::HostPath(HostPath { path, create })
            }
            Some(v1::volume::Source::EmptyDir(v1::EmptyDir { medium, size_limit_bytes })) => {
                let path = path.field("empty_dir");
                let size_limit = (size_limit_bytes != 0).then_some(size_limit_bytes);
                // Stands in the way of nothing: a limit is for memory.
                let stand_in = if size_limit.is_some() { Medium::Memory } else { Medium::Disk };
                let medium = Medium::from_wire(medium, path.field("medium"), bad).unwrap_or(stand_in);
                VolumeSource::EmptyDir(EmptyDir { medium, size_limit })
            }
            Some(v1::volume::Source::ConfigMap(taken)) => projection(Kind::ConfigMap, taken),
            Some(v1::volume::Source::Secret(taken)) => projection(Kind::Secret, taken),
            None => {
                bad.add(path, "needs a `host_path`, an `empty_dir`, a `config_map` or a `secret`");
                VolumeSource::EmptyDir(EmptyDir::default())
            }
        };
        Some(Self { mount_path: wire.mount_path, read_only: wire.read_only, source })
    }
}

impl From<&Network> for v1::Network {
    fn from(network: &Network) -> Self {
        let mode = match network {
            Network::Host => v1::network::Mode::Host(v1::HostNetwork {}),
            Network::Ports(ports) => {
                v1::network::Mode::PortMapping(v1::PortMapping { ports: ports.iter().map(v1::Port::from).collect() })
            }
        };
        Self { mode: Some(mode) }
    }
}

impl FromWire<v1::Network> for Network {
    fn from_wire(wire: v1::Network, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        match wire.mode {
            Some(v1::network::Mode::Host(v1::HostNetwork {})) => Some(Self::Host),
            Some(v1::network::Mode::PortMapping(mapping)) => {
                list(mapping.ports, path.field("port_mapping").field("ports"), bad).map(Self::Ports)
            }
            None => Some(Self::default()),
        }
    }
}

impl From<&Port> for v1::Port {
    fn from(port: &Port) -> Self {
        Self {
            container_port: port.container_port.first.into(),
            host_port: port.host_port.map_or(0, |range| range.first.into()),
            protocol: v1::Protocol::from(port.protocol).into(),
            host_interface: port.host_interface.clone().unwrap_or_default(),
            container_port_end: range_end(port.container_port),
            host_port_end: port.host_port.map_or(0, range_end),
        }
    }
}

impl FromWire<v1::Port> for Port {
    fn from_wire(wire: v1::Port, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let container_port = port_number(wire.container_port, path.field("container_port"), bad);
        let host_port = port_number(wire.host_port, path.field("host_port"), bad).filter(|port| *port != 0);
        let container_end = port_number(wire.container_port_end, path.field("container_port_end"), bad);
        let host_end = port_number(wire.host_port_end, path.field("host_port_end"), bad).filter(|port| *port != 0);
        if host_port.is_none() && host_end.is_some() {
            bad.add(path.field("host_port_end"), "ends a range without host_port, which would begin it");
        }
        let protocol = FromWire::from_wire(wire.protocol, path.field("protocol"), bad);
        Some(Self {
            // Different for different mistakes, so that they are not taken for the same port.
            container_port: range(
                container_port.unwrap_or_else(|| (wire.container_port % u32::from(u16::MAX)) as u16 + 1),
                container_end.filter(|_| container_port.is_some()),
            ),
            host_port: host_port.map(|first| range(first, host_end)),
            protocol: protocol.unwrap_or_default(),
            host_interface: said(wire.host_interface),
        })
    }
}

/// What ends a range on the wire: nothing, where it is one port.
fn range_end(range: PortRange) -> u32 {
    if range.first == range.last { 0 } else { range.last.into() }
}

fn range(first: u16, end: Option<u16>) -> PortRange {
    PortRange { first, last: end.filter(|end| *end != 0).unwrap_or(first) }
}

/// Reads a port; what 0 means is the caller's business.
pub(super) fn port_number(wire: u32, path: Path<'_>, bad: &mut Violations) -> Option<u16> {
    u16::try_from(wire).map_err(|_| bad.add(path, format!("is {wire}; ports end at 65535"))).ok()
}

impl From<Startup> for v1::Startup {
    fn from(startup: Startup) -> Self {
        Self { settle: Some(super::duration(startup.settle)), max_starts: startup.max_starts }
    }
}

impl FromWire<v1::Startup> for Startup {
    fn from_wire(wire: v1::Startup, path: Path<'_>, bad: &mut Violations) -> Option<Self> {
        let settle = optional(wire.settle, path.field("settle"), bad);
        Some(Self {
            settle: settle.flatten().unwrap_or(limits::DEFAULT_SETTLE),
            max_starts: if wire.max_starts == 0 { limits::DEFAULT_MAX_STARTS } else { wire.max_starts },
        })
    }
}
