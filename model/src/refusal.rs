//! What a node does not do, in people's words: what of [`crate::capability`] it does not say, and its own rules.

use crate::capability::{self as word, setting};
use crate::node::NodeInfo;

/// Something that a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The word of [`crate::capability`] that is missing, or that does not say all.
    pub word: &'static str,
    /// What that is and why, for people; without a full stop.
    pub message: String,
}

/// Words that no spec needs, beside [`word::ALL`]: they make a difference all the same.
const BESIDE: [&str; 9] = [
    word::NETWORK_PORTS_FOLLOW,
    word::NETWORK_PORTS_READINESS,
    word::NETWORK_EGRESS,
    word::SECURITY_SECCOMP,
    word::JOBS_UPDATE,
    word::JOBS_PULL,
    word::PLANS_CHECK,
    word::APPS_EXEC,
    word::APPS_PORT_FORWARD,
];

/// All that a node does not do, as it said last, in the order of [`word::ALL`].
#[must_use]
pub fn of(info: &NodeInfo) -> Vec<Refusal> {
    let is_missing = |word: &&str| !info.can(word);
    let missing = word::ALL.into_iter().chain(BESIDE).filter(is_missing);
    let mut found: Vec<Refusal> =
        missing.map(|word| Refusal { word, message: format!("{}: {}", meaning(word), reason(word, info)) }).collect();
    if let Some(allowed) = info.host_paths.as_ref().map(|rules| &rules.allowed).filter(|allowed| !allowed.is_empty()) {
        let message = format!("paths of the node as volumes: its configuration allows {} only", allowed.join(", "));
        found.push(Refusal { word: word::VOLUMES_HOST_PATH, message });
    }
    found
}

fn reason(word: &str, info: &NodeInfo) -> String {
    let unable = || format!("neither its agent {} nor its runtime, {}, offers it", info.agent_version, info.runtime);
    match (word, setting(word)) {
        (word::APPS_EXEC, _) => "its configuration forbids it (--forbid-exec), or its agent is too old".to_owned(),
        (word::APPS_PORT_FORWARD, _) => {
            "its configuration forbids it (--forbid-port-forward), or its agent is too old".to_owned()
        }
        (word::NETWORK_EGRESS, _) => {
            "its configuration forbids it, or nothing on the node can lead them out".to_owned()
        }
        (_, Some(flag)) => format!("its configuration does not allow it ({flag}), or its runtime cannot"),
        (word::RESOURCES_CPU | word::RESOURCES_MEMORY | word::RESOURCES_PIDS, None) => {
            "its kernel has no controller for it, or its container engine does not use it".to_owned()
        }
        (_, None) => unable(),
    }
}

/// What a word stands for.
fn meaning(word: &str) -> &str {
    match word {
        word::NETWORK_HOST => "apps on the node's own network",
        word::NETWORK_PORTS => "mapped ports",
        word::NETWORK_PORTS_FOLLOW => "ports that follow the address of their interface",
        word::NETWORK_PORTS_READINESS => "keeping clients away from instances that are not ready",
        word::NETWORK_PORTS_RANGES => "ranges of mapped ports",
        word::NETWORK_PORTS_SHARED => "a port of the node that several instances share",
        word::NETWORK_EGRESS => "a way out for apps with mapped ports",
        word::RESOURCES_CPU => "limits on CPU",
        word::RESOURCES_MEMORY => "limits on memory",
        word::RESOURCES_PIDS => "limits on processes",
        word::RESOURCES_REQUESTS => "admission by what apps ask for",
        word::ACCELERATORS => "accelerators such as GPUs",
        word::CONTAINER_ULIMITS => "limits of each process",
        word::CONTAINER_SHM_SIZE => "the size of /dev/shm",
        word::CONTAINER_USER => "another user than the image's",
        word::CONTAINER_WORKING_DIR => "another working directory than the image's",
        word::CONTAINER_STOP => "another signal and time to stop",
        word::CONTAINER_READ_ONLY_ROOT => "a root that can only be read",
        word::CONTAINER_DEVICES => "devices of the node",
        word::CONTAINER_DEVICES_PERMISSIONS => "devices that can only be read, or only be written to",
        word::CONTAINER_HOST_ALIASES => "further names in /etc/hosts",
        word::CONTAINER_DNS => "other name servers than the node's",
        word::LOGS => "how much output is kept",
        word::LOGS_DIRECTORY => "files of logs that apps write by themselves",
        word::VOLUMES_HOST_PATH => "paths of the node as volumes",
        word::VOLUMES_EMPTY_DIR => "empty directories",
        word::VOLUMES_EMPTY_DIR_MEMORY => "empty directories in memory",
        word::CONFIG_MAPS => "config maps",
        word::SECRETS_ENV => "secrets as environment",
        word::SECRETS_VOLUMES => "secrets as files",
        word::IMAGE_ARCHIVE => "images from archives on the node",
        word::IMAGE_REGISTRY => "images from registries",
        word::PROBES => "probes of life and readiness",
        word::PROBES_EXEC => "probes by commands",
        word::SPEC_NODE_VALUES => "references to the node's name, address and labels",
        word::SECURITY_CAPABILITIES => "other capabilities of Linux than the ordinary ones",
        word::SECURITY_CAPABILITIES_ADD => "capabilities of Linux beyond the ordinary ones",
        word::SECURITY_PRIVILEGED => "privileged apps",
        word::SECURITY_HOST_PID => "apps among the node's own processes",
        word::SECURITY_SECCOMP => "the filter of system calls",
        word::JOBS_UPDATE => "updates",
        word::JOBS_PULL => "images fetched ahead",
        word::PLANS_CHECK => "looking for itself when a plan asks",
        word::APPS_EXEC => "commands of people inside instances",
        word::APPS_PORT_FORWARD => "connections of people to ports of instances",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_path::NodeRules;

    fn node(missing: &[&str], allowed: &[&str]) -> NodeInfo {
        let words = word::ALL.into_iter().chain(BESIDE).filter(|word| !missing.contains(word));
        let allowed = allowed.iter().map(|&path| path.to_owned()).collect();
        NodeInfo {
            agent_version: "0.1.0".to_owned(),
            architecture: "amd64".to_owned(),
            kernel_release: "6.1".to_owned(),
            cpus: 1,
            memory_bytes: 1,
            interfaces: Vec::new(),
            capabilities: words.map(str::to_owned).collect(),
            runtime: "docker".to_owned(),
            host_ip: None,
            allocatable: None,
            host_paths: Some(NodeRules { guarded: Vec::new(), allowed }),
            accelerators: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_is_told_with_its_reason() {
        assert_eq!(of(&node(&[], &[])), []);
        let missing = [word::APPS_EXEC, word::SECURITY_PRIVILEGED, word::SECRETS_ENV, word::RESOURCES_MEMORY];
        let found = of(&node(&missing, &["/srv", "/data"]));
        let found: Vec<_> = found.iter().map(|refusal| (refusal.word, refusal.message.as_str())).collect();
        let expected = [
            (
                word::RESOURCES_MEMORY,
                "limits on memory: its kernel has no controller for it, or its container engine does not use it",
            ),
            (word::SECRETS_ENV, "secrets as environment: neither its agent 0.1.0 nor its runtime, docker, offers it"),
            (
                word::SECURITY_PRIVILEGED,
                "privileged apps: its configuration does not allow it (--allow-privileged), or its runtime cannot",
            ),
            (
                word::APPS_EXEC,
                "commands of people inside instances: its configuration forbids it (--forbid-exec), or its agent is too old",
            ),
            (word::VOLUMES_HOST_PATH, "paths of the node as volumes: its configuration allows /srv, /data only"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_word_has_a_meaning() {
        for word in word::ALL.into_iter().chain(BESIDE) {
            assert_ne!(meaning(word), word);
        }
    }
}
