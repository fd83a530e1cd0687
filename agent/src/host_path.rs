//! The agent's own check of host paths: with the disk in sight, where links lead somewhere.
//!
//! A path is judged by its text, and again by its text once every link in it was followed. Then it is walked from the
//! root, one open directory after the other and through no link at all; what is missing is made on the way. What is held
//! at the end is what was judged, whoever renames what meanwhile. On the way each directory is compared with those that
//! are guarded by what it is, not by what it is called: one may be bound to a second place, and a file system may take
//! `/ETC` for `/etc`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use longshore_model::failure::FailureReason;
use longshore_model::host_path::{self, NodeRules, RuledOut};
use longshore_model::spec::{AppSpec, HostPath, VolumeSource};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, stat};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::mounts::{self, Mount};

/// Mode of directories made for an app.
const MODE: Mode = Mode::from_bits_truncate(0o755);

/// File systems whose files are the kernel's own switches and views, wherever they are mounted.
const KERNEL_FILE_SYSTEMS: [&str; 18] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// Why a host path cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// Not a usable path at all.
    #[error("The host path {path:?} {source}.")]
    Malformed {
        /// As written.
        path: String,
        /// What is wrong with it.
        source: host_path::PathError,
    },
    /// No app may mount what it leads to.
    #[error("The host path {path} leads to {target}, {rule}.")]
    RuledOut {
        /// As written.
        path: String,
        /// Where it leads.
        target: String,
        /// What is against it.
        rule: RuledOut,
    },
    /// The kernel's own files are there.
    #[error("The host path {path} leads to {target}, where {point} is a file system of the kernel's ({kind}).")]
    Kernel {
        /// As written.
        path: String,
        /// Where it leads.
        target: String,
        /// Where the file system is mounted: around the target, or below it.
        point: String,
        /// Its type.
        kind: String,
    },
    /// Somebody put a link there while it was looked at.
    #[error("The host path {path} cannot be used: {at} became a symbolic link while it was looked at.")]
    Swapped {
        /// As written.
        path: String,
        /// Where the link is.
        at: String,
    },
    /// It is not there, and was not to be made.
    #[error("The host path {path} does not exist on the node.")]
    Missing {
        /// As written.
        path: String,
    },
    /// The file system says no.
    #[error("The host path {path} cannot be used: {problem}.")]
    Unusable {
        /// As written.
        path: String,
        /// What the file system said.
        problem: io::Error,
    },
}

impl HostPathError {
    /// For machines.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Unusable { problem, .. }
                if matches!(problem.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                FailureReason::DiskFull
            }
            _ => FailureReason::HostPathUnavailable,
        }
    }
}

/// Which file something is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// That of an open file.
    ///
    /// # Errors
    ///
    /// The file system does not answer.
    pub fn of(file: impl AsFd) -> nix::Result<Self> {
        fstat(file).map(|found| Self { device: found.st_dev, inode: found.st_ino })
    }

    fn at(path: &Path) -> nix::Result<Self> {
        stat(path).map(|found| Self { device: found.st_dev, inode: found.st_ino })
    }
}

/// A path that may be mounted, held open.
#[derive(Debug)]
pub struct Pinned {
    /// Canonical.
    pub path: PathBuf,
    /// Opened with `O_PATH`.
    file: OwnedFd,
}

impl Pinned {
    /// Which file it is.
    ///
    /// # Errors
    ///
    /// The file system does not answer.
    pub fn id(&self) -> io::Result<FileId> {
        Ok(FileId::of(&self.file)?)
    }
}

/// What of this node apps may mount.
#[derive(Clone, Debug, Default)]
pub struct HostPaths {
    guarded: Vec<PathBuf>,
    allowed: Vec<String>,
}

impl HostPaths {
    /// Guards an agent's data directory. With directories in `allowed`, which are normal paths, no others are.
    #[must_use]
    pub fn new(data_dir: &Path, allowed: Vec<String>) -> Self {
        Self { guarded: vec![data_dir.to_owned()], allowed }
    }

    /// Guards one more file or directory, with all that is above and below it.
    #[must_use]
    pub fn guarding(mut self, path: &Path) -> Self {
        self.guarded.push(path.to_owned());
        self
    }

    /// Checks every host path of a spec, and makes those that are missing and may be made. Blocks.
    ///
    /// # Errors
    ///
    /// The first one that cannot be mounted.
    pub fn prepare(&self, spec: &AppSpec) -> Result<(), HostPathError> {
        of(spec).try_for_each(|path| self.pin(path).map(drop))
    }

    /// Every host path of a spec that cannot be mounted, as [`HostPaths::prepare`] would find it; nothing is made. Blocks.
    #[must_use]
    pub fn foresee(&self, spec: &AppSpec) -> Vec<HostPathError> {
        let look = |path| self.hold(path, &self.locate(path)?, Missing::Left).map(drop);
        of(spec).filter_map(|path| look(path).err()).collect()
    }

    /// Checks a host path, makes it if it is missing and may be made, and holds it. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be mounted.
    pub fn pin(&self, wanted: &HostPath) -> Result<Pinned, HostPathError> {
        self.hold(wanted, &self.locate(wanted)?, Missing::Made)
    }

    /// Checks a canonical path of an earlier check once more: it must still lead to no other. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be mounted any more.
    pub fn recheck(&self, canonical: &Path) -> Result<(), HostPathError> {
        let path = canonical.to_string_lossy().into_owned();
        let pinned = self.pin(&HostPath { path: path.clone(), create: false })?;
        if pinned.path == canonical { Ok(()) } else { Err(HostPathError::Swapped { at: path.clone(), path }) }
    }

    /// Where a path leads, judged by its text. Nothing is made yet: a link to /etc must not get a directory made in there.
    fn locate(&self, wanted: &HostPath) -> Result<Place, HostPathError> {
        let path = || wanted.path.clone();
        let normal =
            host_path::normalise(&wanted.path).map_err(|source| HostPathError::Malformed { path: path(), source })?;
        let place = resolve(Path::new(&normal)).map_err(|problem| HostPathError::Unusable { path: path(), problem })?;
        let target = place.target().into_os_string().into_string().map_err(|_| {
            let problem = io::Error::new(io::ErrorKind::InvalidFilename, "it leads to a name that is not UTF-8");
            HostPathError::Unusable { path: path(), problem }
        })?;
        match self.rules().judge(&target) {
            Err(rule) => Err(HostPathError::RuledOut { path: path(), target, rule }),
            Ok(()) if place.missing.is_empty() || wanted.create => Ok(place),
            Ok(()) => Err(HostPathError::Missing { path: path() }),
        }
    }

    /// The node's own rules, with the links in them followed as they are now. Blocks for a moment.
    #[must_use]
    pub fn rules(&self) -> NodeRules {
        let real = |path: &Path| match resolve(path) {
            Ok(place) => place.target().to_string_lossy().into_owned(),
            Err(_) => path.to_string_lossy().into_owned(),
        };
        NodeRules {
            guarded: self.guarded.iter().map(|path| real(path)).collect(),
            allowed: self.allowed.iter().map(|path| real(Path::new(path))).collect(),
        }
    }

    /// Walks to a place that was judged, makes what is missing of it, and holds it; or holds what is there of it.
    fn hold(&self, wanted: &HostPath, place: &Place, missing: Missing) -> Result<Pinned, HostPathError> {
        let landmarks = Landmarks::look(&self.guarded);
        let path = || wanted.path.clone();
        let target = || place.target().display().to_string();
        let unusable = |problem: Errno| HostPathError::Unusable { path: path(), problem: problem.into() };
        let check = |rule: Option<&RuledOut>| match rule {
            None => Ok(()),
            Some(rule) => Err(HostPathError::RuledOut { path: path(), target: target(), rule: rule.clone() }),
        };
        let mut walk = Walk::from_root().map_err(unusable)?;
        let step = |walk: &mut Walk, name: &OsStr, make| {
            walk.step(name, make).map_err(|error| match error {
                Errno::ELOOP => HostPathError::Swapped { path: path(), at: walk.path.join(name).display().to_string() },
                Errno::ENOENT => HostPathError::Missing { path: path() },
                other => unusable(other),
            })?;
            check(landmarks.guarded.get(&walk.id().map_err(unusable)?))
        };
        for name in names(&place.present) {
            step(&mut walk, name, false)?;
        }
        // Before anything is made: a directory in some of these file systems is not what it seems.
        let foreign = kernel_mount(&walk, place.missing.is_empty());
        if let Some(mount) = foreign.map_err(|problem| HostPathError::Unusable { path: path(), problem })? {
            let point = mount.point.display().to_string();
            return Err(HostPathError::Kernel { path: path(), target: target(), point, kind: mount.kind });
        }
        if missing == Missing::Left && !place.missing.is_empty() {
            // Something could be made here, unless the file system takes nothing.
            access(&walk.path, AccessFlags::W_OK).map_err(unusable)?;
            return Ok(Pinned { path: walk.path, file: walk.at });
        }
        for name in &place.missing {
            step(&mut walk, name, true)?;
        }
        check(landmarks.above.get(&walk.id().map_err(unusable)?))?;
        Ok(Pinned { path: walk.path, file: walk.at })
    }
}

/// What becomes of directories that are missing and may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Made,
    Left,
}

/// The host paths of a spec.
fn of(spec: &AppSpec) -> impl Iterator<Item = &HostPath> {
    spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::HostPath(path) => Some(path),
        VolumeSource::EmptyDir(_) | VolumeSource::Projection(_) => None,
    })
}

/// Where a path leads: its deepest part that exists, with links followed, and the rest.
#[derive(Debug)]
struct Place {
    present: PathBuf,
    missing: Vec<std::ffi::OsString>,
}

impl Place {
    fn target(&self) -> PathBuf {
        self.present.iter().chain(self.missing.iter().map(std::ffi::OsString::as_os_str)).collect()
    }
}

fn resolve(path: &Path) -> io::Result<Place> {
    let mut missing = Vec::new();
    let mut present = path;
    loop {
        match present.canonicalize() {
            Ok(present) => {
                missing.reverse();
                return Ok(Place { present, missing });
            }
            // A link to nowhere is no place for a directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !present.is_symlink() => {}
            Err(error) => return Err(error),
        }
        let (Some(parent), Some(name)) = (present.parent(), present.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        missing.push(name.to_owned());
        present = parent;
    }
}

fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

/// A way through the tree that follows no link.
struct Walk {
    path: PathBuf,
    at: OwnedFd,
}

impl Walk {
    fn from_root() -> nix::Result<Self> {
        let at = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { path: PathBuf::from("/"), at })
    }

    fn id(&self) -> nix::Result<FileId> {
        FileId::of(&self.at)
    }

    /// One step down, into a directory that is made first if it is to be; ELOOP where there is a link.
    fn step(&mut self, name: &OsStr, make: bool) -> nix::Result<()> {
        if make {
            match mkdirat(&self.at, name, MODE) {
                // Somebody else made it meanwhile, and what it is will be seen.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // Asked for as a directory first, which brings up what is mounted on demand.
        let next = match openat(&self.at, name, flags | OFlag::O_DIRECTORY, Mode::empty()) {
            Err(Errno::ENOTDIR) => {
                let file = openat(&self.at, name, flags, Mode::empty())?;
                let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode & SFlag::S_IFMT.bits());
                if kind == SFlag::S_IFLNK {
                    return Err(Errno::ELOOP);
                }
                file
            }
            other => other?,
        };
        self.path.push(name);
        self.at = next;
        Ok(())
    }
}

/// What is guarded, known by what it is.
struct Landmarks {
    guarded: HashMap<FileId, RuledOut>,
    above: HashMap<FileId, RuledOut>,
}

impl Landmarks {
    fn look(own: &[PathBuf]) -> Self {
        let system = host_path::system_directories().map(|path| (Path::new(path), RuledOut::System(path.to_owned())));
        let own = own.iter().map(|path| (path.as_path(), RuledOut::Guarded(path.display().to_string())));
        let (mut guarded, mut above) = (HashMap::new(), HashMap::new());
        for (path, rule) in system.chain(own) {
            // What is not there cannot be in another place either.
            let Ok(real) = fs::canonicalize(path) else { continue };
            for (distance, ancestor) in real.ancestors().enumerate() {
                let Ok(id) = FileId::at(ancestor) else { continue };
                let which = if distance == 0 { &mut guarded } else { &mut above };
                which.entry(id).or_insert_with(|| rule.clone());
            }
        }
        Self { guarded, above }
    }
}

/// The file system of the kernel's own that a place is in, or, where all that is below comes along, has below it.
fn kernel_mount(walk: &Walk, with_below: bool) -> io::Result<Option<Mount>> {
    let around = mounts::id_of(&walk.at)?;
    let concerns = |mount: &Mount| Some(mount.id) == around || (with_below && mount.point.starts_with(&walk.path));
    let is_kernels = |mount: &Mount| KERNEL_FILE_SYSTEMS.contains(&mount.kind.as_str());
    Ok(mounts::table()?.into_iter().find(|mount| concerns(mount) && is_kernels(mount)))
}

#[cfg(test)]
mod tests;
