//! The machine's devices, for privileged containers.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use longshore_model::spec::Device;

use crate::devices::{self, DeviceNode};

/// Devices that a container gets at most: far more than machines have, and each is a line of its configuration.
const MAX_DEVICES: usize = 4096;

/// Every device below /dev, in no order. What is mounted there, such as terminals, the container gets of its own; and
/// so it does a console.
pub(super) fn of_machine() -> io::Result<Vec<DeviceNode>> {
    below(Path::new("/dev"))
}

fn below(root: &Path) -> io::Result<Vec<DeviceNode>> {
    let console = root.join("console");
    let here = fs::symlink_metadata(root)?.dev();
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        // A device may go while it is looked at.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.file_type().is_dir() && meta.dev() == here {
                directories.push(path);
            } else if let Some(target) = path.to_str().filter(|_| path != console).map(str::to_owned) {
                found.extend(devices::node(path, target, &meta, Device::ALL_PERMISSIONS));
            }
        }
    }
    if found.len() > MAX_DEVICES {
        tracing::warn!(found = found.len(), limit = MAX_DEVICES, "the container does not get all devices");
        found.truncate(MAX_DEVICES);
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_machines_devices_are_found_as_they_are() {
        let found = of_machine().unwrap();
        let at = |path: &str| found.iter().find(|device| device.target == path);
        let null = at("/dev/null").unwrap();
        assert_eq!((null.major, null.minor, null.is_block, null.mode & 0o666), (1, 3, false, 0o666));
        assert!(at("/dev/console").is_none() && found.iter().all(|device| !device.target.starts_with("/dev/pts")));
    }

    #[test]
    fn links_and_files_are_no_devices() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("link")).unwrap();
        assert!(below(directory.path()).unwrap().is_empty());
        assert!(below(&directory.path().join("none")).is_err());
    }
}
