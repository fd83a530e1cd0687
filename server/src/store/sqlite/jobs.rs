//! Writes about jobs: creation, requests, assignment, deadlines.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::clock::Clock;
use longshore_model::job::Job;
use longshore_model::kind::JobKind;
use longshore_model::limits::MAX_JOB_SPECS;
use longshore_model::machine::{self, AppEffect, Changed};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::preflight::{self, Refusal};
use longshore_model::task::{Task, TaskState};
use rusqlite::params;

use super::batch::{Batch, JobEntry};
use super::{no_node, read, rows};
use crate::store::{Chosen, JobRequest, NewJob, NewSpec, StoreError, Terms};

/// SQL for the kinds of tasks that a request looks at; the numbers are those of [`rows::state_number`].
const ACTIVE: &str = "state BETWEEN 1 AND 6";
const OPEN: &str = "state <= 6";
const PENDING_OR_CANCELLED: &str = "state IN (0, 10)";
const NOT_SUCCEEDED: &str = "state <> 7";

impl Batch<'_> {
    /// Stores a job and its tasks.
    pub(super) fn create_job(&mut self, new: NewJob) -> Result<Arc<Job>, StoreError> {
        let NewJob { mut job, spec, mut nodes, request, cause } = new;
        if let Some(request) = &request
            && let Some(id) = self.job_of(request, job.create_time)?
        {
            // By way of this batch's own rows: it may have been created a moment ago.
            return self.as_created(&id).map(Arc::new);
        }
        if self.sql.prepare_cached("SELECT 1 FROM job WHERE id = ?1")?.exists([job.id.as_str()])? {
            return Err(StoreError::AlreadyExists { kind: "job", name: job.id.to_string() });
        }
        nodes.sort_unstable();
        for node in &nodes {
            // One that was deleted since the targets were resolved.
            if !self.node_exists(node)? {
                return Err(no_node(node));
            }
        }
        if job.kind.needs_app() {
            self.write_rows()?;
            read::check_not_busy(self.sql, &job.app, &nodes, |_, _| false)?;
        }
        job.create_time = rows::rounded(job.create_time);
        job.timeout = rows::rounded_duration(job.timeout);
        job.rollout.absent_after = rows::rounded_duration(job.rollout.absent_after);
        if let Clock::Running(deadline) = job.clock {
            job.clock = Clock::Running(rows::rounded(deadline));
        }
        let job = Arc::new(job);
        let key = self.insert_job(&job, &spec, cause.as_deref())?;
        if let Some(request) = &request {
            self.remember_job(request, key, job.create_time)?;
        }
        self.add_job(key, job.clone(), spec, cause.map(Arc::from));
        let mut insert = self.sql.prepare_cached(
            "INSERT INTO task (job, node, attempt, state, cancel_requested, update_time, version) \
             VALUES (?1, ?2, 1, 0, 0, ?3, ?4)",
        )?;
        for node in nodes {
            insert.execute(params![key, node.as_str(), rows::micros(job.create_time), rows::signed(job.version)])?;
            let task = Task {
                job: job.id.clone(),
                node,
                attempt: 1,
                spec_revision: 1,
                state: TaskState::Pending,
                pull: None,
                pull_start: None,
                failure: None,
                cancel_requested: false,
                absent_time: None,
                assign_time: None,
                update_time: job.create_time,
                end_time: None,
                version: job.version,
                history: Vec::new(),
            };
            self.task_added(&job.id, task);
        }
        self.job_changed(&job.id);
        self.tell_assignable();
        Ok(job)
    }

    fn as_created(&mut self, id: &JobId) -> Result<Job, StoreError> {
        let job = &self.job(id)?.job;
        let (created, is_amended) = (job.as_created(), job.spec_revision > 1);
        if !is_amended {
            return Ok(created);
        }
        let Job { spec, warnings, template, .. } = read::job_with_spec(self.sql, id, 1)?;
        Ok(Job { spec, warnings, template, ..created })
    }

    fn insert_job(&mut self, job: &Arc<Job>, spec: &[u8], cause: Option<&str>) -> Result<i64, StoreError> {
        self.sql
            .prepare_cached(
                "INSERT INTO job (id, app, spec_name, max_parallel, timeout, create_time, creator, kind, absent_after, \
                 control, round, version, pending, active, succeeded, failed, timed_out, cancelled) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 1, 0, 0, 0, 0, 0, 0, 0)",
            )?
            .execute(params![
                job.id.as_str(),
                job.app.as_str(),
                job.spec.name,
                job.rollout.max_parallel,
                rows::nanos(job.timeout),
                rows::micros(job.create_time),
                job.creator,
                rows::kind_number(job.kind),
                rows::nanos(job.rollout.absent_after),
            ])?;
        let key = self.sql.last_insert_rowid();
        self.insert_spec(key, job, spec, cause)?;
        Ok(key)
    }

    /// Keeps the newest spec of a job.
    fn insert_spec(&mut self, key: i64, job: &Job, encoded: &[u8], cause: Option<&str>) -> Result<(), StoreError> {
        self.sql
            .prepare_cached(
                "INSERT INTO job_spec (job, revision, model, encoded, cause, template, overrides, warnings) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                key,
                job.spec_revision,
                rows::to_json(&job.spec)?,
                encoded,
                cause,
                job.template.as_ref().map(rows::which_template).transpose()?,
                job.template.as_ref().map(|used| &used.overrides),
                rows::to_json(&job.warnings)?,
            ])?;
        Ok(())
    }

    /// Which spec of a job goes for another one, where it has as many as it may: the oldest that nothing is made of but,
    /// maybe, the tasks that are not among the `left` ones. The first stays: a creation that comes again is answered with it.
    fn spec_to_forget(&mut self, id: &JobId, left: &BTreeSet<u32>) -> Result<Option<u32>, StoreError> {
        let JobEntry { key, ref job, .. } = *self.job(id)?;
        let app = job.app.clone();
        let known: Vec<u32> = self
            .sql
            .prepare_cached("SELECT revision FROM job_spec WHERE job = ?1 ORDER BY revision")?
            .query_map([key], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if known.len() < MAX_JOB_SPECS {
            return Ok(None);
        }
        self.write_rows()?;
        let used: BTreeSet<u32> = self
            .sql
            .prepare_cached(
                "SELECT spec_revision FROM task WHERE job = ?1 AND state = 7 \
                 UNION SELECT spec_revision FROM app WHERE name = ?2 AND job = ?1 \
                 UNION SELECT previous_spec_revision FROM app WHERE name = ?2 AND previous_job = ?3",
            )?
            .query_map(params![key, app.as_str(), id.as_str()], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let is_free = |revision: &u32| *revision > 1 && !used.contains(revision) && !left.contains(revision);
        let limit = u32::try_from(MAX_JOB_SPECS).unwrap_or(u32::MAX);
        let free = known.into_iter().find(is_free);
        free.map(Some).ok_or(StoreError::TooMany { kind: "spec of one job", limit })
    }

    /// Notes who has begun what is to be assigned now, and keeps the spec that they brought, in the place of one that is to be
    /// forgotten, if one is.
    fn begin_round(
        &mut self,
        id: &JobId,
        brought: Option<&NewSpec>,
        forgotten: Option<u32>,
        terms: &Terms,
    ) -> Result<(), StoreError> {
        self.tell_assignable();
        let cause = terms.cause.as_deref();
        let entry = self.job(id)?;
        entry.cause = cause.map(Arc::from);
        let (key, job) = (entry.key, Arc::clone(&entry.job));
        let Some(NewSpec { encoded, .. }) = brought else {
            let mut tell =
                self.sql.prepare_cached("UPDATE job_spec SET cause = ?3 WHERE job = ?1 AND revision = ?2")?;
            tell.execute(params![key, job.spec_revision, cause])?;
            return Ok(());
        };
        entry.spec = encoded.clone();
        if let Some(revision) = forgotten {
            let mut forget = self.sql.prepare_cached("DELETE FROM job_spec WHERE job = ?1 AND revision = ?2")?;
            forget.execute(params![key, revision])?;
        }
        self.insert_spec(key, &job, encoded, cause)
    }

    /// Stops, resumes or retries a job.
    pub(super) fn request(
        &mut self,
        id: &JobId,
        request: JobRequest,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<Arc<Job>, StoreError> {
        if let Some(known) = &terms.request
            && let Some(id) = self.job_of(known, now)?
        {
            return Ok(self.job(&id)?.job.clone());
        }
        terms.admit(&self.job(id)?.job.etag(), "job", id.as_str())?;
        let (asked, filter) = match &request {
            JobRequest::Stop { cancel_in_flight: true } => (machine::Request::Cancel, Some(ACTIVE)),
            JobRequest::Stop { cancel_in_flight: false } => (machine::Request::Stop, None),
            JobRequest::Resume => (machine::Request::Resume, Some(PENDING_OR_CANCELLED)),
            JobRequest::Retry | JobRequest::RetryOf(_) | JobRequest::RetryWith { .. } => {
                (machine::Request::Retry, Some(NOT_SUCCEEDED))
            }
        };
        let mut tasks = filter.map_or_else(|| Ok(Vec::new()), |filter| self.tasks(id, filter))?;
        let is_allowed = asked.is_allowed_in(self.job(id)?.job.state());
        let mut left = BTreeSet::new();
        if let Some(Chosen(is_chosen)) = request.chosen().filter(|_| is_allowed) {
            tasks.retain(|task| {
                let is_meant = is_chosen(task);
                left.extend((!is_meant).then_some(task.spec_revision));
                is_meant
            });
            if tasks.is_empty() {
                return Err(StoreError::NoneChosen);
            }
        }
        let forgotten = match request.spec().filter(|_| is_allowed) {
            Some(_) => self.spec_to_forget(id, &left)?,
            None => None,
        };
        let mut existing = HashSet::new();
        if !matches!(request, JobRequest::Stop { .. }) {
            let app = self.job(id)?.job.app.clone();
            if is_allowed {
                let nodes: Vec<NodeName> = tasks.iter().map(|task| task.node.clone()).collect();
                self.write_rows()?;
                read::check_not_busy(self.sql, &app, &nodes, |other, _| other == id)?;
            }
            for task in &tasks {
                if self.node_exists(&task.node)? {
                    existing.insert(task.node.clone());
                }
            }
        }
        let exists = |node: &NodeName| existing.contains(node);
        let mut decide = |job: &mut Job| match &request {
            JobRequest::Stop { cancel_in_flight } => machine::stop(job, &mut tasks, *cancel_in_flight, now),
            JobRequest::Resume => machine::resume(job, &mut tasks, exists, now),
            JobRequest::Retry | JobRequest::RetryOf(_) | JobRequest::RetryWith { .. } => {
                let amendment = request.spec().map(|new| &new.amendment);
                machine::retry(job, &mut tasks, amendment, exists, now)
            }
        };
        let job = &mut self.job(id)?.job;
        if terms.validate_only {
            let mut job = Job::clone(job);
            decide(&mut job)?;
            return Ok(Arc::new(job));
        }
        let changed = decide(Arc::make_mut(job))?;
        if !matches!(request, JobRequest::Stop { .. }) {
            self.begin_round(id, request.spec(), forgotten, terms)?;
        }
        if let Some(known) = &terms.request {
            let key = self.job(id)?.key;
            self.remember_job(known, key, now)?;
        }
        self.job_changed(id);
        self.take_changed(id, tasks, &changed, now)?;
        Ok(self.job(id)?.job.clone())
    }

    /// Assigns tasks, or lets them fail whose nodes cannot do what they need; returns how many of both there were.
    pub(super) fn assign(&mut self, picks: &[(JobId, NodeName)], now: Timestamp) -> Result<usize, StoreError> {
        let mut count = 0;
        for (id, node) in picks {
            let Some(site) = self.site(id, node)? else { continue };
            let refusal = self.refusal(id, node)?;
            let Some((job, task)) = self.task(id, node)? else { continue };
            let effect = match refusal {
                Some(refusal) => machine::refuse(job, task, &refusal, now).then_some(AppEffect::None),
                None => machine::assign(job, task, site, now),
            };
            let Some(effect) = effect else { continue };
            self.task_changed(id, node);
            self.follow(id, node, effect, now)?;
            count += 1;
        }
        Ok(count)
    }

    /// Why a node is not even sent a job, by what is known of it.
    fn refusal(&mut self, id: &JobId, node: &NodeName) -> Result<Option<Refusal>, StoreError> {
        let job = Arc::clone(&self.job(id)?.job);
        // Nearly always, and without a look at the node. To remove it, an app need not be known.
        if job.kind == JobKind::Remove || !preflight::is_needed(&job.spec) {
            return Ok(None);
        }
        match self.enrolled(node) {
            Err(StoreError::NotFound { .. }) => Ok(None),
            enrolled => Ok(preflight::check(&job.spec, &enrolled?).err()),
        }
    }

    /// Ends what is past its deadline; returns the next deadline. Purges expired tokens and requests on the way.
    pub(super) fn pass_deadlines(&mut self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.write_rows()?;
        self.purge_tokens(now)?;
        self.purge_requests(now)?;
        self.purge_users(now)?;
        let passed: Vec<JobId> = self
            .sql
            .prepare_cached("SELECT id FROM job WHERE deadline IS NOT NULL AND deadline <= ?1 ORDER BY deadline")?
            .query_map([rows::micros(now)], |row| rows::name(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in &passed {
            let mut tasks = self.tasks(id, OPEN)?;
            let job = Arc::make_mut(&mut self.job(id)?.job);
            let changed = machine::pass_deadline(job, &mut tasks, now);
            let app = job.app.clone();
            for Changed { index, .. } in &changed {
                if let Some(task) = tasks.get_mut(*index) {
                    self.explain(&app, task)?;
                }
            }
            self.job_changed(id);
            self.take_changed(id, tasks, &changed, now)?;
        }
        self.write_rows()?;
        let next = self
            .sql
            .prepare_cached("SELECT min(deadline) FROM job WHERE deadline IS NOT NULL")?
            .query_row([], |row| rows::optional_time(row, 0))?;
        Ok(next)
    }

    /// Says of a task that was out of time which instance was not ready then, if its node has told of one.
    fn explain(&mut self, app: &AppName, task: &mut Task) -> Result<(), StoreError> {
        let Some(failure) = task.failure.take() else { return Ok(()) };
        let mut why = None;
        if failure.step == TaskState::Settling {
            why = self.app(app, &task.node)?.as_ref().and_then(|row| row.app.status.unreadiness());
        }
        task.failure = Some(match why {
            Some(why) => failure.with_outcome(&why),
            None => failure,
        });
        Ok(())
    }

    /// Sets the tasks in flight aside whose nodes have been away for long enough; returns the time until the next is due.
    pub(super) fn set_aside(
        &mut self,
        away: &(dyn Fn(&NodeName) -> Option<Duration> + Send + Sync),
        now: Timestamp,
    ) -> Result<Option<Duration>, StoreError> {
        self.write_rows()?;
        let mut next: Option<Duration> = None;
        let mut due = Vec::new();
        {
            // CROSS JOIN: jobs first, of which few are unfinished. What stands first repeats the condition of the partial index.
            let mut in_flight = self.sql.prepare_cached(
                "SELECT job.id, task.node, job.max_parallel, job.absent_after \
                 FROM job CROSS JOIN task ON task.job = job.key \
                 WHERE job.pending + job.active + job.cancelled > 0 AND job.active > job.absent \
                 AND job.absent_after > 0 AND task.state BETWEEN 1 AND 6 AND task.absent_time IS NULL",
            )?;
            let mut rows = in_flight.query([])?;
            while let Some(row) = rows.next()? {
                let node = rows::name(row, 1)?;
                let Some(away) = away(&node) else { continue };
                match rows::rollout(row, 2, 3)?.patience(away) {
                    Some(Duration::ZERO) => due.push((rows::name::<JobId>(row, 0)?, node, away)),
                    left => next = next.into_iter().chain(left).min(),
                }
            }
        }
        for (id, node, away) in &due {
            let Some((job, task)) = self.task(id, node)? else { continue };
            let occupied_before = job.counts.occupied();
            if machine::set_aside(job, task, *away, now) {
                self.task_changed(id, node);
                self.tell_free_slot(id, occupied_before);
            }
        }
        Ok(next)
    }

    fn take_changed(
        &mut self,
        id: &JobId,
        tasks: Vec<Task>,
        changed: &[Changed],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut changed = changed.iter().peekable();
        for (index, task) in tasks.into_iter().enumerate() {
            let Some(Changed { effect, .. }) = changed.next_if(|changed| changed.index == index) else { continue };
            let node = task.node.clone();
            self.replace_task(id, task);
            self.follow(id, &node, *effect, now)?;
        }
        Ok(())
    }
}
