//! Reads and writes about users.

use jiff::Timestamp;
use longshore_model::identity::Role;
use longshore_model::limits::MAX_USERS;
use longshore_model::user::User;
use rusqlite::{Connection, OptionalExtension, params};

use super::batch::Batch;
use super::pages::{self, Source};
use super::rows;
use crate::store::sorting::{NameKey, Query};
use crate::store::{Change, Page, StoreError, Terms};

const COLUMNS: &str =
    "SELECT name, role, create_time, creator, life, certificate_end, revoke_time, issue_time FROM user";

fn no_user(name: &str) -> StoreError {
    StoreError::NotFound { kind: "user", name: name.to_owned() }
}

fn find(sql: &Connection, name: &str) -> Result<Option<User>, StoreError> {
    let found = sql.prepare_cached(&format!("{COLUMNS} WHERE name = ?1"))?.query_row([name], rows::user).optional()?;
    Ok(found)
}

/// A part of the list of users.
pub(super) fn users(sql: &Connection, query: &Query<NameKey>) -> Result<Page<User>, StoreError> {
    pages::page(sql, Source::all(COLUMNS), query, rows::user)
}

impl Batch<'_> {
    /// Adds a user, also in the place of one who was revoked.
    pub(super) fn create_user(&mut self, user: User, terms: &Terms) -> Result<User, StoreError> {
        let user = match find(self.sql, &user.name)? {
            Some(old) if old.revoke_time.is_some() => old.succeeded_by(user),
            Some(old) => return Err(StoreError::AlreadyExists { kind: "user", name: old.name }),
            None => {
                let count: u32 =
                    self.sql.prepare_cached("SELECT count(*) FROM user")?.query_row([], |row| row.get(0))?;
                if count >= MAX_USERS {
                    return Err(StoreError::TooMany { kind: "user", limit: MAX_USERS });
                }
                user
            }
        };
        if terms.validate_only { Ok(user) } else { self.put_user(user) }
    }

    /// Adds the user unless there is, or was, any.
    pub(super) fn adopt_first_user(&mut self, user: User) -> Result<(), StoreError> {
        if !self.sql.prepare_cached("SELECT 1 FROM user")?.exists([])? {
            self.put_user(user)?;
        }
        Ok(())
    }

    /// Records a further certificate of the user who owns one that was issued at this moment.
    pub(super) fn renew_user(
        &mut self,
        name: &str,
        role: Role,
        issued: Timestamp,
        now: Timestamp,
        authority_end: Timestamp,
    ) -> Result<User, StoreError> {
        let user = find(self.sql, name)?.filter(|user| user.owns(role, issued)).ok_or_else(|| no_user(name))?;
        self.put_user(user.renewed(now, authority_end))
    }

    /// Revokes a user; one who was revoked already stays as they are.
    pub(super) fn revoke_user(&mut self, name: &str, terms: &Terms, now: Timestamp) -> Result<User, StoreError> {
        let user = find(self.sql, name)?.ok_or_else(|| no_user(name))?;
        terms.admit(&user.etag(), "user", name)?;
        if user.revoke_time.is_some() {
            return Ok(user);
        }
        let others = self
            .sql
            .prepare_cached(&format!("{COLUMNS} WHERE name <> ?1 AND role = 'admin' AND revoke_time IS NULL"))?
            .query_map([name], rows::user)?
            .collect::<rusqlite::Result<Vec<User>>>()?;
        if user.is_admin_at(now) && !others.iter().any(|other| other.is_admin_at(now)) {
            return Err(StoreError::LastAdmin(name.to_owned()));
        }
        let user = User { revoke_time: Some(now), ..user };
        if terms.validate_only { Ok(user) } else { self.put_user(user) }
    }

    fn put_user(&mut self, user: User) -> Result<User, StoreError> {
        self.sql
            .prepare_cached(
                "INSERT OR REPLACE INTO user \
                 (name, role, create_time, creator, life, certificate_end, revoke_time, issue_time) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                user.name,
                user.role.as_str(),
                rows::micros(user.create_time),
                user.creator,
                user.life.as_secs(),
                rows::micros(user.certificate_end),
                user.revoke_time.map(rows::micros),
                rows::micros(user.issue_time),
            ])?;
        self.tell_node(Change::User(user.clone()));
        Ok(user)
    }

    /// Forgets the users who were revoked and whose certificates have expired.
    pub(super) fn purge_users(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let mut statement =
            self.sql.prepare_cached("DELETE FROM user WHERE revoke_time IS NOT NULL AND certificate_end <= ?1")?;
        statement.execute([rows::micros(now)])?;
        Ok(())
    }
}
