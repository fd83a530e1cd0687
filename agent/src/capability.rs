//! What a runtime may be able to do, and what of it a spec needs.
//!
//! The words are in `docs/protocol.md`; a node says them in its hello, and refuses what needs a word that it cannot say.

use longshore_model::kind::JobKind;
use longshore_model::spec::{AppSpec, ImageSource, Medium, Network, VolumeSource};

use crate::runtime::Runtime;

/// Apps on the node's own network.
pub const NETWORK_HOST: &str = "network.host";
/// Apps in a network of their own, with ports of the node mapped into it.
pub const NETWORK_PORTS: &str = "network.ports";
/// Apps with mapped ports reach what the node reaches. No spec asks for it; it is told to whoever looks at the node.
pub const NETWORK_EGRESS: &str = "network.egress";
/// A limit on CPU is enforced.
pub const RESOURCES_CPU: &str = "resources.cpu";
/// A limit on memory is enforced.
pub const RESOURCES_MEMORY: &str = "resources.memory";
/// Paths of the node as volumes.
pub const VOLUMES_HOST_PATH: &str = "volumes.host-path";
/// Empty directories on disk as volumes.
pub const VOLUMES_EMPTY_DIR: &str = "volumes.empty-dir";
/// Empty directories in memory as volumes.
pub const VOLUMES_EMPTY_DIR_MEMORY: &str = "volumes.empty-dir.memory";
/// Images from archives on the node.
pub const IMAGE_ARCHIVE: &str = "image.archive";
/// Images from registries.
pub const IMAGE_REGISTRY: &str = "image.registry";

/// Containers run under a filter of system calls, unless they are privileged. No spec asks for it either.
pub const SECURITY_SECCOMP: &str = "security.seccomp";

/// Everything that a spec can need.
pub const ALL: [&str; 9] = [
    NETWORK_HOST,
    NETWORK_PORTS,
    RESOURCES_CPU,
    RESOURCES_MEMORY,
    VOLUMES_HOST_PATH,
    VOLUMES_EMPTY_DIR,
    VOLUMES_EMPTY_DIR_MEMORY,
    IMAGE_ARCHIVE,
    IMAGE_REGISTRY,
];

/// What a node says that it can do: what its runtime can, and the kinds of jobs that this agent knows and older ones do not.
#[must_use]
pub fn all(runtime: &dyn Runtime) -> Vec<String> {
    let jobs = JobKind::ALL.into_iter().filter_map(JobKind::capability);
    runtime.capabilities().into_iter().chain(jobs.map(str::to_owned)).collect()
}

/// A spec needs what this node cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("This node does not offer {}.", missing.join(", "))]
pub struct Unsupported {
    /// What is missing, in the order of [`ALL`].
    pub missing: Vec<&'static str>,
}

/// Checks that all that `spec` needs is `offered`.
///
/// # Errors
///
/// Names everything that is missing, so that one look at the node is enough.
pub fn check(spec: &AppSpec, offered: &[String]) -> Result<(), Unsupported> {
    let is_missing = |word: &&str| is_needed(spec, word) && !offered.iter().any(|offer| offer == word);
    let missing: Vec<_> = ALL.into_iter().filter(is_missing).collect();
    if missing.is_empty() { Ok(()) } else { Err(Unsupported { missing }) }
}

fn is_needed(spec: &AppSpec, word: &str) -> bool {
    let has_volume = |is_such: fn(&VolumeSource) -> bool| spec.volumes.iter().any(|volume| is_such(&volume.source));
    match word {
        NETWORK_HOST => spec.network == Network::Host,
        NETWORK_PORTS => spec.network != Network::Host,
        RESOURCES_CPU => spec.resources.cpu.is_some(),
        RESOURCES_MEMORY => spec.resources.memory.is_some(),
        VOLUMES_HOST_PATH => has_volume(|source| matches!(source, VolumeSource::HostPath(_))),
        VOLUMES_EMPTY_DIR => has_volume(|source| matches!(source, VolumeSource::EmptyDir(_))),
        VOLUMES_EMPTY_DIR_MEMORY => {
            has_volume(|source| matches!(source, VolumeSource::EmptyDir(empty) if empty.medium == Medium::Memory))
        }
        IMAGE_ARCHIVE => matches!(spec.image.source, ImageSource::Archive(_)),
        IMAGE_REGISTRY => matches!(spec.image.source, ImageSource::Reference(_)),
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

    #[test]
    fn a_spec_needs_what_it_uses_and_nothing_else() {
        let table = [
            (json!({}), vec![NETWORK_PORTS, IMAGE_REGISTRY]),
            (json!({ "network": "host" }), vec![NETWORK_HOST, IMAGE_REGISTRY]),
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
        ];
        let offer = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        for (parts, needed) in table {
            let spec = spec(parts);
            assert_eq!(check(&spec, &offer(&needed)), Ok(()));
            assert_eq!(check(&spec, &[]), Err(Unsupported { missing: needed }));
        }
        let sentence = check(&spec(json!({})), &[]).unwrap_err().to_string();
        assert_eq!(sentence, "This node does not offer network.ports, image.registry.");
    }
}
