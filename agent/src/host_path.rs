//! The agent's own check of host paths: with the disk in sight, where links lead somewhere.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use longshore_model::host_path;
use longshore_model::spec::{AppSpec, HostPath, VolumeSource};

/// Mode of directories made for an app.
const MODE: u32 = 0o755;

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
    /// It leads into a system directory.
    #[error("The host path {path} leads to {target}, which the system directory {system} rules out.")]
    System {
        /// As written.
        path: String,
        /// Where it leads.
        target: String,
        /// Ruled out by this one.
        system: String,
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

/// Checks every host path of a spec, and makes those that are missing and may be made. Blocks.
///
/// # Errors
///
/// The first one that cannot be mounted.
pub fn prepare(spec: &AppSpec) -> Result<(), HostPathError> {
    spec.volumes.iter().try_for_each(|volume| match &volume.source {
        VolumeSource::HostPath(path) => check(path),
        VolumeSource::EmptyDir(_) => Ok(()),
    })
}

fn check(wanted: &HostPath) -> Result<(), HostPathError> {
    let written = &wanted.path;
    let unusable = |problem| HostPathError::Unusable { path: written.clone(), problem };
    let normal =
        host_path::normalise(written).map_err(|source| HostPathError::Malformed { path: written.clone(), source })?;
    // Links are followed before anything is made: a link to /etc must not get a directory made in there.
    let (exists, target) = resolve(Path::new(&normal)).map_err(unusable)?;
    let target = target.to_string_lossy().into_owned();
    if let Some(system) = host_path::system_directory(&target) {
        return Err(HostPathError::System { path: written.clone(), target, system: system.to_string() });
    }
    match (exists, wanted.create) {
        (true, _) => Ok(()),
        (false, true) => std::fs::DirBuilder::new().recursive(true).mode(MODE).create(&target).map_err(unusable),
        (false, false) => Err(HostPathError::Missing { path: written.clone() }),
    }
}

/// Whether a path exists, and where it leads: its deepest part that exists, with links followed, and the rest.
fn resolve(path: &Path) -> io::Result<(bool, PathBuf)> {
    let mut rest = Vec::new();
    let mut present = path;
    loop {
        match present.canonicalize() {
            Ok(mut target) => {
                let exists = rest.is_empty();
                target.extend(rest.into_iter().rev());
                return Ok((exists, target));
            }
            // A link to nowhere is no place for a directory: `mkdir` would follow it after this check.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !present.is_symlink() => {}
            Err(error) => return Err(error),
        }
        let (Some(parent), Some(name)) = (present.parent(), present.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        rest.push(name.to_owned());
        present = parent;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn host_path(path: &Path, create: bool) -> HostPath {
        HostPath { path: path.to_str().unwrap().to_owned(), create }
    }

    #[test]
    fn a_missing_directory_is_made_only_when_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        assert!(matches!(check(&host_path(&path, false)), Err(HostPathError::Missing { .. })));
        assert!(!path.exists());
        check(&host_path(&path, true)).unwrap();
        assert!(path.is_dir());
        check(&host_path(&path, false)).unwrap();
    }

    #[test]
    fn a_link_into_a_system_directory_is_refused_and_nothing_is_made_there() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("data");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(matches!(check(&host_path(&link, false)), Err(HostPathError::System { .. })));
        let below = link.join("longshore-test-must-not-exist");
        assert!(matches!(check(&host_path(&below, true)), Err(HostPathError::System { .. })));
        assert!(!below.exists());
    }

    #[test]
    fn a_link_to_nowhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("data");
        std::os::unix::fs::symlink(directory.path().join("absent"), &link).unwrap();
        assert!(matches!(check(&host_path(&link, true)), Err(HostPathError::Unusable { .. })));
    }
}
