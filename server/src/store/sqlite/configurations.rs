//! Config maps and secrets: reads and writes.

use longshore_model::configuration::{Configuration, Kind};
use longshore_model::limits::MAX_CONFIGURATIONS;
use longshore_model::name::ConfigurationName;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::batch::Batch;
use super::pages::{self, Source};
use super::rows;
use crate::store::sorting::{NameKey, Query};
use crate::store::{Page, StoreError, StoredConfiguration, Terms};

const COLUMNS: &str = "kind, name, keys, create_time, update_time, version";

fn configuration(row: &Row<'_>) -> rusqlite::Result<Configuration> {
    let kind = match row.get_ref(0)?.as_str()? {
        kind if kind == Kind::ConfigMap.as_str() => Kind::ConfigMap,
        _ => Kind::Secret,
    };
    Ok(Configuration {
        kind,
        name: rows::name(row, 1)?,
        keys: rows::json(row, 2)?,
        create_time: rows::time(row, 3)?,
        update_time: rows::time(row, 4)?,
        version: rows::unsigned(row, 5)?,
    })
}

// The kinds stand as words here: docs/errors.md is held against the reasons that the source gives.
fn missing(kind: Kind, name: &ConfigurationName) -> StoreError {
    let name = name.to_string();
    match kind {
        Kind::ConfigMap => StoreError::NotFound { kind: "config map", name },
        Kind::Secret => StoreError::NotFound { kind: "secret", name },
    }
}

fn exists(kind: Kind, name: &ConfigurationName) -> StoreError {
    let name = name.to_string();
    match kind {
        Kind::ConfigMap => StoreError::AlreadyExists { kind: "config map", name },
        Kind::Secret => StoreError::AlreadyExists { kind: "secret", name },
    }
}

/// One with its content.
pub(super) fn one(sql: &Connection, kind: Kind, name: &ConfigurationName) -> Result<StoredConfiguration, StoreError> {
    sql.prepare_cached(&format!("SELECT {COLUMNS}, content FROM configuration WHERE kind = ?1 AND name = ?2"))?
        .query_row([kind.as_str(), name.as_str()], |row| {
            Ok(StoredConfiguration { configuration: configuration(row)?, content: row.get(6)? })
        })
        .optional()?
        .ok_or_else(|| missing(kind, name))
}

/// One without its content.
pub(super) fn known(sql: &Connection, kind: Kind, name: &ConfigurationName) -> Result<Configuration, StoreError> {
    sql.prepare_cached(&format!("SELECT {COLUMNS} FROM configuration WHERE kind = ?1 AND name = ?2"))?
        .query_row([kind.as_str(), name.as_str()], configuration)
        .optional()?
        .ok_or_else(|| missing(kind, name))
}

pub(super) fn many(sql: &Connection, kind: Kind, query: &Query<NameKey>) -> Result<Page<Configuration>, StoreError> {
    let select = format!("SELECT {COLUMNS} FROM configuration");
    let source = Source::all(&select).and("kind = ?", kind.as_str().to_owned());
    pages::page(sql, source, query, configuration)
}

impl Batch<'_> {
    /// Keeps a new config map or secret.
    pub(super) fn create_configuration(
        &mut self,
        new: &StoredConfiguration,
        terms: &Terms,
    ) -> Result<Configuration, StoreError> {
        let Configuration { kind, name, .. } = &new.configuration;
        match known(self.sql, *kind, name) {
            Ok(_) => return Err(exists(*kind, name)),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let count = "SELECT count(*) FROM configuration WHERE kind = ?1";
        let count: i64 = self.sql.query_row(count, [kind.as_str()], |row| row.get(0))?;
        if usize::try_from(count).is_ok_and(|count| count >= MAX_CONFIGURATIONS) {
            let limit = u32::try_from(MAX_CONFIGURATIONS).unwrap_or(u32::MAX);
            return Err(StoreError::TooMany { kind: kind.as_str(), limit });
        }
        if !terms.validate_only {
            self.sql
                .prepare_cached(&format!(
                    "INSERT INTO configuration ({COLUMNS}, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                ))?
                .execute(params![
                    kind.as_str(),
                    name.as_str(),
                    rows::to_json(&new.configuration.keys)?,
                    rows::micros(new.configuration.create_time),
                    rows::micros(new.configuration.update_time),
                    rows::signed(new.configuration.version),
                    new.content,
                ])?;
        }
        Ok(new.configuration.clone())
    }

    /// Puts a changed one in the place of the version that it was made from.
    pub(super) fn replace_configuration(
        &mut self,
        new: &StoredConfiguration,
        seen: u64,
        terms: &Terms,
    ) -> Result<Configuration, StoreError> {
        let Configuration { kind, name, create_time, .. } = &new.configuration;
        let current = known(self.sql, *kind, name)?;
        if (current.version, current.create_time) != (seen, *create_time) {
            return Err(StoreError::Changed { kind: kind.as_str(), name: name.to_string() });
        }
        if !terms.validate_only {
            self.sql
                .prepare_cached(
                    "UPDATE configuration SET keys = ?3, update_time = ?4, version = ?5, content = ?6 \
                     WHERE kind = ?1 AND name = ?2",
                )?
                .execute(params![
                    kind.as_str(),
                    name.as_str(),
                    rows::to_json(&new.configuration.keys)?,
                    rows::micros(new.configuration.update_time),
                    rows::signed(new.configuration.version),
                    new.content,
                ])?;
        }
        Ok(new.configuration.clone())
    }

    /// Deletes one.
    pub(super) fn delete_configuration(
        &mut self,
        kind: Kind,
        name: &ConfigurationName,
        terms: &Terms,
    ) -> Result<(), StoreError> {
        terms.admit(&known(self.sql, kind, name)?.etag(), kind.as_str(), name.as_str())?;
        if !terms.validate_only {
            self.sql
                .prepare_cached("DELETE FROM configuration WHERE kind = ?1 AND name = ?2")?
                .execute([kind.as_str(), name.as_str()])?;
        }
        Ok(())
    }
}
