//! Forgets jobs that nobody needs any more.

use jiff::Timestamp;
use longshore_model::name::JobId;
use rusqlite::params;

use super::batch::Batch;
use super::rows;
use crate::store::StoreError;

/// Tasks that one write forgets, or those of one job where it has more: some 50 ms in which nothing else is written.
const MAX_TASKS: u32 = 10_000;
/// Jobs that one write forgets.
const MAX_JOBS: u32 = 500;

/// Final, ended by a moment, without an app that runs its spec, did so before the last update, or is being removed by
/// it, and no request about it can come again. The counts say that it is final; a retry that has begun has no end.
const FORGETTABLE: &str = "SELECT key, id, succeeded + failed + timed_out FROM job \
     WHERE end_time IS NOT NULL AND end_time <= ?1 AND pending + active + cancelled = 0 \
     AND NOT EXISTS (SELECT 1 FROM app WHERE app.name = job.app \
     AND (app.job = job.key OR app.remover = job.id OR app.previous_job = job.id)) \
     AND NOT EXISTS (SELECT 1 FROM request WHERE request.job = job.key) \
     ORDER BY end_time LIMIT ?2";

impl Batch<'_> {
    /// Forgets some jobs that ended by `ended` and that no app needs; returns how many.
    pub(super) fn forget_jobs(&mut self, ended: Timestamp, now: Timestamp) -> Result<usize, StoreError> {
        self.write_rows()?;
        self.purge_requests(now)?;
        let found: Vec<(i64, JobId, u32)> = self
            .sql
            .prepare_cached(FORGETTABLE)?
            .query_map(params![rows::micros(ended), MAX_JOBS], |row| {
                Ok((row.get(0)?, rows::name(row, 1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut tasks = 0_u32;
        let mut count = 0;
        for (key, id, its_tasks) in found {
            tasks = tasks.saturating_add(its_tasks);
            if count > 0 && tasks > MAX_TASKS {
                break;
            }
            for table in [
                "DELETE FROM task WHERE job = ?1",
                "DELETE FROM job_spec WHERE job = ?1",
                "DELETE FROM job WHERE key = ?1",
            ] {
                self.sql.prepare_cached(table)?.execute([key])?;
            }
            self.forget_job(&id);
            count += 1;
        }
        Ok(count)
    }
}
