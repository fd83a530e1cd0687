//! Volumes: paths of the node, and empty directories on disk or in memory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use longshore_model::spec::{EmptyDir, HostPath, Medium, Volume, VolumeSource};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::failure;
use super::files;
use super::layout::Layout;
use crate::host_path::{FileId, HostPaths};
use crate::mounts::{self, Mount};
use crate::runtime::{InstanceKey, RuntimeError};

/// Size of an empty directory in memory that names none: as a tmpfs has by default.
const MEMORY_DEFAULT_SIZE: &str = "50%";

/// A directory of the node inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    /// Canonical path on the node: the shim refuses one with a symbolic link in it.
    pub(super) source: PathBuf,
    /// Which file was checked, where somebody else could put another in its place.
    #[serde(default)]
    pub(super) id: Option<FileId>,
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
    host_paths: &HostPaths,
) -> Result<Vec<VolumeMount>, RuntimeError> {
    volumes
        .iter()
        .map(|volume| {
            let (source, id) = match &volume.source {
                VolumeSource::HostPath(path) => check_host_path(host_paths, path)?,
                VolumeSource::EmptyDir(empty) => {
                    let place = layout.volume(instance, &volume.mount_path);
                    let made = make_empty(&place, empty)
                        .map_err(|e| failure::io(format!("making the empty directory for {}", volume.mount_path), e))?;
                    (made, None)
                }
            };
            Ok(VolumeMount { source, id, target: volume.mount_path.clone(), read_only: volume.read_only })
        })
        .collect()
}

/// The canonical path and what is there now: the rules are applied once more, since links may have changed since the
/// app's own check.
fn check_host_path(host_paths: &HostPaths, path: &HostPath) -> Result<(PathBuf, Option<FileId>), RuntimeError> {
    let pinned = host_paths.pin(path).map_err(|error| failure::because(error.reason(), error.to_string()))?;
    let id = pinned.id().map_err(|e| failure::io(format!("looking at the host path {}", path.path), e))?;
    Ok((pinned.path, Some(id)))
}

/// An empty directory of the instance, or the one that an earlier run has left its files in.
fn make_empty(place: &Path, empty: &EmptyDir) -> io::Result<PathBuf> {
    fs::create_dir_all(place)?;
    let place = fs::canonicalize(place)?;
    let mut mounted = mounts::table()?.iter().any(|mount| mount.point == place);
    if empty.medium == Medium::Disk && mounted {
        // An earlier revision had it in memory. What was on disk before that is still there.
        umount2(&place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        mounted = false;
    }
    if empty.medium == Medium::Memory {
        let size = empty.size_limit.map_or_else(|| MEMORY_DEFAULT_SIZE.to_owned(), |bytes| bytes.to_string());
        let options = format!("size={size},mode=0777");
        // One that is there gets the size of this revision, and keeps its files.
        let again = if mounted { MsFlags::MS_REMOUNT } else { MsFlags::empty() };
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | again;
        mount(Some("longshore"), &place, Some("tmpfs"), flags, Some(options.as_str()))?;
    } else {
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
    for Mount { point, .. } in mounts::table()?.into_iter().rev() {
        if point.starts_with(&real) {
            umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
    }
    Ok(())
}
