//! How much there is.

use longshore_model::job::{JobState, TaskCounts, fold};
use rusqlite::Connection;

use super::rows;
use crate::store::{Census, StoreError};

/// Counts jobs and tasks by state, and nodes.
pub(super) fn census(sql: &Connection) -> Result<Census, StoreError> {
    let mut jobs = JobState::ALL.map(|state| (state, 0));
    let mut tasks = ["PENDING", "ACTIVE", "SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED"].map(|kind| (kind, 0));
    let mut statement = sql.prepare_cached(
        "SELECT control, start_time IS NOT NULL, pending, active, succeeded, failed, timed_out, cancelled, absent FROM job",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let counts = TaskCounts {
            pending: row.get(2)?,
            active: row.get(3)?,
            succeeded: row.get(4)?,
            failed: row.get(5)?,
            timed_out: row.get(6)?,
            cancelled: row.get(7)?,
            absent: row.get(8)?,
        };
        let state = fold(&counts, rows::control(row, 0)?, row.get(1)?);
        jobs.iter_mut().filter(|(other, _)| *other == state).for_each(|(_, count)| *count += 1);
        let TaskCounts { pending, active, absent: _, succeeded, failed, timed_out, cancelled } = counts;
        let counts = [pending, active, succeeded, failed, timed_out, cancelled];
        tasks.iter_mut().zip(counts).for_each(|((_, all), count)| *all += u64::from(count));
    }
    let nodes: i64 = sql.prepare_cached("SELECT count(*) FROM node")?.query_row([], |row| row.get(0))?;
    Ok(Census { jobs: jobs.to_vec(), tasks: tasks.to_vec(), nodes: nodes.unsigned_abs() })
}
