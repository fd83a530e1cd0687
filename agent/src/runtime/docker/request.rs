//! What is asked of the engine for a container, and what its labels say afterwards: pure functions.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use longshore_model::app::BoundPort;
use longshore_model::limits;
use longshore_model::linux::CapabilitySet;
use longshore_model::name::AppName;
use longshore_model::spec::{HostAlias, Logs, Network, Protocol, Ulimit};

use crate::devices::DeviceNode;
use crate::runtime::volumes::VolumeMount;
use crate::runtime::{InstanceKey, Launch, Rotation};

/// Label with the uid of the node whose agent made a container; what bears neither ours nor a former one
/// of our directory is never touched.
pub(super) const NODE: &str = "longshore.node";
/// Label with the app.
pub(super) const APP: &str = "longshore.app";
/// Label with the instance's number.
pub(super) const INSTANCE: &str = "longshore.instance";
const REVISION: &str = "longshore.revision";
const RUN: &str = "longshore.run";
const PORTS: &str = "longshore.ports";
const LOGS: &str = "longshore.logs";

/// Label with the paths of the node that come with accelerators.
const ATTACHED: &str = "longshore.attached";

/// Paths of the node that a container has with its accelerators, by its labels.
pub(super) fn attached(labels: &HashMap<String, String>) -> Vec<PathBuf> {
    labels.get(ATTACHED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whoever the program runs as, it may serve port 80 of a network of its own.
const LOW_PORTS: [(&str, &str); 1] = [("net.ipv4.ip_unprivileged_port_start", "0")];
/// Period of a CPU limit in microseconds, the kernel's own default.
const CPU_PERIOD: i64 = 100_000;
/// Smallest CPU quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA: i64 = 1_000;

/// What the labels of a container say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) instance: InstanceKey,
    pub(super) revision: u64,
    pub(super) run: u32,
    pub(super) ports: Vec<BoundPort>,
    /// How much of its output is kept.
    pub(super) logs: Logs,
}

impl Labels {
    /// Reads them; `None` where they are not those of an agent.
    pub(super) fn read(labels: &HashMap<String, String>) -> Option<Self> {
        let get = |name: &str| labels.get(name).map(String::as_str);
        Some(Self {
            instance: InstanceKey { app: AppName::parse(get(APP)?).ok()?, index: get(INSTANCE)?.parse().ok()? },
            revision: get(REVISION)?.parse().ok()?,
            run: get(RUN)?.parse().ok()?,
            ports: serde_json::from_str(get(PORTS)?).ok()?,
            // Older agents did not say.
            logs: get(LOGS).and_then(|logs| serde_json::from_str(logs).ok()).unwrap_or_default(),
        })
    }

    fn write(launch: &Launch, node_uid: &str) -> HashMap<String, String> {
        let ports = serde_json::to_string(&launch.ports).unwrap_or_default();
        let attached: Vec<&PathBuf> = launch.attached.mounts.iter().map(|mount| &mount.source).collect();
        let attached = serde_json::to_string(&attached).unwrap_or_default();
        let labels = [
            (NODE, node_uid.to_owned()),
            (APP, launch.instance.app.to_string()),
            (INSTANCE, launch.instance.index.to_string()),
            (REVISION, launch.revision.to_string()),
            (RUN, launch.run.to_string()),
            (PORTS, ports),
            (LOGS, serde_json::to_string(&launch.spec.logs).unwrap_or_default()),
            (ATTACHED, attached),
        ];
        labels.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// Name of a container, for people who look at the engine.
pub(super) fn name(node_uid: &str, instance: &InstanceKey, run: u32) -> String {
    format!("longshore-{node_uid}-{}-{}-{run}", instance.app, instance.index)
}

/// What else a request is made of.
#[derive(Clone, Debug)]
pub(super) struct Parts<'a> {
    /// The node's uid.
    pub(super) node_uid: &'a str,
    /// Name of the image in the engine.
    pub(super) image: String,
    /// What to execute; at least one word.
    pub(super) argv: Vec<String>,
    /// The volumes.
    pub(super) volumes: Vec<VolumeMount>,
    /// Devices beside the usual ones.
    pub(super) devices: Vec<DeviceNode>,
    /// How much output the engine keeps of it.
    pub(super) rotation: Rotation,
    /// Whether the engine can forbid swap.
    pub(super) limits_swap: bool,
    /// Limits that stay as they are where the spec has others.
    pub(super) own_limits: Vec<Ulimit>,
    /// Whether the container gets its capabilities, or none at all.
    pub(super) capabilities: bool,
}

/// Whether an engine takes an image's user for root: by the words alone, before it knows the image's users.
pub(super) fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "root" | "0"))
}

/// Whom an image's user is by numbers, where it is given so: names are known in the image only. Without a group it is root's.
pub(super) fn numbers(user: &str) -> Option<(u32, u32)> {
    let (user, group) = user.split_once(':').unwrap_or((user, "0"));
    Some((user.parse().ok()?, group.parse().unwrap_or(0)))
}

/// What engines call a network of the container's own.
pub(super) const OWN_NETWORK: &str = "bridge";

/// The request for the container of a launch.
pub(super) fn create(launch: &Launch, parts: Parts<'_>) -> ContainerCreateBody {
    let host_network = launch.spec.network == Network::Host;
    let ports = if host_network { &[][..] } else { launch.ports.as_slice() };
    ContainerCreateBody {
        image: Some(parts.image.clone()),
        // An entry point that is given drops the image's CMD too.
        entrypoint: Some(parts.argv.clone()),
        cmd: Some(Vec::new()),
        env: Some(launch.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        hostname: (!host_network).then(|| format!("{}-{}", launch.instance.app, launch.instance.index)),
        labels: Some(Labels::write(launch, parts.node_uid)),
        exposed_ports: Some(ports.iter().map(container_port).collect()),
        user: launch.spec.user.clone(),
        working_dir: launch.spec.working_dir.clone(),
        stop_signal: launch.spec.stop_signal.clone(),
        // Probes are the spec's; an image's own would only take CPU.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host(launch, parts, host_network, ports)),
        ..ContainerCreateBody::default()
    }
}

fn host(launch: &Launch, parts: Parts<'_>, host_network: bool, ports: &[BoundPort]) -> HostConfig {
    let (resources, privileged) = (launch.spec.resources, launch.spec.privileged);
    let memory = resources.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let log = [("max-size", parts.rotation.max_bytes.to_string()), ("max-file", parts.rotation.max_files.to_string())];
    let mount = |volume: VolumeMount| Mount {
        typ: Some(MountType::BIND),
        source: Some(volume.source.to_string_lossy().into_owned()),
        target: Some(volume.target),
        read_only: Some(volume.read_only),
        ..Mount::default()
    };
    let device = |device: DeviceNode| DeviceMapping {
        path_on_host: Some(device.source.to_string_lossy().into_owned()),
        path_in_container: Some(device.target),
        cgroup_permissions: Some(device.permissions),
    };
    let dns = &launch.spec.dns_config;
    // Engines take a list that is empty for none at all in places.
    let said = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    HostConfig {
        network_mode: Some(if host_network { "host" } else { OWN_NETWORK }.to_owned()),
        port_bindings: Some(bindings(ports)),
        // Restarts are the supervisor's, which counts them and waits between them.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), ..RestartPolicy::default() }),
        privileged: Some(privileged),
        pid_mode: launch.spec.host_pid.then(|| "host".to_owned()),
        cap_drop: (!privileged).then(|| vec!["ALL".to_owned()]),
        // Whatever the engine's own default is: as with the embedded runtime.
        cap_add: (!privileged && parts.capabilities).then(|| names(launch.spec.capabilities.granted())),
        security_opt: (!privileged).then(|| vec!["no-new-privileges".to_owned()]),
        sysctls: (!host_network).then(|| LOW_PORTS.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        readonly_rootfs: Some(launch.spec.read_only_root_filesystem),
        pids_limit: launch.spec.pids_limit.map(i64::from),
        ulimits: Some(ulimits(&launch.spec.ulimits, &parts.own_limits)),
        // Whatever the engine's own default is: as with the embedded runtime.
        shm_size: Some(i64::try_from(launch.spec.shm_size.unwrap_or(limits::DEFAULT_SHM_SIZE)).unwrap_or(i64::MAX)),
        mounts: Some(parts.volumes.into_iter().map(mount).collect()),
        devices: Some(parts.devices.into_iter().map(device).collect()),
        extra_hosts: said(aliases(&launch.spec.host_aliases)),
        dns: said(dns.nameservers.clone()),
        dns_search: said(dns.searches.clone()),
        dns_options: said(dns.options.iter().map(ToString::to_string).collect()),
        memory,
        // The sum of both: no swap at all, so that passing the limit is told at once and not after thrashing.
        memory_swap: memory.filter(|_| parts.limits_swap),
        cpu_period: resources.cpu.map(|_| CPU_PERIOD),
        cpu_quota: resources.cpu.map(|millis| (i64::from(millis) * CPU_PERIOD / 1000).max(MIN_CPU_QUOTA)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log.map(|(name, value)| (name.to_owned(), value)).into()),
        }),
        ..HostConfig::default()
    }
}

/// Names of a spec's own with their addresses, as engines have them.
fn aliases(aliases: &[HostAlias]) -> Vec<String> {
    let of_one =
        |alias: &HostAlias| alias.hostnames.iter().map(|name| format!("{name}:{}", alias.ip)).collect::<Vec<_>>();
    aliases.iter().flat_map(of_one).collect()
}

/// Names of capabilities, as engines have them.
fn names(capabilities: CapabilitySet) -> Vec<String> {
    capabilities.names().map(str::to_owned).collect()
}

/// The spec's limits. Where it has some, Podman sets two others too, as high as the kernel takes them, which not every
/// machine lets it: they stay as they are.
fn ulimits(wanted: &[Ulimit], own: &[Ulimit]) -> Vec<ResourcesUlimits> {
    let is_open = |limit: &&Ulimit| !wanted.is_empty() && wanted.iter().all(|said| said.name != limit.name);
    wanted.iter().chain(own.iter().filter(is_open)).map(ulimit).collect()
}

fn ulimit(limit: &Ulimit) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(limit.name.clone()), soft: Some(limit.soft), hard: Some(limit.hard) }
}

fn container_port(port: &BoundPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol}", port.container_port)
}

fn bindings(ports: &[BoundPort]) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in ports {
        let binding =
            PortBinding { host_ip: Some(port.host_ip.to_string()), host_port: Some(port.host_port.to_string()) };
        bindings.entry(container_port(port)).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use longshore_model::spec::AppSpec;
    use serde_json::{Value, json};

    use super::*;
    use crate::runtime::ResolvedImage;

    fn launch(spec: Value) -> Launch {
        let mut whole = json!({ "name": "a", "image": { "reference": "a:1" } });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: AppSpec = serde_json::from_value(whole).unwrap();
        let port = |host_port, container_port, protocol| BoundPort {
            instance: 2,
            container_port,
            host_port,
            protocol,
            host_ip: Ipv4Addr::LOCALHOST,
            shared: false,
            host_interface: None,
        };
        Launch {
            instance: InstanceKey { app: AppName::parse("a-x1").unwrap(), index: 2 },
            revision: 7,
            run: 3,
            image: ResolvedImage { digest: String::new(), image: spec.image.clone() },
            spec: Arc::new(spec),
            env: vec![("A".to_owned(), "b=c".to_owned())],
            secret_env: vec![],
            configuration: Arc::default(),
            attached: crate::accelerators::Attached::default(),
            ports: vec![port(80, 8080, Protocol::Tcp), port(81, 8080, Protocol::Tcp), port(80, 8080, Protocol::Udp)],
        }
    }

    fn request(launch: &Launch) -> ContainerCreateBody {
        let parts = Parts {
            node_uid: "n1",
            image: "image:1".to_owned(),
            argv: vec!["/app".to_owned()],
            volumes: vec![],
            devices: vec![],
            rotation: Rotation::default(),
            limits_swap: true,
            own_limits: vec![Ulimit { name: "nproc".to_owned(), soft: 9, hard: 9 }],
            capabilities: true,
        };
        create(launch, parts)
    }

    #[test]
    fn labels_are_read_back_and_those_of_others_are_none() {
        let launch = launch(json!({ "logs": { "maxFiles": 2 } }));
        let labels = request(&launch).labels.unwrap();
        assert_eq!(labels[NODE], "n1");
        let (instance, ports) = (launch.instance.clone(), launch.ports.clone());
        let logs = Logs { max_files: Some(2), ..Logs::default() };
        let expected = Labels { instance, revision: 7, run: 3, ports, logs };
        assert_eq!(Labels::read(&labels), Some(expected));
        assert_eq!(Labels::read(&HashMap::new()), None);
        assert_eq!(name("n1", &launch.instance, 3), "longshore-n1-a-x1-2-3");
    }

    #[test]
    fn ports_are_mapped_unless_the_network_is_the_hosts() {
        let mapped = request(&launch(json!({}))).host_config.unwrap();
        let bindings = mapped.port_bindings.unwrap();
        let of = |port: &str| bindings[port].as_ref().unwrap().iter().filter_map(|b| b.host_port.clone()).collect();
        let (tcp, udp): (Vec<String>, Vec<String>) = (of("8080/tcp"), of("8080/udp"));
        assert_eq!((tcp, udp), (vec!["80".to_owned(), "81".to_owned()], vec!["80".to_owned()]));
        let host = request(&launch(json!({ "network": "host" })));
        assert_eq!(host.hostname, None);
        let host = host.host_config.unwrap();
        assert_eq!((host.network_mode.as_deref(), host.port_bindings.unwrap().len()), (Some("host"), 0));
    }

    #[test]
    fn rights_are_the_ordinary_ones_unless_the_spec_asks_for_more() {
        let ordinary = request(&launch(json!({}))).host_config.unwrap();
        assert_eq!((ordinary.privileged, ordinary.pid_mode), (Some(false), None));
        assert_eq!(ordinary.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(ordinary.cap_add.unwrap().len(), 13);
        assert_eq!(ordinary.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        let all = request(&launch(json!({ "privileged": true, "hostPID": true }))).host_config.unwrap();
        assert_eq!((all.privileged, all.pid_mode.as_deref()), (Some(true), Some("host")));
        assert_eq!((all.cap_drop, all.cap_add, all.security_opt), (None, None, None));
    }

    #[test]
    fn options_are_the_specs() {
        let none = request(&launch(json!({})));
        assert_eq!((none.user, none.working_dir, none.stop_signal), (None, None, None));
        let host = none.host_config.unwrap();
        assert_eq!((host.readonly_rootfs, host.pids_limit, host.shm_size), (Some(false), None, Some(64 << 20)));
        assert_eq!(host.ulimits, Some(vec![]));
        let all = request(&launch(json!({
            "user": "5:6", "workingDir": "/srv", "stopSignal": "SIGINT", "readOnlyRootFilesystem": true,
            "capabilities": { "add": ["CAP_NET_ADMIN"], "drop": ["ALL"] }, "pidsLimit": 100, "shmSize": "1Mi",
            "ulimits": [{ "name": "nofile", "soft": 5, "hard": -1 }],
        })));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((all.user, all.working_dir, all.stop_signal), (text("5:6"), text("/srv"), text("SIGINT")));
        let host = all.host_config.unwrap();
        assert_eq!((host.readonly_rootfs, host.pids_limit, host.shm_size), (Some(true), Some(100), Some(1 << 20)));
        assert_eq!((host.cap_drop, host.cap_add), (Some(vec!["ALL".to_owned()]), Some(vec!["NET_ADMIN".to_owned()])));
        let limits = host.ulimits.unwrap().into_iter().map(|limit| (limit.name.unwrap(), limit.soft, limit.hard));
        let expected = [("nofile".to_owned(), Some(5), Some(-1)), ("nproc".to_owned(), Some(9), Some(9))];
        assert_eq!(limits.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn names_and_resolvers_are_the_specs() {
        let none = request(&launch(json!({}))).host_config.unwrap();
        assert_eq!((none.extra_hosts, none.dns, none.dns_search, none.dns_options), (None, None, None, None));
        let all = request(&launch(json!({
            "hostAliases": [{ "ip": "192.0.2.7", "hostnames": ["a", "b"] }, { "ip": "2001:db8::7", "hostnames": ["a"] }],
            "dnsConfig": {
                "nameservers": ["192.0.2.53"], "searches": ["lan"], "options": [{ "name": "ndots", "value": 2 }],
            },
        })));
        let host = all.host_config.unwrap();
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(host.extra_hosts, words(&["a:192.0.2.7", "b:192.0.2.7", "a:2001:db8::7"]));
        assert_eq!((host.dns, host.dns_search), (words(&["192.0.2.53"]), words(&["lan"])));
        assert_eq!(host.dns_options, words(&["ndots:2"]));
    }

    #[test]
    fn root_is_told_from_users_by_the_words() {
        for root in ["", "0", "root", "0:5", "root:users", ":5"] {
            assert!(is_root(root), "{root}");
        }
        for user in ["1", "demo", "demo:0", "00"] {
            assert!(!is_root(user), "{user}");
        }
    }

    #[test]
    fn users_by_number_are_known_without_the_image() {
        for (user, expected) in [("1000", Some((1000, 0))), ("5:6", Some((5, 6))), ("5:users", Some((5, 0)))] {
            assert_eq!(numbers(user), expected, "{user}");
        }
        assert_eq!((numbers("demo"), numbers("")), (None, None));
    }

    #[test]
    fn limits_are_the_specs() {
        let none = request(&launch(json!({}))).host_config.unwrap();
        assert_eq!((none.memory, none.memory_swap, none.cpu_quota), (None, None, None));
        let limited = launch(json!({ "resources": { "cpu": "250m", "memory": "1Mi" } }));
        let host = request(&limited).host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 20), Some(1 << 20)));
        assert_eq!((host.cpu_quota, host.cpu_period), (Some(25_000), Some(100_000)));
    }
}
