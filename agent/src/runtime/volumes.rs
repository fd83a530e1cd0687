//! Volumes: paths of the node, and empty directories on disk or in memory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore_model::failure::FailureReason;
use longshore_model::host_path;
use longshore_model::spec::{EmptyDir, HostPath, Medium, Volume, VolumeSource};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::failure;
use super::files;
use super::layout::Layout;
use super::mounts::mount_points;
use crate::runtime::{InstanceKey, RuntimeError};

/// Size of an empty directory in memory that names none: as a tmpfs has by default.
const MEMORY_DEFAULT_SIZE: &str = "50%";

/// A directory of the node inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    /// Canonical path on the node: the shim refuses one with a symbolic link in it.
    pub(super) source: PathBuf,
    /// Absolute path inside the container.
    pub(super) target: String,
    /// Whether it may only be read.
    pub(super) read_only: bool,
}

/// Makes what is missing of an instance's volumes, and says where they are.
pub(super) fn prepare(
    layout: &Layout,
    instance: &InstanceKey,
    volumes: &[Volume],
) -> Result<Vec<VolumeMount>, RuntimeError> {
    volumes
        .iter()
        .map(|volume| {
            let source = match &volume.source {
                VolumeSource::HostPath(path) => resolve_host_path(path)?,
                VolumeSource::EmptyDir(empty) => {
                    let place = layout.volume(instance, &volume.mount_path);
                    make_empty(&place, empty)
                        .map_err(|e| failure::io(format!("making the empty directory for {}", volume.mount_path), e))?
                }
            };
            Ok(VolumeMount { source, target: volume.mount_path.clone(), read_only: volume.read_only })
        })
        .collect()
}

/// The real path: the rules are applied to it once more, since a link may have changed after the agent's own check.
fn resolve_host_path(path: &HostPath) -> Result<PathBuf, RuntimeError> {
    let unavailable = |message: String| failure::because(FailureReason::HostPathUnavailable, message);
    let real = fs::canonicalize(&path.path).map_err(|e| unavailable(format!("The host path {}: {e}.", path.path)))?;
    match host_path::system_directory(&real.to_string_lossy()) {
        Some(system) => Err(unavailable(format!(
            "The host path {} leads to {}, which the system directory {system} rules out.",
            path.path,
            real.display()
        ))),
        None => Ok(real),
    }
}

/// An empty directory of the instance, or the one that an earlier run has left its files in.
fn make_empty(place: &Path, empty: &EmptyDir) -> io::Result<PathBuf> {
    fs::create_dir_all(place)?;
    let place = fs::canonicalize(place)?;
    let mounted = mount_points(&fs::read_to_string("/proc/self/mountinfo")?).contains(&place);
    if empty.medium == Medium::Memory && !mounted {
        let size = empty.size_limit.map_or_else(|| MEMORY_DEFAULT_SIZE.to_owned(), |bytes| bytes.to_string());
        let options = format!("size={size},mode=0777");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("longshore"), &place, Some("tmpfs"), flags, Some(options.as_str()))?;
    } else if !mounted {
        // The container's user need not be root.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777))?;
    }
    Ok(place)
}

/// Unmounts everything below `directory`, and removes it.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    unmount_below(directory)?;
    files::remove_tree(directory)
}

/// Unmounts everything at or below `directory`, the newest first.
pub(super) fn unmount_below(directory: &Path) -> io::Result<()> {
    let Ok(real) = fs::canonicalize(directory) else { return Ok(()) };
    for point in mount_points(&fs::read_to_string("/proc/self/mountinfo")?).into_iter().rev() {
        if point.starts_with(&real) {
            umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
    }
    Ok(())
}
