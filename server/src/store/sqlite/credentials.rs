//! Registry credentials: reads and writes.

use longshore_model::assignment::ImageAccess;
use longshore_model::limits::MAX_REGISTRY_CREDENTIALS;
use longshore_model::name::CredentialName;
use longshore_model::registry::{self, RegistryCredential, Scope};
use longshore_model::spec::AppSpec;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::batch::Batch;
use super::pages::{self, Source};
use super::rows;
use crate::store::sorting::{NameKey, Query};
use crate::store::{Page, StoreError, StoredCredential, Terms};

const COLUMNS: &str = "name, registry, username, ca_pem, sealed, create_time, update_time, version";

fn credential(row: &Row<'_>) -> rusqlite::Result<StoredCredential> {
    let registry = row.get_ref(1)?.as_str()?;
    Ok(StoredCredential {
        credential: RegistryCredential {
            name: rows::name(row, 0)?,
            registry: Scope::parse(registry).map_err(|error| rows::unreadable(1, error))?,
            username: row.get(2)?,
            ca_certificate_pem: row.get(3)?,
            create_time: rows::time(row, 5)?,
            update_time: rows::time(row, 6)?,
            version: rows::unsigned(row, 7)?,
        },
        sealed: row.get(4)?,
    })
}

fn missing(name: &CredentialName) -> StoreError {
    StoreError::NotFound { kind: "registry credential", name: name.to_string() }
}

pub(super) fn one(sql: &Connection, name: &CredentialName) -> Result<StoredCredential, StoreError> {
    sql.prepare_cached(&format!("SELECT {COLUMNS} FROM registry_credential WHERE name = ?1"))?
        .query_row([name.as_str()], credential)
        .optional()?
        .ok_or_else(|| missing(name))
}

pub(super) fn many(sql: &Connection, query: &Query<NameKey>) -> Result<Page<StoredCredential>, StoreError> {
    let select = format!("SELECT {COLUMNS} FROM registry_credential");
    pages::page(sql, Source::all(&select), query, credential)
}

impl Batch<'_> {
    /// Keeps a new credential.
    pub(super) fn create_credential(
        &mut self,
        new: &StoredCredential,
        terms: &Terms,
    ) -> Result<RegistryCredential, StoreError> {
        let StoredCredential { credential, sealed } = new;
        let name = credential.name.as_str();
        if self.sql.prepare_cached("SELECT 1 FROM registry_credential WHERE name = ?1")?.exists([name])? {
            return Err(StoreError::AlreadyExists { kind: "registry credential", name: name.to_owned() });
        }
        let count: i64 = self.sql.query_row("SELECT count(*) FROM registry_credential", [], |row| row.get(0))?;
        if usize::try_from(count).is_ok_and(|count| count >= MAX_REGISTRY_CREDENTIALS) {
            return Err(StoreError::TooMany {
                kind: "registry credential",
                limit: u32::try_from(MAX_REGISTRY_CREDENTIALS).unwrap_or(u32::MAX),
            });
        }
        if terms.validate_only {
            return Ok(credential.clone());
        }
        self.credentials = None;
        self.sql
            .prepare_cached(&format!(
                "INSERT INTO registry_credential ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
            ))?
            .execute(params![
                name,
                credential.registry.to_string(),
                credential.username,
                credential.ca_certificate_pem,
                sealed,
                rows::micros(credential.create_time),
                rows::micros(credential.update_time),
                rows::signed(credential.version),
            ])?;
        Ok(credential.clone())
    }

    /// Puts a changed credential in the place of the version that it was made from.
    pub(super) fn replace_credential(
        &mut self,
        new: &StoredCredential,
        seen: u64,
        terms: &Terms,
    ) -> Result<RegistryCredential, StoreError> {
        let StoredCredential { credential, sealed } = new;
        let current = one(self.sql, &credential.name)?.credential;
        if (current.version, current.create_time) != (seen, credential.create_time) {
            return Err(StoreError::Changed { kind: "registry credential", name: credential.name.to_string() });
        }
        if terms.validate_only {
            return Ok(credential.clone());
        }
        self.credentials = None;
        self.sql
            .prepare_cached(
                "UPDATE registry_credential SET registry = ?2, username = ?3, ca_pem = ?4, sealed = ?5, \
                 update_time = ?6, version = ?7 WHERE name = ?1",
            )?
            .execute(params![
                credential.name.as_str(),
                credential.registry.to_string(),
                credential.username,
                credential.ca_certificate_pem,
                sealed,
                rows::micros(credential.update_time),
                rows::signed(credential.version),
            ])?;
        Ok(credential.clone())
    }

    /// Deletes a credential.
    pub(super) fn delete_credential(&mut self, name: &CredentialName, terms: &Terms) -> Result<(), StoreError> {
        terms.admit(&one(self.sql, name)?.credential.etag(), "registry credential", name.as_str())?;
        if !terms.validate_only {
            self.credentials = None;
            self.sql.prepare_cached("DELETE FROM registry_credential WHERE name = ?1")?.execute([name.as_str()])?;
        }
        Ok(())
    }

    /// Whether the image of one of a job's specs is read with a credential, as things are now.
    pub(super) fn image_access(&mut self, spec: &AppSpec) -> Result<ImageAccess, StoreError> {
        if self.credentials.is_none() {
            let all = many(self.sql, &Query::first(MAX_REGISTRY_CREDENTIALS))?.items;
            self.credentials = Some(all.into_iter().map(|stored| stored.credential).collect());
        }
        let all = self.credentials.iter().flatten().collect();
        Ok(registry::access(&spec.image, all, |credential| credential))
    }
}
