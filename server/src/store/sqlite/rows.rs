//! Rows and what they mean.

use std::net::AddrParseError;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_model::admission::{Fingerprint, PendingNode};
use longshore_model::app::{App, AppStatus, Desired, Previous};
use longshore_model::clock::Clock;
use longshore_model::identity::IdentityError;
use longshore_model::job::{Control, Job, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::name::{JobId, NameError, TemplateName};
use longshore_model::node::Node;
use longshore_model::rollout::Rollout;
use longshore_model::spec::AppSpec;
use longshore_model::task::{PullProgress, PullStart, Task, TaskEvent, TaskState};
use longshore_model::template::{TemplateKey, TemplateUse};
use longshore_model::user::User;
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::StoredToken;

// Columns of `job` and of one row of `job_spec`, in the order of `job`. Macros, so that statements are put together at compile time.
macro_rules! job_columns {
    () => {
        "job.key, job.id, job.app, job_spec.model, job.max_parallel, job.timeout, \
     job.control, job.deadline, job.remaining, job.round, job.pending, job.active, job.succeeded, job.failed, \
     job.timed_out, job.cancelled, job.create_time, job.start_time, job.end_time, job.creator, job.version, job_spec.warnings, \
     job.kind, job.absent_after, job.absent, job_spec.template, job_spec.overrides, job_spec.revision"
    };
}
pub(super) use job_columns;

// Columns of `task`, in the order of `task`; the job's identifier is the caller's.
macro_rules! task_columns {
    () => {
        "task.node, task.attempt, task.state, task.cancel_requested, task.pull_done, \
     task.pull_total, task.assign_time, task.update_time, task.end_time, task.failure, task.history, \
     task.version, task.absent_time, task.spec_revision, task.pull_start_time, task.pull_start_done"
    };
}
pub(super) use task_columns;

// Columns of `app` and `job`, in the order of `app`.
macro_rules! app_columns {
    () => {
        "app.node, app.name, job.id, app.attempt, app.revision, app.desired, app.status, \
     app.update_time, app.job, app.remover, \
     app.previous_job, app.previous_attempt, app.previous_revision, app.last_revision, \
     app.spec_revision, app.previous_spec_revision"
    };
}
pub(super) use app_columns;

// Columns of `node`, in the order of `node`.
macro_rules! node_columns {
    () => {
        "name, labels, enroll_time, last_seen, info, certificate_end"
    };
}
pub(super) use node_columns;

/// A moment as it is kept: microseconds since 1970.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// The moment that a number stands for. By way of nanoseconds, since jiff takes no microseconds of its last second.
fn moment(micros: i64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(micros) * 1000).ok()
}

/// A moment with the precision that rows have, so that what is in memory equals what is read back.
pub(super) fn rounded(time: Timestamp) -> Timestamp {
    moment(micros(time)).unwrap_or(time)
}

/// A duration with the precision that moments have.
pub(super) fn rounded_duration(duration: Duration) -> Duration {
    u64::try_from(duration.as_micros()).map_or(duration, Duration::from_micros)
}

/// An unsigned number as SQLite can keep it; nothing that is counted here comes near the end of the range.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A duration as it is kept: nanoseconds, of which the range holds 292 years.
pub(super) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The number that stands for a task's state: its position in [`TaskState::ALL`]. The schema's index says 0 for PENDING.
pub(super) fn state_number(state: TaskState) -> i64 {
    TaskState::ALL.iter().zip(0..).find(|(known, _)| **known == state).map_or(-1, |(_, number)| number)
}

/// The number that stands for what was asked of a job.
pub(super) fn control_number(control: Control) -> i64 {
    match control {
        Control::Run => 0,
        Control::Stop => 1,
    }
}

/// The number that stands for a kind of job.
pub(super) fn kind_number(kind: JobKind) -> i64 {
    match kind {
        JobKind::Deploy => 0,
        JobKind::Update => 1,
        JobKind::Remove => 2,
        JobKind::Pull => 3,
    }
}

/// The number that stands for whether an app belongs on its node.
pub(super) fn desired_number(desired: Desired) -> i64 {
    match desired {
        Desired::Present => 0,
        Desired::Removing => 1,
    }
}

/// A value as JSON text.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// What [`to_json`] wrote.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(0, error))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| unreadable(column, error))
}

fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    match row.get_ref(column)?.as_str_or_null()? {
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| unreadable(column, error)),
        None => Ok(None),
    }
}

/// A name or identifier.
pub(super) fn name<T: std::str::FromStr<Err = NameError>>(row: &Row<'_>, column: usize) -> Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| unreadable(column, error))
}

fn optional_name<T: std::str::FromStr<Err = NameError>>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(str::parse).transpose().map_err(|error| unreadable(column, error))
}

fn out_of_range(column: usize, number: i64) -> Error {
    Error::IntegralValueOutOfRange(column, number)
}

/// A number that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| out_of_range(column, number))
}

/// A moment.
pub(super) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    let number: i64 = row.get(column)?;
    moment(number).ok_or_else(|| out_of_range(column, number))
}

/// A moment that may not have come.
pub(super) fn optional_time(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(number) => moment(number).map(Some).ok_or_else(|| out_of_range(column, number)),
        None => Ok(None),
    }
}

fn duration(row: &Row<'_>, column: usize) -> Result<Duration> {
    unsigned(row, column).map(Duration::from_nanos)
}

/// A task's state.
pub(super) fn state(row: &Row<'_>, column: usize) -> Result<TaskState> {
    let number: i64 = row.get(column)?;
    let position = usize::try_from(number).map_err(|_| out_of_range(column, number))?;
    TaskState::ALL.get(position).copied().ok_or_else(|| out_of_range(column, number))
}

/// What stands for a request to stop.
pub(super) fn control(row: &Row<'_>, column: usize) -> Result<Control> {
    match row.get(column)? {
        0 => Ok(Control::Run),
        1 => Ok(Control::Stop),
        other => Err(out_of_range(column, other)),
    }
}

/// A kind of job.
pub(super) fn kind(row: &Row<'_>, column: usize) -> Result<JobKind> {
    let number: i64 = row.get(column)?;
    let known = JobKind::ALL.into_iter().find(|kind| kind_number(*kind) == number);
    known.ok_or_else(|| out_of_range(column, number))
}

fn desired(row: &Row<'_>, column: usize) -> Result<Desired> {
    match row.get(column)? {
        0 => Ok(Desired::Present),
        1 => Ok(Desired::Removing),
        other => Err(out_of_range(column, other)),
    }
}

fn clock(row: &Row<'_>, deadline: usize, remaining: usize) -> Result<Clock> {
    if let Some(deadline) = optional_time(row, deadline)? {
        return Ok(Clock::Running(deadline));
    }
    match row.get::<_, Option<i64>>(remaining)? {
        Some(_) => duration(row, remaining).map(Clock::Paused),
        None => Ok(Clock::Over),
    }
}

/// How a job is paced.
pub(super) fn rollout(row: &Row<'_>, max_parallel: usize, absent_after: usize) -> Result<Rollout> {
    Ok(Rollout { max_parallel: row.get(max_parallel)?, absent_after: duration(row, absent_after)? })
}

/// A job and its key.
pub(super) fn job(row: &Row<'_>) -> Result<(i64, Job)> {
    let spec: AppSpec = json(row, 3)?;
    let job = Job {
        id: name(row, 1)?,
        kind: kind(row, 22)?,
        app: name(row, 2)?,
        spec: Arc::new(spec),
        spec_revision: row.get(27)?,
        rollout: rollout(row, 4, 23)?,
        timeout: duration(row, 5)?,
        control: control(row, 6)?,
        clock: clock(row, 7, 8)?,
        round: row.get(9)?,
        counts: TaskCounts {
            pending: row.get(10)?,
            active: row.get(11)?,
            absent: row.get(24)?,
            succeeded: row.get(12)?,
            failed: row.get(13)?,
            timed_out: row.get(14)?,
            cancelled: row.get(15)?,
        },
        create_time: time(row, 16)?,
        start_time: optional_time(row, 17)?,
        end_time: optional_time(row, 18)?,
        creator: row.get(19)?,
        version: unsigned(row, 20)?,
        warnings: json(row, 21)?,
        template: template(row, 25, 26)?,
    };
    Ok((row.get(0)?, job))
}

/// What a job was made of, in the columns for which, and for what it said otherwise.
fn template(row: &Row<'_>, which: usize, overrides: usize) -> Result<Option<TemplateUse>> {
    let Some(Which { key, alias }) = optional_json(row, which)? else { return Ok(None) };
    let overrides = row.get::<_, Option<Vec<u8>>>(overrides)?.unwrap_or_default();
    Ok(Some(TemplateUse { key, alias, overrides }))
}

/// A template and how it was asked for, as it is kept.
#[derive(Serialize, Deserialize)]
struct Which {
    key: TemplateKey,
    alias: Option<TemplateName>,
}

/// The JSON of which template a job was made of.
pub(super) fn which_template(used: &TemplateUse) -> Result<String> {
    to_json(&Which { key: used.key.clone(), alias: used.alias.clone() })
}

/// A task of the job with this identifier.
pub(super) fn task(row: &Row<'_>, job: &JobId) -> Result<Task> {
    let pull = match row.get::<_, Option<i64>>(4)? {
        Some(_) => Some(PullProgress { done: unsigned(row, 4)?, total: unsigned(row, 5)? }),
        None => None,
    };
    let pull_start = match optional_time(row, 14)? {
        Some(time) => Some(PullStart { time, done: unsigned(row, 15)? }),
        None => None,
    };
    Ok(Task {
        job: job.clone(),
        node: name(row, 0)?,
        attempt: row.get(1)?,
        spec_revision: row.get(13)?,
        state: state(row, 2)?,
        pull,
        pull_start,
        failure: optional_json(row, 9)?,
        cancel_requested: row.get(3)?,
        absent_time: optional_time(row, 12)?,
        assign_time: optional_time(row, 6)?,
        update_time: time(row, 7)?,
        end_time: optional_time(row, 8)?,
        version: unsigned(row, 11)?,
        history: optional_json::<Vec<TaskEvent>>(row, 10)?.unwrap_or_default(),
    })
}

/// An app and the key of its job.
pub(super) fn app(row: &Row<'_>) -> Result<(App, i64)> {
    let status: AppStatus = json(row, 6)?;
    let previous = match optional_name(row, 10)? {
        Some(job) => {
            let (attempt, revision) = (row.get(11)?, unsigned(row, 12)?);
            Some(Previous { job, spec_revision: row.get(15)?, attempt, revision })
        }
        None => None,
    };
    let app = App {
        node: name(row, 0)?,
        name: name(row, 1)?,
        job: name(row, 2)?,
        spec_revision: row.get(14)?,
        attempt: row.get(3)?,
        revision: unsigned(row, 4)?,
        desired: desired(row, 5)?,
        remover: optional_name(row, 9)?,
        previous,
        last_revision: unsigned(row, 13)?,
        status,
        update_time: time(row, 7)?,
    };
    Ok((app, row.get(8)?))
}

/// A node.
pub(super) fn node(row: &Row<'_>) -> Result<Node> {
    Ok(Node {
        name: name(row, 0)?,
        labels: json(row, 1)?,
        enroll_time: time(row, 2)?,
        last_seen: optional_time(row, 3)?,
        info: optional_json(row, 4)?,
        certificate_end: optional_time(row, 5)?,
    })
}

// Columns of `token`, in the order of `token`.
macro_rules! token_columns {
    () => {
        "id, secret_hash, expire_time, labels, node, create_time, creator, uses, uses_left, requires_approval"
    };
}
pub(super) use token_columns;

// Columns of `admission`, in the order of `pending`.
macro_rules! pending_columns {
    () => {
        "name, key, address, token, labels, create_time, expire_time"
    };
}
pub(super) use pending_columns;

/// A machine that waits.
pub(super) fn pending(row: &Row<'_>) -> Result<PendingNode> {
    Ok(PendingNode {
        name: name(row, 0)?,
        key: Fingerprint(row.get(1)?),
        address: row.get_ref(2)?.as_str()?.parse().map_err(|error: AddrParseError| unreadable(2, error))?,
        token: row.get(3)?,
        labels: json(row, 4)?,
        create_time: time(row, 5)?,
        expire_time: time(row, 6)?,
    })
}

/// A user.
pub(super) fn user(row: &Row<'_>) -> Result<User> {
    let role = row.get_ref(1)?.as_str()?.parse().map_err(|error: IdentityError| unreadable(1, error))?;
    Ok(User {
        name: row.get(0)?,
        role,
        create_time: time(row, 2)?,
        creator: row.get(3)?,
        life: SignedDuration::from_secs(row.get(4)?),
        certificate_end: time(row, 5)?,
        revoke_time: optional_time(row, 6)?,
        issue_time: time(row, 7)?,
    })
}

/// A token.
pub(super) fn token(row: &Row<'_>) -> Result<StoredToken> {
    Ok(StoredToken {
        id: row.get(0)?,
        secret_hash: row.get(1)?,
        expire_time: time(row, 2)?,
        labels: json(row, 3)?,
        node: optional_name(row, 4)?,
        create_time: time(row, 5)?,
        creator: row.get(6)?,
        uses: row.get(7)?,
        uses_left: row.get(8)?,
        requires_approval: row.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_can_be_kept() {
        for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            assert_eq!(moment(micros(time)), Some(rounded(time)));
        }
        let fine = Timestamp::from_nanosecond(1_800_000_000_123_456_789).unwrap_or(Timestamp::MAX);
        assert_eq!(rounded(fine).as_nanosecond(), 1_800_000_000_123_456_000);
    }

    #[test]
    fn numbers_of_states_never_change_in_a_stored_database() {
        let numbers = TaskState::ALL.map(|state| (state.as_str(), state_number(state)));
        let expected = [
            ("PENDING", 0),
            ("ASSIGNED", 1),
            ("CHECKING", 2),
            ("PULLING", 3),
            ("CREATING", 4),
            ("STARTING", 5),
            ("SETTLING", 6),
            ("SUCCEEDED", 7),
            ("FAILED", 8),
            ("TIMED_OUT", 9),
            ("CANCELLED", 10),
        ];
        assert_eq!(numbers, expected);
    }
}
