//! Where the runtime keeps things below the agent's data directory.

use std::path::{Path, PathBuf};

use longshore_model::name::AppName;
use sha2::{Digest, Sha256};

use crate::runtime::InstanceKey;

/// Launch description of a container, written by the agent.
pub(super) const LAUNCH: &str = "launch.json";
/// State of a container, written by its shim.
pub(super) const STATE: &str = "state.json";
/// Locked by the shim for as long as it lives.
pub(super) const LOCK: &str = "shim.lock";
/// Where the shim takes commands.
pub(super) const SOCKET: &str = "shim.sock";
/// What the shim and the container library say.
pub(super) const SHIM_LOG: &str = "shim.log";
/// Where the container's root is mounted, in the shim's mount namespace.
pub(super) const ROOTFS: &str = "rootfs";
/// Mode of files: they may hold an app's environment.
pub(super) const FILE_MODE: u32 = 0o600;
/// In an app's log directory: the app was removed when this file was made.
const REMOVED: &str = "removed";

/// The tree below `<data dir>/runtime`.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The tree of a data directory.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("runtime") }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Holds the node's uid, so that `reset` finds the cgroups without the agent's own files.
    pub(super) fn node_uid(&self) -> PathBuf {
        self.root.join("node-uid")
    }

    /// Holds the uids that the node had before, one a line, while something of them may be left.
    pub(super) fn former_node_uids(&self) -> PathBuf {
        self.root.join("former-node-uids")
    }

    /// Holds the address of the engine that has the containers, where one has them.
    pub(super) fn engine(&self) -> PathBuf {
        self.root.join("engine")
    }

    /// Is there while containers of this directory have, or may have left, a way out.
    pub(super) fn has_had_egress(&self) -> PathBuf {
        self.root.join("egress")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(super) fn container(&self, instance: &InstanceKey, run: u32) -> PathBuf {
        self.containers().join(container_name(instance, run))
    }

    pub(super) fn all_logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(super) fn app_logs(&self, app: &AppName) -> PathBuf {
        self.all_logs().join(app.as_str())
    }

    pub(super) fn removed_mark(&self, app: &str) -> PathBuf {
        self.all_logs().join(app).join(REMOVED)
    }

    pub(super) fn logs(&self, instance: &InstanceKey) -> PathBuf {
        self.app_logs(&instance.app).join(instance.index.to_string())
    }

    pub(super) fn all_volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(super) fn app_volumes(&self, app: &str) -> PathBuf {
        self.all_volumes().join(app)
    }

    pub(super) fn instance_volumes(&self, instance: &InstanceKey) -> PathBuf {
        self.app_volumes(instance.app.as_str()).join(instance.index.to_string())
    }

    /// An empty directory is known by where it is mounted: that survives a change of the spec's order.
    pub(super) fn volume(&self, instance: &InstanceKey, mount_path: &str) -> PathBuf {
        let name = hex::encode(&Sha256::digest(mount_path.as_bytes())[..8]);
        self.instance_volumes(instance).join(name)
    }
}

/// Name of a container's directory and cgroup.
pub(super) fn container_name(instance: &InstanceKey, run: u32) -> String {
    format!("{}-{}-{run}", instance.app, instance.index)
}

/// The inverse of [`container_name`]; `None` for what is not ours.
pub(super) fn parse_container_name(name: &str) -> Option<(InstanceKey, u32)> {
    let (rest, run) = name.rsplit_once('-')?;
    let (app, index) = rest.rsplit_once('-')?;
    let instance = InstanceKey { app: AppName::parse(app).ok()?, index: index.parse().ok()? };
    Some((instance, run.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_are_read_back() {
        let key = InstanceKey { app: AppName::parse("web-0-1-x7").unwrap(), index: 3 };
        assert_eq!(container_name(&key, 12), "web-0-1-x7-3-12");
        assert_eq!(parse_container_name("web-0-1-x7-3-12"), Some((key, 12)));
        for foreign in ["", "web", "web-1", "web--1-2-x", "-0-1"] {
            assert_eq!(parse_container_name(foreign), None, "{foreign}");
        }
    }
}
