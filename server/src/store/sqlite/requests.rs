//! Requests that may come again: each is done once, and answered as it was then.

use jiff::Timestamp;
use longshore_model::name::JobId;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::Batch;
use super::rows;
use crate::store::{REQUEST_LIFETIME, RequestKey, StoreError, Terms};

/// Requests of one caller that are remembered: one every nine seconds of the day, and some 20 MB of answers.
pub(in crate::store) const MAX_REQUESTS: u32 = 10_000;

/// What a request led to that has come before.
enum Known {
    /// It was about this job, which is kept for as long.
    Job(JobId),
    /// It was answered with this, in JSON.
    Answer(String),
}

/// What a request led to, if it has come before; a fault of the caller if that was another one.
fn known(sql: &Connection, request: &RequestKey, now: Timestamp) -> Result<Option<Known>, StoreError> {
    let found: Option<([u8; 32], Option<Known>)> = sql
        .prepare_cached(
            "SELECT request.body, request.job, job.id, request.answer FROM request \
             LEFT JOIN job ON job.key = request.job \
             WHERE request.caller = ?1 AND request.id = ?2 AND request.expire_time > ?3",
        )?
        .query_row(params![request.caller, request.id, rows::micros(now)], |row| {
            let known = match row.get::<_, Option<i64>>(1)? {
                Some(_) => Some(Known::Job(rows::name(row, 2)?)),
                None => row.get::<_, Option<String>>(3)?.map(Known::Answer),
            };
            Ok((row.get(0)?, known))
        })
        .optional()?;
    match found {
        Some((body, _)) if body != request.body => Err(StoreError::RequestReused(request.id.clone())),
        found => Ok(found.and_then(|(_, known)| known)),
    }
}

/// The job that a request was about, if it has come before.
pub(super) fn job(sql: &Connection, request: &RequestKey, now: Timestamp) -> Result<Option<JobId>, StoreError> {
    match known(sql, request, now)? {
        Some(Known::Job(id)) => Ok(Some(id)),
        Some(Known::Answer(_)) => Err(StoreError::RequestReused(request.id.clone())),
        None => Ok(None),
    }
}

/// What a request that was not about a job was answered with, if it has come before.
pub(super) fn answer<T: DeserializeOwned>(
    sql: &Connection,
    request: &RequestKey,
    now: Timestamp,
) -> Result<Option<T>, StoreError> {
    match known(sql, request, now)? {
        Some(Known::Answer(text)) => Ok(Some(rows::from_json(&text)?)),
        Some(Known::Job(_)) => Err(StoreError::RequestReused(request.id.clone())),
        None => Ok(None),
    }
}

impl Batch<'_> {
    /// Does what a caller asks for, unless the request has come before: then it is answered as it was, and nothing is done.
    pub(super) fn once<T: Serialize + DeserializeOwned>(
        &mut self,
        terms: &Terms,
        now: Timestamp,
        change: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Some(request) = terms.request.as_ref().filter(|_| !terms.validate_only) else { return change(self) };
        if let Some(answer) = answer(self.sql, request, now)? {
            return Ok(answer);
        }
        self.check_room(request, now)?;
        let answer = change(self)?;
        self.remember(request, None, Some(&rows::to_json(&answer)?), now)?;
        Ok(answer)
    }

    /// The job that a request was about, if it has come before; refuses when it has not, and no more can be remembered.
    pub(super) fn job_of(&self, request: &RequestKey, now: Timestamp) -> Result<Option<JobId>, StoreError> {
        let found = job(self.sql, request, now)?;
        if found.is_none() {
            self.check_room(request, now)?;
        }
        Ok(found)
    }

    /// Remembers a request that was about the job of this key.
    pub(super) fn remember_job(&mut self, request: &RequestKey, key: i64, now: Timestamp) -> Result<(), StoreError> {
        self.remember(request, Some(key), None, now)
    }

    fn check_room(&self, request: &RequestKey, now: Timestamp) -> Result<(), StoreError> {
        let count: u32 = self
            .sql
            .prepare_cached("SELECT count(*) FROM request WHERE caller = ?1 AND expire_time > ?2")?
            .query_row(params![request.caller, rows::micros(now)], |row| row.get(0))?;
        if count < MAX_REQUESTS {
            return Ok(());
        }
        Err(StoreError::TooMany { kind: "remembered request", limit: MAX_REQUESTS })
    }

    /// In place of one of that identifier whose time was over.
    fn remember(
        &mut self,
        request: &RequestKey,
        job: Option<i64>,
        answer: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let expire_time = now.checked_add(REQUEST_LIFETIME).unwrap_or(Timestamp::MAX);
        self.sql
            .prepare_cached(
                "INSERT OR REPLACE INTO request (caller, id, body, job, answer, expire_time) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![request.caller, request.id, request.body, job, answer, rows::micros(expire_time)])?;
        Ok(())
    }

    /// Forgets the requests whose time is over.
    pub(super) fn purge_requests(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let mut statement = self.sql.prepare_cached("DELETE FROM request WHERE expire_time <= ?1")?;
        statement.execute([rows::micros(now)])?;
        Ok(())
    }
}
