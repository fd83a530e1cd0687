//! The demo's directory, and those of demos that were killed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// How the directories of demos begin.
const PREFIX: &str = "longshore-demo-";
/// Locked for as long as the demo lives: the kernel unlocks it, however the demo ends.
const LOCK: &str = "lock";
/// Attempts to make a directory of our own.
const ATTEMPTS: u32 = 16;

/// A directory of a demo, locked by us.
#[derive(Debug)]
pub(super) struct Site {
    directory: PathBuf,
    /// Holds the lock; closed on exec, so that no child keeps it.
    _lock: File,
}

impl Site {
    /// Makes a private directory below `parent`.
    pub(super) fn make(parent: &Path) -> Result<Self, Error> {
        let cannot = |error| Error::io(format!("cannot make a directory in {}", parent.display()), error);
        for _ in 0..ATTEMPTS {
            let directory = parent.join(format!("{PREFIX}{:08x}", rand::random::<u32>()));
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(cannot(error)),
            }
            let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(LOCK));
            let site = lock.map_err(cannot).map(|lock| Self { directory, _lock: lock })?;
            // Another demo may have taken the unlocked directory for a leftover in this very moment.
            if site._lock.try_lock().is_ok() && site.is_ours() {
                return Ok(site);
            }
        }
        Err(cannot(io::ErrorKind::AlreadyExists.into()))
    }

    fn is_ours(&self) -> bool {
        let same = |ours: fs::Metadata, there: fs::Metadata| (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        match (self._lock.metadata(), fs::symlink_metadata(self.directory.join(LOCK))) {
            (Ok(ours), Ok(there)) => same(ours, there),
            _ => false,
        }
    }

    /// Directories below `parent` of demos that are no longer alive, locked by us now.
    pub(super) fn leftovers(parent: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
        let names = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
        names.filter_map(|entry| Self::take_over(entry.path())).collect()
    }

    fn take_over(directory: PathBuf) -> Option<Self> {
        // Anybody can make a directory of this name in /tmp: only a real one, of our own and private, is touched.
        let found = fs::symlink_metadata(&directory).ok()?;
        let is_private = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o077 == 0;
        if !is_private {
            return None;
        }
        let lock = OpenOptions::new().write(true).open(directory.join(LOCK)).ok()?;
        lock.try_lock().ok()?;
        Some(Self { directory, _lock: lock })
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Data directories of agents in it.
    pub(super) fn agents(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join("agent.json").is_file()).collect()
    }

    /// Deletes it.
    pub(super) fn delete(self) -> io::Result<()> {
        fs::remove_dir_all(&self.directory)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot make its directories shall fail")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_site_is_private_and_found_only_when_its_demo_is_dead() {
        let parent = tempfile::tempdir().unwrap();
        let site = Site::make(parent.path()).unwrap();
        assert_eq!(fs::metadata(site.directory()).unwrap().mode() & 0o777, 0o700);
        fs::create_dir(site.path("store-1")).unwrap();
        fs::write(site.path("store-1/agent.json"), "{}").unwrap();
        assert!(Site::leftovers(parent.path()).is_empty());

        let directory = site.directory().to_owned();
        drop(site);
        let leftovers = Site::leftovers(parent.path());
        assert_eq!(leftovers.len(), 1);
        assert_eq!(leftovers[0].agents(), [directory.join("store-1")]);
        // It is locked by us now, so that two demos do not clean up the same.
        assert!(Site::leftovers(parent.path()).is_empty());
        for site in leftovers {
            site.delete().unwrap();
        }
        assert!(!directory.exists());
    }

    #[test]
    fn what_others_may_have_made_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join(format!("{PREFIX}open"));
        fs::create_dir(&open).unwrap();
        fs::write(open.join(LOCK), "").unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&open, parent.path().join(format!("{PREFIX}link"))).unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        assert!(Site::leftovers(parent.path()).is_empty());
    }
}
