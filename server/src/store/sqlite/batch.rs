//! One transaction's worth of work: rows are loaded once, changed in memory, and written once before the commit.
//!
//! That is how reports coalesce: however many reports of a task come in one batch, its row is written once, and none of
//! them, above all no terminal one, is skipped by the rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use longshore_model::app::App;
use longshore_model::job::{Control, Job};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::registry::RegistryCredential;
use longshore_model::spec::AppSpec;
use longshore_model::task::Task;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use crate::store::{Change, StoreError};

/// Jobs kept in memory between batches: more than are open at once on most days, and with specs of the largest size
/// still only 128 MiB.
const MAX_CACHED_JOBS: usize = 256;

/// A job in memory.
pub(super) struct JobEntry {
    /// Its key in the database.
    pub(super) key: i64,
    /// Its newest state, this batch's changes included.
    pub(super) job: Arc<Job>,
    /// Its newest spec, encoded.
    pub(super) spec: Bytes,
    /// What the call is called that created it, or last retried or resumed it.
    pub(super) cause: Option<Arc<str>>,
    /// Tasks that this batch has loaded.
    tasks: BTreeMap<NodeName, TaskEntry>,
    /// Earlier specs that this batch has loaded.
    earlier: BTreeMap<u32, Edition>,
}

/// One of the specs of a job.
#[derive(Clone)]
pub(super) struct Edition {
    /// The spec.
    pub(super) spec: Arc<AppSpec>,
    /// As it is sent to agents.
    pub(super) encoded: Bytes,
}

struct TaskEntry {
    task: Task,
    changed: bool,
}

/// Jobs kept in memory from batch to batch, without their tasks.
#[derive(Default)]
pub(super) struct JobCache(HashMap<JobId, JobEntry>);

impl JobCache {
    /// Forgets everything: the next use reads the database.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// An app and the key of its job.
#[derive(Clone)]
pub(super) struct AppRow {
    /// The app.
    pub(super) app: App,
    /// Key of its job.
    pub(super) job_key: i64,
}

/// One transaction's worth of work.
pub(super) struct Batch<'b> {
    /// The transaction.
    pub(super) sql: &'b Connection,
    jobs: &'b mut JobCache,
    /// Jobs that this batch has used; they stay in memory.
    used: BTreeSet<JobId>,
    apps: HashMap<(AppName, NodeName), Option<AppRow>>,
    unwritten_tasks: BTreeSet<(JobId, NodeName)>,
    unwritten_apps: BTreeSet<(AppName, NodeName)>,
    unwritten_jobs: BTreeSet<JobId>,
    changed_jobs: BTreeSet<JobId>,
    node_changes: Vec<Change>,
    assignable: bool,
    /// Registry credentials, once this batch has asked for them.
    pub(super) credentials: Option<Vec<RegistryCredential>>,
}

impl<'b> Batch<'b> {
    /// An empty one.
    pub(super) fn new(sql: &'b Connection, jobs: &'b mut JobCache) -> Self {
        Self {
            sql,
            jobs,
            used: BTreeSet::new(),
            apps: HashMap::new(),
            unwritten_tasks: BTreeSet::new(),
            unwritten_apps: BTreeSet::new(),
            unwritten_jobs: BTreeSet::new(),
            changed_jobs: BTreeSet::new(),
            node_changes: Vec::new(),
            assignable: false,
            credentials: None,
        }
    }

    /// A job.
    ///
    /// # Errors
    ///
    /// There is none of this identifier, or the database fails.
    pub(super) fn job(&mut self, id: &JobId) -> Result<&mut JobEntry, StoreError> {
        if !self.jobs.0.contains_key(id) {
            let loaded = self
                .sql
                .prepare_cached(concat!(
                    "SELECT ",
                    rows::job_columns!(),
                    ", job_spec.encoded, job_spec.cause FROM job JOIN job_spec \
                     ON job_spec.job = job.key AND job_spec.revision = job.spec_revision WHERE job.id = ?1"
                ))?
                .query_row([id.as_str()], |row| {
                    Ok((rows::job(row)?, row.get::<_, Vec<u8>>(28)?, row.get::<_, Option<String>>(29)?))
                })
                .optional()?;
            if let Some(((key, job), spec, cause)) = loaded {
                self.add_job(key, Arc::new(job), spec.into(), cause.map(Arc::from));
            }
        }
        let entry = self.jobs.0.get_mut(id).ok_or_else(|| super::no_job(id))?;
        self.used.insert(id.clone());
        Ok(entry)
    }

    /// Takes over a job whose row has been written.
    pub(super) fn add_job(&mut self, key: i64, job: Arc<Job>, spec: Bytes, cause: Option<Arc<str>>) {
        self.used.insert(job.id.clone());
        let entry = JobEntry { key, job, spec, cause, tasks: BTreeMap::new(), earlier: BTreeMap::new() };
        self.jobs.0.insert(entry.job.id.clone(), entry);
    }

    /// One of a job's specs: nearly always the newest, which is in memory.
    pub(super) fn edition(&mut self, id: &JobId, revision: u32) -> Result<Edition, StoreError> {
        let sql = self.sql;
        let entry = self.job(id)?;
        if entry.job.spec_revision == revision {
            return Ok(Edition { spec: Arc::clone(&entry.job.spec), encoded: entry.spec.clone() });
        }
        if let Some(known) = entry.earlier.get(&revision) {
            return Ok(known.clone());
        }
        let found = sql
            .prepare_cached("SELECT model, encoded FROM job_spec WHERE job = ?1 AND revision = ?2")?
            .query_row(params![entry.key, revision], |row| Ok((rows::json(row, 0)?, row.get::<_, Vec<u8>>(1)?)))
            .optional()?;
        let (spec, encoded) = found.ok_or_else(|| super::no_spec(id, revision))?;
        let edition = Edition { spec: Arc::new(spec), encoded: encoded.into() };
        entry.earlier.insert(revision, edition.clone());
        Ok(edition)
    }

    /// Drops what is in memory of a job whose rows were deleted.
    pub(super) fn forget_job(&mut self, id: &JobId) {
        self.jobs.0.remove(id);
        self.changed_jobs.remove(id);
    }

    /// A job's task with its job, for the machine to change both; `None` when there is no such job or task.
    ///
    /// Whoever changes them says so by [`Batch::task_changed`].
    pub(super) fn task(&mut self, id: &JobId, node: &NodeName) -> Result<Option<(&mut Job, &mut Task)>, StoreError> {
        let sql = self.sql;
        let entry = match self.job(id) {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        if !entry.tasks.contains_key(node) {
            let loaded = sql
                .prepare_cached(concat!("SELECT ", rows::task_columns!(), " FROM task WHERE job = ?1 AND node = ?2"))?
                .query_row(params![entry.key, node.as_str()], |row| rows::task(row, id))
                .optional()?;
            if let Some(task) = loaded {
                entry.tasks.insert(node.clone(), TaskEntry { task, changed: false });
            }
        }
        let JobEntry { job, tasks, .. } = entry;
        Ok(tasks.get_mut(node).map(|entry| (Arc::make_mut(job), &mut entry.task)))
    }

    /// Notes that a task that was taken from [`Batch::task`] changed, and its job with it.
    pub(super) fn task_changed(&mut self, id: &JobId, node: &NodeName) {
        if let Some(entry) = self.jobs.0.get_mut(id).and_then(|job| job.tasks.get_mut(node)) {
            entry.changed = true;
            self.unwritten_tasks.insert((id.clone(), node.clone()));
        }
        self.job_changed(id);
    }

    /// Takes over a changed task that came from [`Batch::tasks`].
    pub(super) fn replace_task(&mut self, id: &JobId, task: Task) {
        let node = task.node.clone();
        if let Some(entry) = self.jobs.0.get_mut(id) {
            entry.tasks.insert(node.clone(), TaskEntry { task, changed: true });
            self.unwritten_tasks.insert((id.clone(), node));
        }
        self.job_changed(id);
    }

    /// Tells watchers of a task that has been written already.
    pub(super) fn task_added(&mut self, id: &JobId, task: Task) {
        if let Some(entry) = self.jobs.0.get_mut(id) {
            entry.tasks.insert(task.node.clone(), TaskEntry { task, changed: true });
        }
    }

    /// Notes that a job changed.
    pub(super) fn job_changed(&mut self, id: &JobId) {
        self.unwritten_jobs.insert(id.clone());
        self.changed_jobs.insert(id.clone());
    }

    /// Tasks of a job in some states, `filter` being SQL on `state`, as they are now.
    pub(super) fn tasks(&mut self, id: &JobId, filter: &str) -> Result<Vec<Task>, StoreError> {
        self.write_tasks()?;
        let key = self.job(id)?.key;
        let text = format!(concat!("SELECT ", rows::task_columns!(), " FROM task WHERE job = ?1 AND {}"), filter);
        let mut statement = self.sql.prepare_cached(&text)?;
        let tasks = statement.query_map([key], |row| rows::task(row, id))?.collect::<rusqlite::Result<_>>()?;
        Ok(tasks)
    }

    /// An app on a node, to be changed in place.
    ///
    /// Whoever changes it says so by [`Batch::app_changed`].
    pub(super) fn app(&mut self, name: &AppName, node: &NodeName) -> Result<&mut Option<AppRow>, StoreError> {
        let key = (name.clone(), node.clone());
        match self.apps.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let loaded = self
                    .sql
                    .prepare_cached(concat!(
                        "SELECT ",
                        rows::app_columns!(),
                        " FROM app JOIN job ON job.key = app.job WHERE app.name = ?1 AND app.node = ?2"
                    ))?
                    .query_row([name.as_str(), node.as_str()], rows::app)
                    .optional()?
                    .map(|(app, job_key)| AppRow { app, job_key });
                Ok(entry.insert(loaded))
            }
        }
    }

    /// Notes that an app changed, came or went.
    pub(super) fn app_changed(&mut self, name: &AppName, node: &NodeName) {
        self.unwritten_apps.insert((name.clone(), node.clone()));
    }

    /// Notes something that concerns a node's session.
    pub(super) fn tell_node(&mut self, change: Change) {
        self.node_changes.push(change);
    }

    /// Notes that something may have become assignable.
    pub(super) fn tell_assignable(&mut self) {
        self.assignable = true;
    }

    /// Notes it when a job of which tasks had taken so many places has a free one now that it can use.
    pub(super) fn tell_free_slot(&mut self, id: &JobId, occupied_before: u32) {
        let Some(entry) = self.jobs.0.get(id) else { return };
        let job = &entry.job;
        let was_paced = job.rollout.max_parallel > 0 && job.counts.occupied() < occupied_before;
        if was_paced && job.control == Control::Run && job.rollout.room(&job.counts) > 0 {
            self.assignable = true;
        }
    }

    /// Whether a node is enrolled.
    pub(super) fn node_exists(&self, node: &NodeName) -> Result<bool, StoreError> {
        Ok(self.sql.prepare_cached("SELECT 1 FROM node WHERE name = ?1")?.exists([node.as_str()])?)
    }

    /// Writes what is only in memory, so that a query over many rows sees it.
    pub(super) fn write_rows(&mut self) -> rusqlite::Result<()> {
        self.write_tasks()?;
        self.write_apps()?;
        self.write_jobs()
    }

    fn write_tasks(&mut self) -> rusqlite::Result<()> {
        if self.unwritten_tasks.is_empty() {
            return Ok(());
        }
        let mut statement = self.sql.prepare_cached(
            "UPDATE task SET attempt = ?3, state = ?4, cancel_requested = ?5, pull_done = ?6, pull_total = ?7, \
             assign_time = ?8, update_time = ?9, end_time = ?10, failure = ?11, history = ?12, \
             version = ?13, absent_time = ?14, spec_revision = ?15, pull_start_time = ?16, pull_start_done = ?17 \
             WHERE job = ?1 AND node = ?2",
        )?;
        for (id, node) in std::mem::take(&mut self.unwritten_tasks) {
            let Some(entry) = self.jobs.0.get(&id) else { continue };
            let Some(TaskEntry { task, .. }) = entry.tasks.get(&node) else { continue };
            statement.execute(params![
                entry.key,
                node.as_str(),
                task.attempt,
                rows::state_number(task.state),
                task.cancel_requested,
                task.pull.map(|pull| rows::signed(pull.done)),
                task.pull.map(|pull| rows::signed(pull.total)),
                task.assign_time.map(rows::micros),
                rows::micros(task.update_time),
                task.end_time.map(rows::micros),
                task.failure.as_ref().map(rows::to_json).transpose()?,
                (!task.history.is_empty()).then(|| rows::to_json(&task.history)).transpose()?,
                rows::signed(task.version),
                task.absent_time.map(rows::micros),
                task.spec_revision,
                task.pull_start.map(|start| rows::micros(start.time)),
                task.pull_start.map(|start| rows::signed(start.done)),
            ])?;
        }
        Ok(())
    }

    fn write_apps(&mut self) -> rusqlite::Result<()> {
        if self.unwritten_apps.is_empty() {
            return Ok(());
        }
        let mut put = self.sql.prepare_cached(
            "INSERT INTO app (name, node, job, attempt, revision, desired, status, update_time, remover, \
             previous_job, previous_attempt, previous_revision, last_revision, spec_revision, previous_spec_revision) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
             ON CONFLICT DO UPDATE SET job = excluded.job, attempt = excluded.attempt, revision = excluded.revision, \
             desired = excluded.desired, status = excluded.status, update_time = excluded.update_time, \
             remover = excluded.remover, previous_job = excluded.previous_job, \
             previous_attempt = excluded.previous_attempt, previous_revision = excluded.previous_revision, \
             last_revision = excluded.last_revision, spec_revision = excluded.spec_revision, \
             previous_spec_revision = excluded.previous_spec_revision",
        )?;
        let mut delete = self.sql.prepare_cached("DELETE FROM app WHERE name = ?1 AND node = ?2")?;
        for key in std::mem::take(&mut self.unwritten_apps) {
            let (name, node) = &key;
            match self.apps.get(&key) {
                Some(Some(AppRow { app, job_key })) => put.execute(params![
                    name.as_str(),
                    node.as_str(),
                    job_key,
                    app.attempt,
                    rows::signed(app.revision),
                    rows::desired_number(app.desired),
                    rows::to_json(&app.status)?,
                    rows::micros(app.update_time),
                    app.remover.as_ref().map(JobId::as_str),
                    app.previous.as_ref().map(|previous| previous.job.as_str()),
                    app.previous.as_ref().map(|previous| previous.attempt),
                    app.previous.as_ref().map(|previous| rows::signed(previous.revision)),
                    rows::signed(app.last_revision),
                    app.spec_revision,
                    app.previous.as_ref().map(|previous| previous.spec_revision),
                ])?,
                Some(None) => delete.execute([name.as_str(), node.as_str()])?,
                None => 0,
            };
        }
        Ok(())
    }

    fn write_jobs(&mut self) -> rusqlite::Result<()> {
        for id in std::mem::take(&mut self.unwritten_jobs) {
            let Some(JobEntry { key, job, .. }) = self.jobs.0.get(&id) else { continue };
            let remaining = match job.clock {
                longshore_model::clock::Clock::Paused(remaining) => Some(rows::nanos(remaining)),
                _ => None,
            };
            self.sql
                .prepare_cached(
                    "UPDATE job SET control = ?2, deadline = ?3, remaining = ?4, round = ?5, start_time = ?6, \
                     end_time = ?7, version = ?8, pending = ?9, active = ?10, succeeded = ?11, failed = ?12, \
                     timed_out = ?13, cancelled = ?14, absent = ?15, spec_revision = ?16 WHERE key = ?1",
                )?
                .execute(params![
                    key,
                    rows::control_number(job.control),
                    job.clock.deadline().map(rows::micros),
                    remaining,
                    job.round,
                    job.start_time.map(rows::micros),
                    job.end_time.map(rows::micros),
                    rows::signed(job.version),
                    job.counts.pending,
                    job.counts.active,
                    job.counts.succeeded,
                    job.counts.failed,
                    job.counts.timed_out,
                    job.counts.cancelled,
                    job.counts.absent,
                    job.spec_revision,
                ])?;
        }
        Ok(())
    }

    /// Writes everything and returns what the observer is told once it is committed: jobs first, so that watchers know
    /// of an assignment before its node can act on it, then nodes in the order of the operations.
    pub(super) fn finish(mut self) -> rusqlite::Result<Vec<Change>> {
        self.write_rows()?;
        let mut changes = Vec::with_capacity(self.changed_jobs.len() + self.node_changes.len() + 1);
        for id in &self.used {
            let Some(entry) = self.jobs.0.get_mut(id) else { continue };
            let tasks = std::mem::take(&mut entry.tasks);
            entry.earlier.clear();
            if self.changed_jobs.contains(id) {
                let tasks = tasks.into_values().filter(|entry| entry.changed).map(|entry| entry.task).collect();
                changes.push(Change::Job { job: entry.job.clone(), tasks });
            }
        }
        changes.append(&mut self.node_changes);
        if self.assignable {
            changes.push(Change::Assignable);
        }
        if self.jobs.0.len() > MAX_CACHED_JOBS {
            let used = &self.used;
            self.jobs.0.retain(|id, _| used.contains(id));
        }
        Ok(changes)
    }
}
