//! Backups of a whole data directory: the database, and the authority where that is wanted.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use crate::identity::pki::{self, PkiError};
use crate::serve::STORE_FILE;
use crate::store::backup::{self, BackupContents, BackupError, BackupFile};

/// Directories of the authority and of the first admin, beside the database.
const AUTHORITY: [&str; 2] = ["admin", "pki"];

/// Why nothing was backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database, or the backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The authority.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A file of the authority.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The nodes of the backup trust another authority.
    #[error(
        "the authority in {} is not the one that the nodes of this backup trust: restore into another directory, or \
         bring the right one", .0.display()
    )]
    OtherAuthority(PathBuf),
    /// A name in a backup leads out of the data directory.
    #[error("the backup has a file {:?}, which no backup has", .0.display())]
    Path(PathBuf),
}

/// Backs up a data directory into a new file, while a server may run in it; with the authority's keys if `with_authority`.
///
/// # Errors
///
/// See [`Error`]; there is no file then.
pub fn back_up(data_dir: &Path, to: &Path, with_authority: bool, now: Timestamp) -> Result<(), Error> {
    let root_pin = pki::load(data_dir, now)?.pin.to_string();
    let mut files = Vec::new();
    for directory in AUTHORITY.into_iter().filter(|_| with_authority) {
        collect(data_dir, Path::new(directory), &mut files)?;
    }
    Ok(backup::back_up(&data_dir.join(STORE_FILE), to, &BackupContents { time: now, root_pin, files })?)
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// When the backup was taken.
    pub time: Timestamp,
    /// Whether the directory has an authority now.
    pub has_authority: bool,
}

/// Makes a data directory out of a backup. A database that is there is kept under another name, if `force` allows that;
/// an authority that is there stays, and must be the one that the backup's nodes trust.
///
/// # Errors
///
/// See [`Error`]; nothing has changed then, but for an authority that was missing.
pub fn restore(from: &Path, data_dir: &Path, force: bool, now: Timestamp) -> Result<Restored, Error> {
    let BackupContents { time, root_pin, files } = backup::read_backup(from)?;
    let database = data_dir.join(STORE_FILE);
    if database.exists() && !force {
        return Err(BackupError::Exists(database).into());
    }
    make_directory(data_dir)?;
    let has_authority = || data_dir.join("pki").exists();
    if has_authority() {
        if pki::load(data_dir, now)?.pin.to_string() != root_pin {
            return Err(Error::OtherAuthority(data_dir.to_owned()));
        }
    } else {
        for file in &files {
            write(data_dir, file)?;
        }
    }
    backup::restore(from, &database, force, now)?;
    Ok(Restored { time, has_authority: has_authority() })
}

/// Takes a restored database as what shall be from now on; returns whether that was still open.
///
/// # Errors
///
/// A server runs in the directory, or there is no database.
pub fn accept(data_dir: &Path) -> Result<bool, Error> {
    Ok(backup::accept(&data_dir.join(STORE_FILE))?)
}

/// All files below a directory, by their paths from the data directory.
fn collect(data_dir: &Path, directory: &Path, files: &mut Vec<BackupFile>) -> Result<(), Error> {
    let whole = data_dir.join(directory);
    if !whole.exists() {
        return Ok(());
    }
    let failed = |source| Error::File { action: "read", path: whole.clone(), source };
    for entry in fs::read_dir(&whole).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (directory.join(entry.file_name()), entry.file_type().map_err(failed)?);
        if kind.is_dir() {
            collect(data_dir, &path, files)?;
        } else if kind.is_file() {
            files.push(BackupFile { content: fs::read(entry.path()).map_err(failed)?, path });
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::File { action: "make", path: path.to_owned(), source })
}

/// Writes a file that is not there yet, for this user only.
fn write(data_dir: &Path, file: &BackupFile) -> Result<(), Error> {
    if !file.path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::Path(file.path.clone()));
    }
    let path = data_dir.join(&file.path);
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).and_then(|mut target| {
        target.write_all(&file.content)?;
        target.sync_all()
    });
    written.map_err(|source| Error::File { action: "write", path, source })
}
