//! Volumes: paths of the node, empty directories on disk or in memory, and keys of config maps and secrets as files in memory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use longshore_model::configuration::Content;
use longshore_model::failure::FailureReason;
use longshore_model::secret::SecretBytes;
use longshore_model::spec::{EmptyDir, HostPath, Item, Logs, Medium, Projection, Volume, VolumeSource};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::failure;
use super::files;
use super::layout::Layout;
use crate::accelerators::Attached;
use crate::configuration::Configuration;
use crate::devices::DeviceNode;
use crate::host_path::{FileId, HostPaths};
use crate::mounts::{self, Mount};
use crate::runtime::{InstanceKey, Rotation, RuntimeError};

/// Size of an empty directory in memory that names none: as a tmpfs has by default.
const MEMORY_DEFAULT_SIZE: &str = "50%";

/// What mounts of config maps and secrets are called in the kernel's tables.
const PROJECTION: &str = "longshore-projection";
/// Bytes of a page, of which files in memory take whole ones.
const PAGE: usize = 4096;
/// Bytes allowed for what a file takes beside its content.
const FILE_OVERHEAD: usize = 2 * PAGE;
/// Bytes allowed for the directory itself.
const DIRECTORY_SIZE: usize = 16 * PAGE;

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
    /// Whether its files are made for the container, and belong to whom that runs as.
    #[serde(default)]
    pub(super) is_projection: bool,
}

/// What comes with accelerators, as mounts.
pub(super) fn attached(attached: &Attached) -> impl Iterator<Item = VolumeMount> + '_ {
    attached.mounts.iter().map(|mount| VolumeMount {
        source: mount.source.clone(),
        id: None,
        target: mount.target.clone(),
        read_only: mount.read_only,
        is_projection: false,
    })
}

/// Devices of a spec, and those that come with accelerators.
pub(super) fn with_attached(mut devices: Vec<DeviceNode>, attached: &Attached) -> Vec<DeviceNode> {
    devices.retain(|device| attached.devices.iter().all(|other| other.target != device.target));
    devices.extend(attached.devices.iter().cloned());
    devices
}

/// Makes what is missing of an instance's volumes, and says where they are.
pub(super) fn prepare(
    layout: &Layout,
    instance: &InstanceKey,
    volumes: &[Volume],
    configuration: &Configuration,
    host_paths: &HostPaths,
) -> Result<Vec<VolumeMount>, RuntimeError> {
    withdraw(&layout.instance_volumes(instance)).map_err(|e| failure::io("removing what an earlier run took", e))?;
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
                VolumeSource::Projection(taken) => {
                    let missing = |what: String| failure::because(FailureReason::ConfigurationMissing, what);
                    let content = configuration.content(taken.kind, &taken.name).ok_or_else(|| {
                        missing(format!("the {} {} is not among what the app has", taken.kind.as_str(), taken.name))
                    })?;
                    let files = files_of(taken, content).map_err(missing)?;
                    let made = project(&layout.volume(instance, &volume.mount_path), &files)
                        .map_err(|e| failure::io(format!("making the files for {}", volume.mount_path), e))?;
                    (made, None)
                }
            };
            let is_projection = matches!(volume.source, VolumeSource::Projection(_));
            let read_only = volume.read_only || is_projection;
            Ok(VolumeMount { source, id, target: volume.mount_path.clone(), read_only, is_projection })
        })
        .collect()
}

/// The directory for an instance's own files of logs, where its spec has one.
pub(super) fn log_directory(
    layout: &Layout,
    instance: &InstanceKey,
    logs: &Logs,
    kept: Rotation,
) -> Result<Option<VolumeMount>, RuntimeError> {
    let Some(target) = logs.directory.clone() else { return Ok(None) };
    let made = super::logs::make_directory(&layout.logs(instance), kept);
    let source = made.map_err(|e| failure::io(format!("making the log directory for {target}"), e))?;
    Ok(Some(VolumeMount { source, id: None, target, read_only: false, is_projection: false }))
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

/// A file to be made: where, with which permissions, and what is in it.
type Projected<'a> = (&'a str, u32, &'a [u8]);

/// The files that a volume consists of.
fn files_of<'a>(taken: &'a Projection, content: &'a Content) -> Result<Vec<Projected<'a>>, String> {
    if taken.items.is_empty() {
        let file = |(key, value): (&'a String, &'a SecretBytes)| (key.as_str(), taken.mode_of(None), value.reveal());
        return Ok(content.iter().map(file).collect());
    }
    let file = |item: &'a Item| {
        let value = content
            .get(&item.key)
            .ok_or_else(|| format!("the {} {} has no key {:?}", taken.kind.as_str(), taken.name, item.key))?;
        Ok((item.path.as_str(), taken.mode_of(item.mode), value.reveal()))
    };
    taken.items.iter().map(file).collect()
}

/// Makes files in a directory of memory. They belong to root until the container's user is known; nobody else gets to them
/// on the node, since the directories above are root's alone.
fn project(place: &Path, files: &[Projected<'_>]) -> io::Result<PathBuf> {
    fs::create_dir_all(place)?;
    let place = fs::canonicalize(place)?;
    let bytes: usize = files.iter().map(|(_, _, content)| content.len().next_multiple_of(PAGE) + FILE_OVERHEAD).sum();
    let size = format!("size={},mode=0755", bytes + DIRECTORY_SIZE);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Not to be swapped out to a disk, where the kernel can promise that (6.4).
    let unswapped = format!("{size},noswap");
    let mount = |options: &str| mount(Some(PROJECTION), &place, Some("tmpfs"), flags, Some(options));
    mount(&unswapped).or_else(|_| mount(&size))?;
    for (path, mode, content) in files {
        let path = place.join(path.trim_start_matches('/'));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(*mode))?;
    }
    Ok(place)
}

/// Gives the files of a volume to whom the container runs as.
pub(super) fn hand_over(directory: &Path, uid: u32, gid: u32) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            hand_over(&entry.path(), uid, gid)?;
        }
        std::os::unix::fs::lchown(entry.path(), Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Takes away what an earlier run of an instance had of config maps and secrets.
fn withdraw(instance: &Path) -> io::Result<()> {
    unmount(instance, |mount| mount.source == PROJECTION)
}

/// Unmounts everything below `directory`, and removes it.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    unmount_below(directory)?;
    files::remove_tree(directory)
}

/// Unmounts everything at or below `directory`, the newest first.
pub(super) fn unmount_below(directory: &Path) -> io::Result<()> {
    unmount(directory, |_| true)
}

/// Unmounts what is meant of everything below `directory`.
fn unmount(directory: &Path, is_meant: impl Fn(&Mount) -> bool) -> io::Result<()> {
    let Ok(real) = fs::canonicalize(directory) else { return Ok(()) };
    for mount in mounts::table()?.into_iter().rev() {
        if mount.point.starts_with(&real) && is_meant(&mount) {
            umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
    }
    Ok(())
}
