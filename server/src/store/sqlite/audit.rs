//! Reads and writes about the audit log.

use jiff::Timestamp;
use longshore_model::audit::{AuditEntry, Deed, Head};
use longshore_model::limits::MAX_AUDIT_ENTRIES;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::batch::Batch;
use super::pages::{self, Source};
use super::rows;
use crate::store::sorting::{AuditKey, Query};
use crate::store::{AuditPage, StoreError};

const COLUMNS: &str = "SELECT number, time, caller, key_fingerprint, address, method, target, validate_only, code, reason, \
     request_id, hash FROM deed";
/// Entries that one write forgets: some 50 ms in which nothing else is written.
const MAX_FORGOTTEN: u32 = 10_000;

fn read_head(row: &Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head { number: rows::unsigned(row, 0)?, hash: row.get(1)? })
}

/// What the oldest entry follows.
fn base(sql: &Connection) -> Result<Head, StoreError> {
    Ok(sql.prepare_cached("SELECT number, hash FROM deed_base")?.query_row([], read_head)?)
}

/// The newest entry, or where it was when none is left.
fn head(sql: &Connection) -> Result<Head, StoreError> {
    let newest = sql
        .prepare_cached("SELECT number, hash FROM deed ORDER BY number DESC LIMIT 1")?
        .query_row([], read_head)
        .optional()?;
    newest.map_or_else(|| base(sql), Ok)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let deed = Deed {
        time: rows::time(row, 1)?,
        caller: row.get(2)?,
        key_fingerprint: row.get(3)?,
        address: row.get(4)?,
        method: row.get(5)?,
        target: row.get(6)?,
        validate_only: row.get(7)?,
        code: row.get(8)?,
        reason: row.get(9)?,
        request_id: row.get(10)?,
    };
    Ok(AuditEntry { number: rows::unsigned(row, 0)?, deed, hash: row.get(11)? })
}

/// A part of the log.
pub(super) fn log(sql: &Connection, query: &Query<AuditKey>) -> Result<AuditPage, StoreError> {
    let page = pages::page(sql, Source::all(COLUMNS), query, entry)?;
    Ok(AuditPage { page, base: base(sql)?, head: head(sql)? })
}

impl Batch<'_> {
    /// Puts a deed at the end of the log.
    pub(super) fn record(&mut self, deed: Deed) -> Result<AuditEntry, StoreError> {
        let entry = head(self.sql)?.seal(deed);
        let AuditEntry { number, deed, hash } = &entry;
        self.sql
            .prepare_cached(
                "INSERT INTO deed (number, time, caller, key_fingerprint, address, method, target, validate_only, code, \
                 reason, request_id, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                rows::signed(*number),
                rows::micros(deed.time),
                deed.caller,
                deed.key_fingerprint,
                deed.address,
                deed.method,
                deed.target,
                deed.validate_only,
                deed.code,
                deed.reason,
                deed.request_id,
                hash,
            ])?;
        Ok(entry)
    }

    /// Forgets some of the oldest entries: those from before a moment, and those of which there are too many.
    pub(super) fn forget_deeds(&mut self, before: Timestamp) -> Result<usize, StoreError> {
        let enough = head(self.sql)?.number.saturating_sub(MAX_AUDIT_ENTRIES);
        let before = rows::micros(before);
        let mut count = 0;
        let mut last = None;
        let mut statement = self.sql.prepare_cached("SELECT number, hash, time FROM deed ORDER BY number LIMIT ?1")?;
        let mut rows = statement.query([MAX_FORGOTTEN])?;
        while let Some(row) = rows.next()? {
            let (entry, time): (Head, i64) = (read_head(row)?, row.get(2)?);
            if time >= before && entry.number > enough {
                break;
            }
            last = Some(entry);
            count += 1;
        }
        if let Some(last) = last {
            self.sql
                .prepare_cached("UPDATE deed_base SET number = ?1, hash = ?2")?
                .execute(params![rows::signed(last.number), last.hash])?;
            self.sql.prepare_cached("DELETE FROM deed WHERE number <= ?1")?.execute([rows::signed(last.number)])?;
        }
        Ok(count)
    }
}
