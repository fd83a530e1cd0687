//! What a node may be able to do, and what of it a spec needs.
//!
//! The words are in `docs/protocol.md`. A node says them in its hello, and refuses what needs a word that it cannot say;
//! [`LATER`] are those that the server does not even send without.

use crate::configuration::{self, Kind};
use crate::node_value;
use crate::probe::Action;
use crate::spec::{AppSpec, Device, ImageSource, Medium, Network, Port, VolumeSource};

/// Apps on the node's own network.
pub const NETWORK_HOST: &str = "network.host";
/// Apps in a network of their own, with ports of the node mapped into it.
pub const NETWORK_PORTS: &str = "network.ports";
/// Ports of an interface follow its address while their app runs. No spec asks for it: without it they are bound anew with the
/// next container.
pub const NETWORK_PORTS_FOLLOW: &str = "network.ports.follow";
/// Instances that are not ready get no new clients by mapped ports. No spec asks for it: without it they are marked only.
pub const NETWORK_PORTS_READINESS: &str = "network.ports.readiness";
/// Several instances share the traffic of a fixed port of the node.
pub const NETWORK_PORTS_SHARED: &str = "network.ports.shared";
/// Ranges of mapped ports.
pub const NETWORK_PORTS_RANGES: &str = "network.ports.ranges";
/// Apps with mapped ports reach what the node reaches. No spec asks for it; it is told to whoever looks at the node.
pub const NETWORK_EGRESS: &str = "network.egress";
/// A limit on CPU is enforced.
pub const RESOURCES_CPU: &str = "resources.cpu";
/// A limit on memory is enforced.
pub const RESOURCES_MEMORY: &str = "resources.memory";
/// What an app asks for has to be free.
pub const RESOURCES_REQUESTS: &str = "resources.requests";
/// A limit on processes is enforced.
pub const RESOURCES_PIDS: &str = "resources.pids";
/// Limits of each process.
pub const CONTAINER_ULIMITS: &str = "container.ulimits";
/// The size of /dev/shm.
pub const CONTAINER_SHM_SIZE: &str = "container.shm-size";
/// Another user than the image's.
pub const CONTAINER_USER: &str = "container.user";
/// Another working directory than the image's.
pub const CONTAINER_WORKING_DIR: &str = "container.working-dir";
/// Another signal to stop by than the image's, and another time to wait after it than the agent's own.
pub const CONTAINER_STOP: &str = "container.stop";
/// A root that can only be read.
pub const CONTAINER_READ_ONLY_ROOT: &str = "container.read-only-root";
/// Accelerators of the node, each one instance's at a time; whether it has some is another matter.
pub const ACCELERATORS: &str = "accelerators";
/// Devices of the node; the node's setting says which.
pub const CONTAINER_DEVICES: &str = "container.devices";
/// Devices that may be read only, or written to only.
pub const CONTAINER_DEVICES_PERMISSIONS: &str = "container.devices.permissions";
/// Further names in /etc/hosts.
pub const CONTAINER_HOST_ALIASES: &str = "container.host-aliases";
/// Other name servers, domains and options of the resolver than the node's.
pub const CONTAINER_DNS: &str = "container.dns";
/// How much output is kept as the spec says, and what is read of it can be of a time or of the run before.
pub const LOGS: &str = "logs";
/// A directory of the node for files of logs that an app writes by itself.
pub const LOGS_DIRECTORY: &str = "logs.directory";
/// Paths of the node as volumes.
pub const VOLUMES_HOST_PATH: &str = "volumes.host-path";
/// Empty directories on disk as volumes.
pub const VOLUMES_EMPTY_DIR: &str = "volumes.empty-dir";
/// Empty directories in memory as volumes.
pub const VOLUMES_EMPTY_DIR_MEMORY: &str = "volumes.empty-dir.memory";
/// Config maps as environment and as volumes.
pub const CONFIG_MAPS: &str = "config-maps";
/// Secrets as environment.
pub const SECRETS_ENV: &str = "secrets.env";
/// Secrets as volumes.
pub const SECRETS_VOLUMES: &str = "secrets.volumes";
/// Images from archives on the node.
pub const IMAGE_ARCHIVE: &str = "image.archive";
/// Images from registries.
pub const IMAGE_REGISTRY: &str = "image.registry";
/// Instances are probed for life and readiness.
pub const PROBES: &str = "probes";
/// Probes by a command inside the instance.
pub const PROBES_EXEC: &str = "probes.exec";
/// Containers run under a filter of system calls, unless they are privileged. No spec asks for it.
pub const SECURITY_SECCOMP: &str = "security.seccomp";
/// Other capabilities of Linux than the ordinary ones: fewer, or more where [`SECURITY_CAPABILITIES_ADD`] is there too.
pub const SECURITY_CAPABILITIES: &str = "security.capabilities";
/// Capabilities of Linux beyond the ordinary ones; the node's setting says which.
pub const SECURITY_CAPABILITIES_ADD: &str = "security.capabilities.add";
/// Privileged apps.
pub const SECURITY_PRIVILEGED: &str = "security.privileged";
/// Apps among the node's own processes.
pub const SECURITY_HOST_PID: &str = "security.host-pid";
/// Updates, with the way back to the last healthy revision. No spec asks for it; [`crate::kind::JobKind::capability`] does.
pub const JOBS_UPDATE: &str = "jobs.update";
/// Commands of people inside instances, which the node's configuration may forbid. No spec asks for it.
pub const APPS_EXEC: &str = "apps.exec";
/// Connections of people to ports of instances, which the node's configuration may forbid. No spec asks for it.
pub const APPS_PORT_FORWARD: &str = "apps.port-forward";
/// Specs are checked for plans, without anything being changed. No spec asks for it.
pub const PLANS_CHECK: &str = "plans.check";
/// Pulls of an image alone. No spec asks for it; [`crate::kind::JobKind::capability`] does.
pub const JOBS_PULL: &str = "jobs.pull";
/// References to the node's name, address and labels are filled in.
pub const SPEC_NODE_VALUES: &str = "spec.node-values";

/// Everything that a spec can need.
pub const ALL: [&str; 36] = [
    NETWORK_HOST,
    NETWORK_PORTS,
    NETWORK_PORTS_RANGES,
    NETWORK_PORTS_SHARED,
    RESOURCES_CPU,
    RESOURCES_MEMORY,
    RESOURCES_REQUESTS,
    RESOURCES_PIDS,
    ACCELERATORS,
    CONTAINER_ULIMITS,
    CONTAINER_SHM_SIZE,
    CONTAINER_USER,
    CONTAINER_WORKING_DIR,
    CONTAINER_STOP,
    CONTAINER_READ_ONLY_ROOT,
    CONTAINER_DEVICES,
    CONTAINER_DEVICES_PERMISSIONS,
    CONTAINER_HOST_ALIASES,
    CONTAINER_DNS,
    LOGS,
    LOGS_DIRECTORY,
    VOLUMES_HOST_PATH,
    VOLUMES_EMPTY_DIR,
    VOLUMES_EMPTY_DIR_MEMORY,
    CONFIG_MAPS,
    SECRETS_ENV,
    SECRETS_VOLUMES,
    IMAGE_ARCHIVE,
    IMAGE_REGISTRY,
    PROBES,
    PROBES_EXEC,
    SPEC_NODE_VALUES,
    SECURITY_CAPABILITIES,
    SECURITY_CAPABILITIES_ADD,
    SECURITY_PRIVILEGED,
    SECURITY_HOST_PID,
];

/// Those of [`ALL`] that are younger than the first agents: one that does not know a field of a spec would run the app
/// without it, and call that a success.
pub const LATER: [&str; 27] = [
    NETWORK_PORTS_RANGES,
    NETWORK_PORTS_SHARED,
    RESOURCES_REQUESTS,
    RESOURCES_PIDS,
    ACCELERATORS,
    CONFIG_MAPS,
    SECRETS_ENV,
    SECRETS_VOLUMES,
    CONTAINER_ULIMITS,
    CONTAINER_SHM_SIZE,
    CONTAINER_USER,
    CONTAINER_WORKING_DIR,
    CONTAINER_STOP,
    CONTAINER_READ_ONLY_ROOT,
    CONTAINER_DEVICES,
    CONTAINER_DEVICES_PERMISSIONS,
    CONTAINER_HOST_ALIASES,
    CONTAINER_DNS,
    LOGS,
    LOGS_DIRECTORY,
    PROBES,
    PROBES_EXEC,
    SPEC_NODE_VALUES,
    SECURITY_CAPABILITIES,
    SECURITY_CAPABILITIES_ADD,
    SECURITY_PRIVILEGED,
    SECURITY_HOST_PID,
];

/// The agent's setting that a word depends on, beside what the machine can.
#[must_use]
pub fn setting(word: &str) -> Option<&'static str> {
    match word {
        CONTAINER_DEVICES => Some("--device-allow"),
        SECURITY_CAPABILITIES_ADD => Some("--capability-allow"),
        SECURITY_PRIVILEGED => Some("--allow-privileged"),
        SECURITY_HOST_PID => Some("--allow-host-pid"),
        _ => None,
    }
}

/// A spec needs what this node cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("This node does not offer {}{}.", missing.join(", "), settings(missing))]
pub struct Unsupported {
    /// What is missing, in the order of [`ALL`].
    pub missing: Vec<&'static str>,
}

fn settings(missing: &[&str]) -> String {
    let flags: Vec<_> = missing.iter().filter_map(|word| setting(word)).collect();
    if flags.is_empty() { String::new() } else { format!("; its agent has to be run with {}", flags.join(" and ")) }
}

/// Checks that all that `spec` needs is `offered`.
///
/// # Errors
///
/// Names everything that is missing, so that one look at the node is enough.
pub fn check(spec: &AppSpec, offered: &[String]) -> Result<(), Unsupported> {
    check_of(&ALL, spec, offered)
}

/// As [`check`], of the words of [`LATER`] only: for whoever sends the spec to a node.
///
/// # Errors
///
/// Names everything of that kind that is missing.
pub fn check_later(spec: &AppSpec, offered: &[String]) -> Result<(), Unsupported> {
    check_of(&LATER, spec, offered)
}

/// Whether a node that is to run `spec` has to say one of [`LATER`].
#[must_use]
pub fn needs_later(spec: &AppSpec) -> bool {
    check_later(spec, &[]).is_err()
}

fn check_of(words: &[&'static str], spec: &AppSpec, offered: &[String]) -> Result<(), Unsupported> {
    let is_missing = |word: &&str| is_needed(spec, word) && !offered.iter().any(|offer| offer == word);
    let missing: Vec<_> = words.iter().copied().filter(is_missing).collect();
    if missing.is_empty() { Ok(()) } else { Err(Unsupported { missing }) }
}

fn ports(spec: &AppSpec) -> &[Port] {
    match &spec.network {
        Network::Host => &[],
        Network::Ports(ports) => ports,
    }
}

fn is_needed(spec: &AppSpec, word: &str) -> bool {
    let has_volume = |is_such: fn(&VolumeSource) -> bool| spec.volumes.iter().any(|volume| is_such(&volume.source));
    match word {
        NETWORK_HOST => spec.network == Network::Host,
        NETWORK_PORTS => spec.network != Network::Host,
        NETWORK_PORTS_RANGES => ports(spec).iter().any(|port| port.container_port.count() != 1),
        NETWORK_PORTS_SHARED => spec.instances > 1 && ports(spec).iter().any(|port| port.host_port.is_some()),
        RESOURCES_CPU => spec.resources.cpu.is_some(),
        RESOURCES_MEMORY => spec.resources.memory.is_some(),
        RESOURCES_REQUESTS => !spec.resources.requests.is_nothing(),
        RESOURCES_PIDS => spec.pids_limit.is_some(),
        CONTAINER_ULIMITS => !spec.ulimits.is_empty(),
        CONTAINER_SHM_SIZE => spec.shm_size.is_some(),
        CONTAINER_USER => spec.user.is_some(),
        CONTAINER_WORKING_DIR => spec.working_dir.is_some(),
        CONTAINER_STOP => spec.stop_signal.is_some() || spec.termination_grace_period.is_some(),
        CONTAINER_READ_ONLY_ROOT => spec.read_only_root_filesystem,
        ACCELERATORS => !spec.accelerators.is_empty(),
        CONTAINER_DEVICES => !spec.devices.is_empty(),
        CONTAINER_DEVICES_PERMISSIONS => !spec.devices.iter().all(Device::is_for_use),
        CONTAINER_HOST_ALIASES => !spec.host_aliases.is_empty(),
        CONTAINER_DNS => !spec.dns_config.is_nodes(),
        LOGS => !spec.logs.is_ordinary(),
        LOGS_DIRECTORY => spec.logs.directory.is_some(),
        SECURITY_CAPABILITIES => !spec.capabilities.is_ordinary(),
        SECURITY_CAPABILITIES_ADD => !spec.capabilities.extraordinary().is_empty(),
        VOLUMES_HOST_PATH => has_volume(|source| matches!(source, VolumeSource::HostPath(_))),
        VOLUMES_EMPTY_DIR => has_volume(|source| matches!(source, VolumeSource::EmptyDir(_))),
        VOLUMES_EMPTY_DIR_MEMORY => {
            has_volume(|source| matches!(source, VolumeSource::EmptyDir(empty) if empty.medium == Medium::Memory))
        }
        CONFIG_MAPS => configuration::needs(spec).keys().any(|(kind, _)| *kind == Kind::ConfigMap),
        SECRETS_ENV => configuration::secret_uses(spec).0,
        SECRETS_VOLUMES => configuration::secret_uses(spec).1,
        IMAGE_ARCHIVE => matches!(spec.image.source, ImageSource::Archive(_)),
        IMAGE_REGISTRY => matches!(spec.image.source, ImageSource::Reference(_)),
        PROBES => spec.liveness_probe.is_some() || spec.readiness_probe.is_some(),
        PROBES_EXEC => {
            let probes = [&spec.liveness_probe, &spec.readiness_probe];
            probes.into_iter().flatten().any(|probe| matches!(probe.action, Action::Exec(_)))
        }
        SPEC_NODE_VALUES => node_value::is_needed(spec),
        SECURITY_PRIVILEGED => spec.privileged,
        SECURITY_HOST_PID => spec.host_pid,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(parts: Value) -> AppSpec {
        let mut whole = json!({ "name": "a", "image": { "reference": "a:1" } });
        whole.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    /// Holds that a spec with these parts needs these words and no others.
    fn needs(parts: Value, needed: Vec<&'static str>) {
        let spec = spec(parts);
        let offered: Vec<String> = needed.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(check(&spec, &offered), Ok(()));
        assert_eq!(check(&spec, &[]), Err(Unsupported { missing: needed }));
    }

    #[test]
    fn a_spec_needs_what_its_containers_find_around_them() {
        let table = [
            (
                json!({ "accelerators": [{ "kind": "nvidia.com/gpu" }] }),
                vec![NETWORK_PORTS, ACCELERATORS, IMAGE_REGISTRY],
            ),
            (
                json!({ "devices": [{ "hostPath": "/dev/fuse" }] }),
                vec![NETWORK_PORTS, CONTAINER_DEVICES, IMAGE_REGISTRY],
            ),
            (
                json!({ "devices": [{ "hostPath": "/dev/fuse", "permissions": "r" }] }),
                vec![NETWORK_PORTS, CONTAINER_DEVICES, CONTAINER_DEVICES_PERMISSIONS, IMAGE_REGISTRY],
            ),
            (
                json!({ "hostAliases": [{ "ip": "192.0.2.7", "hostnames": ["db"] }] }),
                vec![NETWORK_PORTS, CONTAINER_HOST_ALIASES, IMAGE_REGISTRY],
            ),
            (
                json!({ "dnsConfig": { "searches": ["example.com"] } }),
                vec![NETWORK_PORTS, CONTAINER_DNS, IMAGE_REGISTRY],
            ),
        ];
        table.into_iter().for_each(|(parts, needed)| needs(parts, needed));
    }

    #[test]
    fn a_spec_needs_what_it_uses_and_nothing_else() {
        let table = [
            (json!({}), vec![NETWORK_PORTS, IMAGE_REGISTRY]),
            (json!({ "network": "host" }), vec![NETWORK_HOST, IMAGE_REGISTRY]),
            (
                json!({ "instances": 2, "network": { "ports": [{ "containerPort": 1, "hostPort": 1 }] } }),
                vec![NETWORK_PORTS, NETWORK_PORTS_SHARED, IMAGE_REGISTRY],
            ),
            (
                json!({ "network": { "ports": [{ "containerPort": "1-2", "hostPort": "3-4" }] } }),
                vec![NETWORK_PORTS, NETWORK_PORTS_RANGES, IMAGE_REGISTRY],
            ),
            (
                json!({ "instances": 2, "network": { "ports": [{ "containerPort": 1 }] } }),
                vec![NETWORK_PORTS, IMAGE_REGISTRY],
            ),
            (json!({ "image": { "archive": "/a.tar" } }), vec![NETWORK_PORTS, IMAGE_ARCHIVE]),
            (json!({ "resources": { "cpu": 1 } }), vec![NETWORK_PORTS, RESOURCES_CPU, IMAGE_REGISTRY]),
            (json!({ "resources": { "memory": "1Mi" } }), vec![NETWORK_PORTS, RESOURCES_MEMORY, IMAGE_REGISTRY]),
            (
                json!({ "volumes": [{ "mountPath": "/v", "hostPath": { "path": "/srv/v" } }] }),
                vec![NETWORK_PORTS, VOLUMES_HOST_PATH, IMAGE_REGISTRY],
            ),
            (
                json!({ "volumes": [{ "mountPath": "/v", "emptyDir": {} }] }),
                vec![NETWORK_PORTS, VOLUMES_EMPTY_DIR, IMAGE_REGISTRY],
            ),
            (
                json!({ "volumes": [{ "mountPath": "/v", "emptyDir": { "medium": "Memory" } }] }),
                vec![NETWORK_PORTS, VOLUMES_EMPTY_DIR, VOLUMES_EMPTY_DIR_MEMORY, IMAGE_REGISTRY],
            ),
            (json!({ "livenessProbe": { "tcpSocket": { "port": 1 } } }), vec![NETWORK_PORTS, IMAGE_REGISTRY, PROBES]),
            (json!({ "readinessProbe": { "httpGet": { "port": 1 } } }), vec![NETWORK_PORTS, IMAGE_REGISTRY, PROBES]),
            (json!({ "args": ["${node.name}"] }), vec![NETWORK_PORTS, IMAGE_REGISTRY, SPEC_NODE_VALUES]),
            (
                json!({ "resources": { "requests": { "cpu": 1 } } }),
                vec![NETWORK_PORTS, RESOURCES_REQUESTS, IMAGE_REGISTRY],
            ),
            (json!({ "pidsLimit": 100 }), vec![NETWORK_PORTS, RESOURCES_PIDS, IMAGE_REGISTRY]),
            (
                json!({ "ulimits": [{ "name": "core", "soft": 0 }] }),
                vec![NETWORK_PORTS, CONTAINER_ULIMITS, IMAGE_REGISTRY],
            ),
            (json!({ "shmSize": "1Mi" }), vec![NETWORK_PORTS, CONTAINER_SHM_SIZE, IMAGE_REGISTRY]),
            (json!({ "user": "web" }), vec![NETWORK_PORTS, CONTAINER_USER, IMAGE_REGISTRY]),
            (json!({ "workingDir": "/srv" }), vec![NETWORK_PORTS, CONTAINER_WORKING_DIR, IMAGE_REGISTRY]),
            (json!({ "stopSignal": "SIGINT" }), vec![NETWORK_PORTS, CONTAINER_STOP, IMAGE_REGISTRY]),
            (json!({ "terminationGracePeriod": "1m" }), vec![NETWORK_PORTS, CONTAINER_STOP, IMAGE_REGISTRY]),
            (json!({ "readOnlyRootFilesystem": true }), vec![NETWORK_PORTS, CONTAINER_READ_ONLY_ROOT, IMAGE_REGISTRY]),
            (
                json!({ "capabilities": { "add": ["KILL"], "drop": ["ALL"] } }),
                vec![NETWORK_PORTS, IMAGE_REGISTRY, SECURITY_CAPABILITIES],
            ),
            (
                json!({ "capabilities": { "add": ["NET_ADMIN"] } }),
                vec![NETWORK_PORTS, IMAGE_REGISTRY, SECURITY_CAPABILITIES, SECURITY_CAPABILITIES_ADD],
            ),
            (json!({ "envFrom": [{ "configMap": "a" }] }), vec![NETWORK_PORTS, CONFIG_MAPS, IMAGE_REGISTRY]),
            (
                json!({ "env": [{ "name": "A", "secretKey": { "secret": "a", "key": "k" } }] }),
                vec![NETWORK_PORTS, SECRETS_ENV, IMAGE_REGISTRY],
            ),
            (
                json!({ "volumes": [{ "mountPath": "/v", "secret": { "name": "a" } }] }),
                vec![NETWORK_PORTS, SECRETS_VOLUMES, IMAGE_REGISTRY],
            ),
            (json!({ "privileged": true }), vec![NETWORK_PORTS, IMAGE_REGISTRY, SECURITY_PRIVILEGED]),
            (json!({ "hostPID": true }), vec![NETWORK_PORTS, IMAGE_REGISTRY, SECURITY_HOST_PID]),
        ];
        table.into_iter().for_each(|(parts, needed)| needs(parts, needed));
        let sentence = check(&spec(json!({})), &[]).unwrap_err().to_string();
        assert_eq!(sentence, "This node does not offer network.ports, image.registry.");
    }

    #[test]
    fn what_a_spec_says_of_its_logs_is_needed_too() {
        let needed = |logs: Value| check(&spec(json!({ "logs": logs })), &[]).unwrap_err().missing;
        assert_eq!(needed(json!({ "maxFiles": 2 })), [NETWORK_PORTS, LOGS, IMAGE_REGISTRY]);
        assert_eq!(needed(json!({ "directory": "/l" })), [NETWORK_PORTS, LOGS, LOGS_DIRECTORY, IMAGE_REGISTRY]);
    }

    #[test]
    fn a_probe_by_command_needs_both_words() {
        let probed = spec(json!({ "readinessProbe": { "exec": { "command": ["/check"] } } }));
        assert_eq!(check_later(&probed, &[]), Err(Unsupported { missing: vec![PROBES, PROBES_EXEC] }));
    }

    #[test]
    fn what_is_younger_than_agents_is_asked_for_before_sending_and_the_setting_is_named() {
        let both = spec(json!({ "privileged": true, "hostPID": true }));
        assert!(needs_later(&both) && !needs_later(&spec(json!({ "network": "host" }))));
        assert_eq!(check_later(&spec(json!({})), &[]), Ok(()), "what every agent knows it checks itself");
        let offered = [SECURITY_PRIVILEGED.to_owned()];
        assert_eq!(check_later(&both, &offered), Err(Unsupported { missing: vec![SECURITY_HOST_PID] }));
        let sentence = check_later(&both, &[]).unwrap_err().to_string();
        let expected = "This node does not offer security.privileged, security.host-pid; its agent has to be run with \
                        --allow-privileged and --allow-host-pid.";
        assert_eq!(sentence, expected);
    }
}
