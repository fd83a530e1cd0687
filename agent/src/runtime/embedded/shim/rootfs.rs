//! The container's root and volumes, mounted in the shim's own mount namespace.
//!
//! Nothing of it is visible on the node, and all of it goes when the last process of the container and the shim are
//! gone, whichever way they end.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use longshore_model::failure::FailureReason;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::super::failure;
use super::super::launch::LaunchFile;
use super::super::layout::ROOTFS;
use super::super::oci::Sources;
use super::super::volumes::VolumeMount;
use super::resolver;
use crate::host_path::FileId;
use crate::mounts::{self, Mount};
use crate::runtime::RuntimeError;

const NOTHING: Option<&str> = None;

/// Moves the shim into a mount namespace of its own; the node's unmounts still arrive there, so that none is held up.
pub(super) fn leave_mount_namespace() -> Result<(), RuntimeError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failure::io("making a mount namespace", e))?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_SLAVE | MsFlags::MS_REC, NOTHING)
        .map_err(|e| failure::io("detaching the mount namespace", e))
}

/// Mounts the image's layers with a writable one on top at `rootfs` of the current directory, and opens it.
///
/// Layers are given by short relative names, since the kernel takes one page of options at most.
pub(super) fn mount_root(launch: &LaunchFile) -> Result<OwnedFd, RuntimeError> {
    let prepare = || -> io::Result<String> {
        for directory in [ROOTFS, "upper", "work", "l"] {
            fs::create_dir_all(directory)?;
        }
        // The upper directory's mode is the root's.
        fs::set_permissions("upper", fs::Permissions::from_mode(0o755))?;
        let mut lower = Vec::new();
        for (index, layer) in launch.layers.iter().rev().enumerate() {
            let name = format!("l/{index}");
            symlink(layer, &name)?;
            lower.push(name);
        }
        if lower.is_empty() {
            fs::create_dir_all("l/none")?;
            lower.push("l/none".to_owned());
        }
        Ok(lower.join(":"))
    };
    let lower = prepare().map_err(|e| failure::io("preparing the container's root", e))?;
    let options = format!("lowerdir={lower},upperdir=upper,workdir=work");
    mount(Some("overlay"), ROOTFS, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| failure::io(format!("mounting {} layers", launch.layers.len()), e))?;
    open(ROOTFS, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failure::io("opening the container's root", e))
}

/// Pins each volume and the files of /etc, and returns where they are to be mounted from.
pub(super) fn stage(launch: &LaunchFile) -> Result<Sources, RuntimeError> {
    let here = std::env::current_dir().map_err(|e| failure::io("reading the current directory", e))?;
    let etc = here.join("etc");
    write_etc(&etc, launch).map_err(|e| failure::io("writing the container's /etc files", e))?;
    let volumes = launch
        .volumes
        .iter()
        .enumerate()
        .map(|(index, volume)| stage_volume(&here.join("v"), index, volume))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Sources { etc, volumes })
}

/// Binds a volume to a place of the shim's own: what is mounted is what was opened, whoever renames what meanwhile.
fn stage_volume(stage: &Path, index: usize, volume: &VolumeMount) -> Result<PathBuf, RuntimeError> {
    let shown = volume.source.display();
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let source = openat2(AT_FDCWD, &volume.source, how).map_err(|error| match error {
        Errno::ELOOP => refused(format!("the host path {shown} became a symbolic link while it was mounted")),
        Errno::ENOENT | Errno::ENOTDIR => refused(format!("the host path {shown} does not exist")),
        other => failure::io(format!("opening the host path {shown}"), other),
    })?;
    // What the agent checked, and nothing that came in its place meanwhile.
    if let Some(checked) = volume.id
        && FileId::of(&source).map_err(|e| failure::io(format!("opening the host path {shown}"), e))? != checked
    {
        return Err(refused(format!("the host path {shown} was replaced by another file while it was mounted")));
    }
    let place = stage.join(index.to_string());
    let bind = || -> io::Result<()> {
        fs::create_dir_all(stage)?;
        let is_directory = fs::metadata(descriptor_path(&source))?.is_dir();
        if is_directory {
            fs::create_dir_all(&place)?
        } else {
            drop(File::create(&place)?)
        };
        let from = descriptor_path(&source);
        mount(Some(&from), &place, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)?;
        Ok(())
    };
    bind().map_err(|e| failure::io(format!("mounting the host path {shown}"), e))?;
    Ok(place)
}

fn refused(message: String) -> RuntimeError {
    failure::because(FailureReason::HostPathUnavailable, message)
}

fn descriptor_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn write_etc(etc: &Path, launch: &LaunchFile) -> io::Result<()> {
    fs::create_dir_all(etc)?;
    let mut hosts = if launch.host_network {
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", launch.hostname)
    };
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    hosts.push_str(&resolver::aliases(&launch.host_aliases));
    let own = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = if launch.host_network {
        own
    } else {
        let upstream = fs::read_to_string(resolver::UPSTREAM).ok();
        resolver::choose(&own, upstream.as_deref()).unwrap_or_else(|| {
            if launch.egress.is_some() && launch.dns.nameservers.is_empty() {
                tracing::warn!("the container cannot look up names: the node has no resolver beyond its own loopback");
            }
            own
        })
    };
    let resolver = resolver::configured(&resolver, &launch.dns);
    for (name, text) in [("hosts", hosts), ("hostname", format!("{}\n", launch.hostname)), ("resolv.conf", resolver)] {
        let path = etc.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Lets go of the volumes once the container has them.
///
/// A shim's mount namespace is a copy of the node's: without this it would keep other apps' directories in memory
/// alive after they were removed.
pub(super) fn release_volumes(volumes_root: &Path) -> io::Result<()> {
    let here = std::env::current_dir()?.join("v");
    for Mount { point, .. } in mounts::table()?.into_iter().rev() {
        if point.starts_with(&here) || point.starts_with(volumes_root) {
            // One that a lazy unmount above it has taken along is gone already.
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
    }
    Ok(())
}
