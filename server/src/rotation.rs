//! Rotation of the key that secrets at rest are sealed with, while no server runs.
//!
//! Each step is durable before the next one begins, and after each of them everything opens: a rotation that was killed is
//! ended by another one. The old keys go last, when everything has been opened with the new one alone.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::api::{configurations, credentials};
use crate::serve::STORE_FILE;
use crate::store::rotation::{OfflineDatabase, Sealed};
use crate::store::{OpenError, StoreError};
use crate::vault::{KEY_FILE, KeyId, Vault, VaultError};

/// Why a key was not rotated, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server runs.
    #[error("a server runs on {}: stop it first, since it knows the old key alone", .0.display())]
    Running(PathBuf),
    /// There is no database.
    #[error("there is no database in {}", .0.display())]
    NoDatabase(PathBuf),
    /// There is no key, and so nothing that one has sealed.
    #[error("there is no key file {}: nothing was ever sealed; the first secret makes one", .0.display())]
    NoKey(PathBuf),
    /// Something does not open with the keys that there are.
    #[error(
        "the {what} does not open with the keys of the key file: bring the key, or set the value anew or delete it first"
    )]
    Closed {
        /// A kind and a name.
        what: String,
        /// Why.
        source: VaultError,
    },
    /// The old keys cannot be kept where it was said.
    #[error("cannot keep the old keys in {}", path.display())]
    Old {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A rotation on its way. Its steps are to be taken in the order in which they stand here.
#[derive(Debug)]
pub struct Rotation {
    vault: Vault,
    database: OfflineDatabase,
}

impl Rotation {
    /// Keeps servers away, and checks that everything opens. Changes nothing.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn begin(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(STORE_FILE);
        if !path.exists() {
            return Err(Error::NoDatabase(data_dir.to_owned()));
        }
        let key_file = data_dir.join(KEY_FILE);
        if !key_file.exists() {
            return Err(Error::NoKey(key_file));
        }
        let database = OfflineDatabase::open(&path).map_err(|error| match error {
            OpenError::InUse(_) => Error::Running(data_dir.to_owned()),
            error => StoreError::from(error).into(),
        })?;
        let rotation = Self { vault: Vault::new(data_dir), database };
        rotation.check(&rotation.vault)?;
        Ok(rotation)
    }

    /// Keeps the keys that there are in a file that only its owner may read; it must not exist. Backups from before the rotation
    /// open with them alone.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn keep_old_keys(&self, path: &Path) -> Result<(), Error> {
        let keys = self.vault.export()?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let kept = made.and_then(|mut file| {
            file.write_all(keys.as_bytes())?;
            file.sync_all()
        });
        kept.map_err(|source| Error::Old { path: path.to_owned(), source })
    }

    /// Puts a new key in front of the others: everything opens still, and what is sealed from now on is sealed with it.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn add_key(&self) -> Result<KeyId, Error> {
        Ok(self.vault.add_key()?)
    }

    /// Seals everything with the first key, all of it or nothing; returns how much that is.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn seal_anew(&mut self) -> Result<usize, Error> {
        let vault = &self.vault;
        self.database.replace(|sealed| {
            let anew = match sealed {
                Sealed::Credential(stored) => credentials::reseal(vault, stored),
                Sealed::Secret(stored) => configurations::reseal(vault, stored),
            };
            anew.map_err(|source| Error::Closed { what: sealed.to_string(), source })
        })
    }

    /// Takes what the old keys have sealed out of the database's free pages and its log, where copies of earlier rows may lie.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn purge(&self) -> Result<(), Error> {
        Ok(self.database.purge()?)
    }

    /// Drops the old keys, after everything has been opened with the new one alone; returns how many they were.
    ///
    /// # Errors
    ///
    /// See [`Error`]; all keys are still there then.
    pub fn drop_old_keys(self) -> Result<usize, Error> {
        self.check(&self.vault.with_first_key_alone()?)?;
        Ok(self.vault.drop_old_keys()?)
    }

    fn check(&self, vault: &Vault) -> Result<(), Error> {
        self.database.each(|sealed| {
            let opened = match sealed {
                Sealed::Credential(stored) => credentials::open(vault, stored).map(drop),
                Sealed::Secret(stored) => configurations::open(vault, stored).map(drop),
            };
            opened.map_err(|source| Error::Closed { what: sealed.to_string(), source })
        })
    }
}

#[cfg(test)]
mod tests;
