//! Templates and their aliases: reads and writes.

use longshore_model::limits::{MAX_TEMPLATE_ALIASES, MAX_TEMPLATE_VARIANTS, MAX_TEMPLATES};
use longshore_model::name::TemplateName;
use longshore_model::template::{Template, TemplateKey};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::batch::Batch;
use super::pages::{self, Source};
use super::rows;
use crate::store::sorting::{Query, TemplateSort};
use crate::store::{AliasChange, AliasChanged, Page, StoreError, StoredTemplate, Terms};

/// Without the spec. The aliases are those of the version, whatever the architecture.
const COLUMNS: &str = "name, version, architecture, description, tags, creator, create_time, \
    (SELECT json_group_array(alias) FROM (SELECT alias FROM template_alias AS a \
     WHERE a.name = template.name AND a.version = template.version ORDER BY alias))";

fn template(row: &Row<'_>) -> rusqlite::Result<Template> {
    Ok(Template {
        key: TemplateKey { name: rows::name(row, 0)?, version: row.get(1)?, architecture: row.get(2)? },
        description: row.get(3)?,
        tags: rows::json(row, 4)?,
        creator: row.get(5)?,
        create_time: rows::time(row, 6)?,
        aliases: rows::json(row, 7)?,
    })
}

fn with_spec(row: &Row<'_>) -> rusqlite::Result<StoredTemplate> {
    Ok(StoredTemplate { template: template(row)?, spec: row.get::<_, Vec<u8>>(8)?.into() })
}

fn missing(key: &TemplateKey) -> StoreError {
    StoreError::NotFound { kind: "template", name: key.to_string() }
}

fn no_alias(name: &TemplateName, alias: &TemplateName) -> StoreError {
    StoreError::NotFound { kind: "template alias", name: format!("{name} {alias}") }
}

/// One version for one architecture.
pub(super) fn one(sql: &Connection, key: &TemplateKey) -> Result<StoredTemplate, StoreError> {
    let condition = "name = ?1 AND version = ?2 AND architecture = ?3";
    sql.prepare_cached(&format!("SELECT {COLUMNS}, spec FROM template WHERE {condition}"))?
        .query_row([key.name.as_str(), &key.version, &key.architecture], with_spec)
        .optional()?
        .ok_or_else(|| missing(key))
}

/// All variants of a version, by architecture.
pub(super) fn variants(
    sql: &Connection,
    name: &TemplateName,
    version: &str,
) -> Result<Vec<StoredTemplate>, StoreError> {
    let condition = "name = ?1 AND version = ?2 ORDER BY architecture";
    let found = sql
        .prepare_cached(&format!("SELECT {COLUMNS}, spec FROM template WHERE {condition}"))?
        .query_map([name.as_str(), version], with_spec)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

/// The version that an alias stands for.
pub(super) fn alias(sql: &Connection, name: &TemplateName, alias: &TemplateName) -> Result<String, StoreError> {
    sql.prepare_cached("SELECT version FROM template_alias WHERE name = ?1 AND alias = ?2")?
        .query_row([name.as_str(), alias.as_str()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| no_alias(name, alias))
}

pub(super) fn many(sql: &Connection, query: &Query<TemplateSort>) -> Result<Page<Template>, StoreError> {
    pages::page(sql, Source::all(&format!("SELECT {COLUMNS} FROM template")), query, template)
}

/// A count that is at its limit already.
fn check_room(kind: &'static str, count: i64, limit: usize) -> Result<(), StoreError> {
    if usize::try_from(count).is_ok_and(|count| count >= limit) {
        return Err(StoreError::TooMany { kind, limit: u32::try_from(limit).unwrap_or(u32::MAX) });
    }
    Ok(())
}

impl Batch<'_> {
    /// Keeps a new version, or a variant of one.
    pub(super) fn create_template(&mut self, new: &StoredTemplate, terms: &Terms) -> Result<Template, StoreError> {
        let Template { key, description, tags, creator, create_time, .. } = &new.template;
        let others = variants(self.sql, &key.name, &key.version)?;
        if others.iter().any(|other| other.template.key == *key) {
            return Err(StoreError::AlreadyExists { kind: "template", name: key.to_string() });
        }
        let variants = i64::try_from(others.len()).unwrap_or(i64::MAX);
        check_room("variant of a template's version", variants, MAX_TEMPLATE_VARIANTS)?;
        let count: i64 = self.sql.query_row("SELECT count(*) FROM template", [], |row| row.get(0))?;
        check_room("template", count, MAX_TEMPLATES)?;
        if !terms.validate_only {
            self.sql
                .prepare_cached(
                    "INSERT INTO template (name, version, architecture, description, tags, creator, create_time, spec) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    key.name.as_str(),
                    key.version,
                    key.architecture,
                    description,
                    rows::to_json(tags)?,
                    creator,
                    rows::micros(*create_time),
                    new.spec.as_ref(),
                ])?;
        }
        let aliases = others.into_iter().next().map(|other| other.template.aliases).unwrap_or_default();
        Ok(Template { aliases, ..new.template.clone() })
    }

    /// Deletes one variant of a version.
    pub(super) fn delete_template(&mut self, key: &TemplateKey, terms: &Terms) -> Result<(), StoreError> {
        let found = one(self.sql, key)?.template;
        terms.admit(&found.etag(), "template", &key.to_string())?;
        let is_last = variants(self.sql, &key.name, &key.version)?.len() == 1;
        if let Some(alias) = found.aliases.first().filter(|_| is_last) {
            return Err(StoreError::TemplateAliased { key: key.clone(), alias: alias.clone() });
        }
        if !terms.validate_only {
            self.sql
                .prepare_cached("DELETE FROM template WHERE name = ?1 AND version = ?2 AND architecture = ?3")?
                .execute([key.name.as_str(), &key.version, &key.architecture])?;
        }
        Ok(())
    }

    /// Moves an alias, or removes it.
    pub(super) fn set_template_alias(
        &mut self,
        change: &AliasChange,
        terms: &Terms,
    ) -> Result<AliasChanged, StoreError> {
        let AliasChange { name, alias: text, version } = change;
        let previous = match alias(self.sql, name, text) {
            Ok(version) => Some(version),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let shown = format!("{name} {text}");
        terms.admit(previous.as_deref().unwrap_or_default(), "template alias", &shown)?;
        let changed = AliasChanged { version: version.clone(), previous: previous.clone() };
        let place = [name.as_str(), text.as_str()];
        match (version, &previous) {
            (None, None) => return Err(no_alias(name, text)),
            (None, Some(_)) if !terms.validate_only => {
                self.sql.prepare_cached("DELETE FROM template_alias WHERE name = ?1 AND alias = ?2")?.execute(place)?;
            }
            (None, Some(_)) => {}
            (Some(version), _) => {
                if variants(self.sql, name, version)?.is_empty() {
                    let key = TemplateKey { name: name.clone(), version: version.clone(), architecture: String::new() };
                    return Err(missing(&key));
                }
                let count: i64 = self.sql.query_row("SELECT count(*) FROM template_alias", [], |row| row.get(0))?;
                if previous.is_none() {
                    check_room("template alias", count, MAX_TEMPLATE_ALIASES)?;
                }
                if !terms.validate_only {
                    self.sql
                        .prepare_cached(
                            "INSERT OR REPLACE INTO template_alias (name, alias, version) VALUES (?1, ?2, ?3)",
                        )?
                        .execute([name.as_str(), text.as_str(), version])?;
                }
            }
        }
        Ok(changed)
    }
}
