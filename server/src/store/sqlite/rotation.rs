//! What is sealed in a database that no server has open, for when it is to be sealed anew.

use std::fmt;
use std::fs::File;
use std::path::Path;

use longshore_model::configuration::Kind;
use longshore_model::name::{ConfigurationName, CredentialName};
use rusqlite::{Connection, params};

use super::{OpenError, configurations, credentials, rows, schema};
use crate::store::{StoreError, StoredConfiguration, StoredCredential};

/// Something that somebody else has sealed.
#[derive(Clone, Debug)]
pub enum Sealed {
    /// A password for a registry.
    Credential(StoredCredential),
    /// A secret.
    Secret(StoredConfiguration),
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(stored) => write!(f, "registry credential {}", stored.credential.name),
            Self::Secret(stored) => write!(f, "secret {}", stored.configuration.name),
        }
    }
}

/// A database that this process alone has open.
#[derive(Debug)]
pub struct OfflineDatabase {
    sql: Connection,
    _claim: File,
}

impl OfflineDatabase {
    /// Opens the database at `path`, which must exist, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; [`OpenError::InUse`] while a server runs.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let claim = schema::claim(path)?;
        Ok(Self { sql: schema::open_writer(path)?, _claim: claim })
    }

    /// Shows everything that is sealed, one after the other.
    ///
    /// # Errors
    ///
    /// Those of `look`, and of the database.
    pub fn each<E: From<StoreError>>(&self, mut look: impl FnMut(&Sealed) -> Result<(), E>) -> Result<(), E> {
        each(&self.sql, |sealed| look(sealed))
    }

    /// Puts what `anew` makes of it in the place of everything that is sealed, in one transaction; returns how much that is.
    ///
    /// # Errors
    ///
    /// Those of `anew`, and of the database; nothing has changed then.
    pub fn replace<E: From<StoreError>>(
        &mut self,
        mut anew: impl FnMut(&Sealed) -> Result<Vec<u8>, E>,
    ) -> Result<usize, E> {
        let transaction = self.sql.transaction().map_err(StoreError::from)?;
        let mut count = 0;
        each(&transaction, |sealed| {
            write(&transaction, sealed, &anew(sealed)?)?;
            count += 1;
            Ok::<(), E>(())
        })?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(count)
    }

    /// Writes the database anew without what was in its free pages, and empties its log.
    ///
    /// # Errors
    ///
    /// The database fails, or the disk has no room for another copy of it.
    pub fn purge(&self) -> Result<(), StoreError> {
        self.sql.execute_batch("VACUUM")?;
        self.sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

/// One at a time, since a secret may be large.
fn each<E: From<StoreError>>(sql: &Connection, mut look: impl FnMut(&Sealed) -> Result<(), E>) -> Result<(), E> {
    for name in names::<CredentialName>(sql, "SELECT name FROM registry_credential ORDER BY name")? {
        look(&Sealed::Credential(credentials::one(sql, &name)?))?;
    }
    for name in names::<ConfigurationName>(sql, "SELECT name FROM configuration WHERE kind = 'secret' ORDER BY name")? {
        look(&Sealed::Secret(configurations::one(sql, Kind::Secret, &name)?))?;
    }
    Ok(())
}

fn names<T: std::str::FromStr<Err = longshore_model::name::NameError>>(
    sql: &Connection,
    query: &str,
) -> Result<Vec<T>, StoreError> {
    let mut statement = sql.prepare(query)?;
    let names = statement.query_map([], |row| rows::name(row, 0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

fn write(sql: &Connection, sealed: &Sealed, content: &[u8]) -> Result<(), StoreError> {
    match sealed {
        Sealed::Credential(stored) => sql.execute(
            "UPDATE registry_credential SET sealed = ?2 WHERE name = ?1",
            params![stored.credential.name.as_str(), content],
        )?,
        Sealed::Secret(stored) => sql.execute(
            "UPDATE configuration SET content = ?2 WHERE kind = 'secret' AND name = ?1",
            params![stored.configuration.name.as_str(), content],
        )?,
    };
    Ok(())
}
