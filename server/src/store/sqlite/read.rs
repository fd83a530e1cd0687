//! Reads, on connections of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use longshore_model::admission::PendingNode;
use longshore_model::app::App;
use longshore_model::job::{Job, TaskCounts};
use longshore_model::kind::JobKind;
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::node::Node;
use longshore_model::task::Task;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::Semaphore;

use super::pages::{self, Source};
use super::{no_app, no_job, no_node, no_spec, requests, rows, schema};
use crate::store::sorting::{AppKey, JobKey, NameKey, NodeKey, Query, TaskKey, TokenKey};
use crate::store::{Page, RequestKey, Seen, StoreError, StoredToken};

/// Reads that run at once: each holds a blocking thread and a connection with its page cache of 2 MB.
const READERS: usize = 4;
/// Reads that run or wait: beyond this the server is not keeping up, and saying so is better than a longer wait.
pub(super) const MAX_READS: usize = 1024;
/// Look-ups of calling nodes that run or wait, beside those reads: one for each connection that a process has descriptors
/// for. A fleet that comes back at one moment waits its turn here; refused, it would shake hands once more for each try.
const MAX_LOOK_UPS: usize = 20_000;

/// A few connections that only read.
pub(super) struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Semaphore,
    look_ups: Semaphore,
    turns: Arc<Semaphore>,
}

impl Readers {
    /// Connections are opened when they are first needed.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: Arc::new(path.to_owned()),
            idle: Arc::new(Mutex::new(Vec::new())),
            places: Semaphore::new(MAX_READS),
            look_ups: Semaphore::new(MAX_LOOK_UPS),
            turns: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Runs a query on a blocking thread, in one transaction: everything that it sees is of one moment.
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.read_among(&self.places, query).await
    }

    /// As [`Readers::read`], for what a node's call must know before it is let in.
    pub(super) async fn look_up<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.read_among(&self.look_ups, query).await
    }

    async fn read_among<T, F>(&self, places: &Semaphore, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let _place = places.try_acquire().map_err(|_| StoreError::Busy)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (path, idle) = (self.path.clone(), self.idle.clone());
        let task = tokio::task::spawn_blocking(move || {
            // Held until the connection is back, also when the caller has gone away.
            let _turn = turn;
            let free = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match free {
                Some(connection) => connection,
                None => schema::open_reader(&path)?,
            };
            let transaction = connection.transaction()?;
            let answer = query(&transaction);
            transaction.finish()?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            answer
        });
        task.await.map_err(|error| StoreError::Database(Box::new(error)))?
    }
}

pub(super) fn ping(sql: &Connection) -> Result<(), StoreError> {
    sql.query_row("SELECT count(*) FROM (SELECT 1 FROM job LIMIT 1)", [], |_| Ok(()))?;
    Ok(())
}

fn job_and_key(sql: &Connection, id: &JobId) -> Result<(i64, Job), StoreError> {
    sql.prepare_cached(concat!(
        "SELECT ",
        rows::job_columns!(),
        " FROM job JOIN job_spec ON job_spec.job = job.key AND job_spec.revision = job.spec_revision WHERE job.id = ?1"
    ))?
    .query_row([id.as_str()], rows::job)
    .optional()?
    .ok_or_else(|| no_job(id))
}

pub(super) fn job(sql: &Connection, id: &JobId) -> Result<Arc<Job>, StoreError> {
    job_and_key(sql, id).map(|(_, job)| Arc::new(job))
}

/// A job with one of its specs, in place of the newest.
pub(super) fn job_with_spec(sql: &Connection, id: &JobId, revision: u32) -> Result<Job, StoreError> {
    sql.prepare_cached(concat!(
        "SELECT ",
        rows::job_columns!(),
        " FROM job JOIN job_spec ON job_spec.job = job.key WHERE job.id = ?1 AND job_spec.revision = ?2"
    ))?
    .query_row(params![id.as_str(), revision], |row| rows::job(row).map(|(_, job)| job))
    .optional()?
    .ok_or_else(|| no_spec(id, revision))
}

pub(super) fn created(sql: &Connection, request: &RequestKey, now: Timestamp) -> Result<Option<Arc<Job>>, StoreError> {
    let Some(id) = requests::job(sql, request, now)? else { return Ok(None) };
    job_with_spec(sql, &id, 1).map(|job| Some(Arc::new(job.as_created())))
}

/// Refuses when a job has a task open for the app on one of the nodes, or is about to assign one; `ignored` names jobs that
/// are in nobody's way. A job that is stopped is in nobody's way either: the others are held against it when it is resumed.
pub(super) fn check_not_busy(
    sql: &Connection,
    app: &AppName,
    nodes: &[NodeName],
    ignored: impl Fn(&JobId, JobKind) -> bool,
) -> Result<(), StoreError> {
    // The first condition is that of the index of unfinished jobs, word for word.
    let jobs: Vec<(i64, JobId, JobKind)> = sql
        .prepare_cached(
            "SELECT key, id, kind FROM job WHERE pending + active + cancelled > 0 AND (control = 0 OR active > 0) \
             AND app = ?1 ORDER BY id",
        )?
        .query_map([app.as_str()], |row| Ok((row.get(0)?, rows::name(row, 1)?, rows::kind(row, 2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut open = sql.prepare_cached(
        "SELECT 1 FROM task JOIN job ON job.key = task.job WHERE task.job = ?1 AND task.node = ?2 \
         AND (task.state BETWEEN 1 AND 6 OR task.state = 0 AND job.control = 0)",
    )?;
    for (key, job, _) in jobs.into_iter().filter(|(_, id, kind)| !ignored(id, *kind)) {
        for node in nodes {
            if open.exists(params![key, node.as_str()])? {
                return Err(StoreError::AppBusy { app: app.clone(), job, node: node.clone() });
            }
        }
    }
    Ok(())
}

pub(super) fn jobs(sql: &Connection, query: &Query<JobKey>) -> Result<Page<Arc<Job>>, StoreError> {
    // The keys alone first: where rows have to be sorted, no specs are carried about.
    let source = Source::all("SELECT job.key FROM job");
    let Page { items: keys, more } = pages::page(sql, source, query, |row| row.get::<_, i64>(0))?;
    let mut statement = sql.prepare_cached(concat!(
        "SELECT ",
        rows::job_columns!(),
        " FROM job JOIN job_spec ON job_spec.job = job.key AND job_spec.revision = job.spec_revision WHERE job.key = ?1"
    ))?;
    let mut items = Vec::with_capacity(keys.len());
    for key in keys {
        items.push(statement.query_row([key], |row| rows::job(row).map(|(_, job)| Arc::new(job)))?);
    }
    Ok(Page { items, more })
}

pub(super) fn tasks(sql: &Connection, id: &JobId, query: &Query<TaskKey>) -> Result<Page<Task>, StoreError> {
    let key: Option<i64> = sql
        .prepare_cached("SELECT key FROM job WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let key = key.ok_or_else(|| no_job(id))?;
    pages::page(sql, tasks_of(key), query, |row| rows::task(row, id))
}

pub(super) fn tasks_of(key: i64) -> Source<'static> {
    Source::all(concat!("SELECT ", rows::task_columns!(), " FROM task")).and("task.job = ?", key)
}

pub(super) fn job_with_tasks(sql: &Connection, id: &JobId, seen: &Seen) -> Result<(Arc<Job>, Vec<Task>), StoreError> {
    let (key, job) = job_and_key(sql, id)?;
    // Walks the job's tasks by its key: no index on what every report changes.
    let tasks = sql
        .prepare_cached(concat!(
            "SELECT ",
            rows::task_columns!(),
            " FROM task WHERE job = ?1 AND (version, node) > (?2, ?3) ORDER BY node"
        ))?
        .query_map(params![key, rows::signed(seen.version), seen.node], |row| rows::task(row, id))?
        .collect::<rusqlite::Result<_>>()?;
    Ok((Arc::new(job), tasks))
}

pub(super) fn epoch(sql: &Connection) -> rusqlite::Result<i64> {
    sql.query_row("SELECT epoch FROM history", [], |row| row.get(0))
}

/// Walks open jobs, oldest first, and their pending tasks alone.
pub(super) fn assignable(
    sql: &Connection,
    connected: &(dyn Fn(&NodeName) -> bool + Send + Sync),
    limit: usize,
) -> Result<Vec<(JobId, NodeName)>, StoreError> {
    let mut picks = Vec::new();
    // The conditions repeat those of the partial indexes word for word, or these would not be used.
    let mut jobs = sql.prepare_cached(
        "SELECT key, id, max_parallel, absent_after, pending, active, absent FROM job \
         WHERE control = 0 AND pending > 0 ORDER BY id",
    )?;
    let mut pending = sql.prepare_cached("SELECT node FROM task WHERE job = ?1 AND state = 0 ORDER BY node")?;
    let mut jobs = jobs.query([])?;
    while let Some(job) = jobs.next()? {
        if picks.len() >= limit {
            break;
        }
        let (key, id): (i64, JobId) = (job.get(0)?, rows::name(job, 1)?);
        let counts =
            TaskCounts { pending: job.get(4)?, active: job.get(5)?, absent: job.get(6)?, ..TaskCounts::default() };
        let room = rows::rollout(job, 2, 3)?.room(&counts);
        let most = picks.len().saturating_add(usize::try_from(room).unwrap_or(usize::MAX)).min(limit);
        let mut nodes = pending.query([key])?;
        while picks.len() < most {
            let Some(row) = nodes.next()? else { break };
            let node: NodeName = rows::name(row, 0)?;
            if connected(&node) {
                picks.push((id.clone(), node));
            }
        }
    }
    Ok(picks)
}

pub(super) fn node(sql: &Connection, name: &NodeName) -> Result<Node, StoreError> {
    sql.prepare_cached(concat!("SELECT ", rows::node_columns!(), " FROM node WHERE name = ?1"))?
        .query_row([name.as_str()], rows::node)
        .optional()?
        .ok_or_else(|| no_node(name))
}

pub(super) fn nodes(sql: &Connection, query: &Query<NodeKey>) -> Result<Page<Node>, StoreError> {
    let source = Source::all(concat!("SELECT ", rows::node_columns!(), " FROM node"));
    pages::page(sql, source, query, rows::node)
}

pub(super) fn tokens(
    sql: &Connection,
    query: &Query<TokenKey>,
    now: Timestamp,
) -> Result<Page<StoredToken>, StoreError> {
    pages::page(sql, tokens_at(now), query, rows::token)
}

/// Tokens that can still be used.
pub(super) fn tokens_at(now: Timestamp) -> Source<'static> {
    let source = Source::all(concat!("SELECT ", rows::token_columns!(), " FROM token"));
    // Without the sign an index by this column would be used, and every page sorted anew.
    source.and("+expire_time > ?", rows::micros(now))
}

pub(super) fn pending(
    sql: &Connection,
    query: &Query<NameKey>,
    now: Timestamp,
) -> Result<Page<PendingNode>, StoreError> {
    let source = Source::all(concat!("SELECT ", rows::pending_columns!(), " FROM admission"));
    let source = source.and("state = ?", 0).and("+expire_time > ?", rows::micros(now));
    pages::page(sql, source, query, rows::pending)
}

pub(super) fn apps(
    sql: &Connection,
    node: Option<&NodeName>,
    app: Option<&AppName>,
    query: &Query<AppKey>,
) -> Result<Page<App>, StoreError> {
    pages::page(sql, apps_of(node, app), query, |row| rows::app(row).map(|(app, _)| app))
}

pub(super) fn apps_of(node: Option<&NodeName>, app: Option<&AppName>) -> Source<'static> {
    let mut source = Source::all(concat!("SELECT ", rows::app_columns!(), " FROM app JOIN job ON job.key = app.job"));
    if let Some(node) = node {
        source = source.and("app.node = ?", node.to_string());
    }
    if let Some(app) = app {
        source = source.and("app.name = ?", app.to_string());
    }
    source
}

pub(super) fn app(sql: &Connection, node: &NodeName, name: &AppName) -> Result<App, StoreError> {
    sql.prepare_cached(concat!(
        "SELECT ",
        rows::app_columns!(),
        " FROM app JOIN job ON job.key = app.job WHERE app.name = ?1 AND app.node = ?2"
    ))?
    .query_row([name.as_str(), node.as_str()], |row| rows::app(row).map(|(app, _)| app))
    .optional()?
    .ok_or_else(|| no_app(name))
}
