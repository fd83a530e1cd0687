//! Writes about nodes and their sessions.

use jiff::Timestamp;
use longshore_model::accelerator::Stock;
use longshore_model::assignment::{ImageAccess, Order};
use longshore_model::machine;
use longshore_model::name::{AppName, JobId, NodeName, SessionId};
use longshore_model::node::{LabelChange, Labels, Node, NodeInfo};
use longshore_model::node_value;
use longshore_model::spec::AppSpec;
use rusqlite::{OptionalExtension, params};

use super::batch::{Batch, Edition};
use super::{backup, no_node, rows};
use crate::store::{Change, EncodedAssignment, StoreError, Terms};

impl Batch<'_> {
    /// A node.
    pub(super) fn enrolled(&self, name: &NodeName) -> Result<Node, StoreError> {
        self.sql
            .prepare_cached(concat!("SELECT ", rows::node_columns!(), " FROM node WHERE name = ?1"))?
            .query_row([name.as_str()], rows::node)
            .optional()?
            .ok_or_else(|| no_node(name))
    }

    /// Changes a node's labels.
    pub(super) fn update_labels(
        &mut self,
        name: &NodeName,
        change: &LabelChange,
        terms: &Terms,
    ) -> Result<Node, StoreError> {
        let mut node = self.enrolled(name)?;
        terms.admit(&node.etag(), "node", name.as_str())?;
        node.labels = change.apply(&node.labels)?;
        if terms.validate_only {
            return Ok(node);
        }
        self.sql
            .prepare_cached("UPDATE node SET labels = ?2 WHERE name = ?1")?
            .execute([name.as_str(), &rows::to_json(&node.labels)?])?;
        Ok(node)
    }

    /// Deletes a node and its apps, and ends its tasks.
    pub(super) fn delete_node(&mut self, name: &NodeName, terms: &Terms, now: Timestamp) -> Result<(), StoreError> {
        terms.admit(&self.enrolled(name)?.etag(), "node", name.as_str())?;
        if terms.validate_only {
            return Ok(());
        }
        self.write_rows()?;
        // Only jobs that are not final have tasks that could still do something.
        let jobs: Vec<JobId> = self
            .sql
            .prepare_cached(
                "SELECT job.id FROM job JOIN task ON task.job = job.key AND task.node = ?1 \
                 WHERE job.pending + job.active + job.cancelled > 0 ORDER BY job.id",
            )?
            .query_map([name.as_str()], |row| rows::name(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in &jobs {
            let Some((job, task)) = self.task(id, name)? else { continue };
            let occupied_before = job.counts.occupied();
            if machine::delete_node(job, task, now) {
                self.task_changed(id, name);
                self.tell_free_slot(id, occupied_before);
            }
        }
        let apps: Vec<AppName> = self
            .sql
            .prepare_cached("SELECT name FROM app WHERE node = ?1")?
            .query_map([name.as_str()], |row| rows::name(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for app in &apps {
            *self.app(app, name)? = None;
            self.app_changed(app, name);
        }
        self.forget_events_of(name)?;
        // The node's row is what those of its apps refer to, so they go first.
        self.write_rows()?;
        self.sql.prepare_cached("DELETE FROM node WHERE name = ?1")?.execute([name.as_str()])?;
        self.forget_approval(name)?;
        self.tell_node(Change::NodeDeleted { node: name.clone() });
        Ok(())
    }

    /// Records a new session and tells what its node shall run.
    pub(super) fn open_session(
        &mut self,
        name: &NodeName,
        session: &SessionId,
        info: &NodeInfo,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let updated = self
            .sql
            .prepare_cached("UPDATE node SET last_seen = ?2, info = ?3 WHERE name = ?1")?
            .execute(params![name.as_str(), rows::micros(now), rows::to_json(info)?])?;
        if updated == 0 {
            return Err(no_node(name));
        }
        self.write_rows()?;
        self.take_back(name, now)?;
        let assignments = self.assignments(name)?;
        // The full set does not name them, and a node that never heard of one would never confirm that it is gone.
        let removing = self.removing(name)?;
        let (node, session, keep_others) = (name.clone(), session.clone(), backup::held_since(self.sql)?.is_some());
        self.tell_node(Change::Opened { node, session, assignments, removing, keep_others });
        Ok(())
    }

    /// Counts the tasks again that were set aside while the node was absent.
    fn take_back(&mut self, name: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        let jobs: Vec<JobId> = self
            .sql
            .prepare_cached(
                "SELECT job.id FROM task JOIN job ON job.key = task.job \
                 WHERE task.node = ?1 AND task.absent_time IS NOT NULL",
            )?
            .query_map([name.as_str()], |row| rows::name(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in &jobs {
            let Some((job, task)) = self.task(id, name)? else { continue };
            if machine::take_back(job, task, now) {
                self.task_changed(id, name);
            }
        }
        Ok(())
    }

    fn removing(&self, name: &NodeName) -> Result<Vec<AppName>, StoreError> {
        let apps = self
            .sql
            .prepare_cached("SELECT name FROM app WHERE node = ?1 AND desired = 1 ORDER BY name")?
            .query_map([name.as_str()], |row| rows::name(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(apps)
    }

    fn assignments(&mut self, name: &NodeName) -> Result<Vec<EncodedAssignment>, StoreError> {
        let mut assignments: Vec<(EncodedAssignment, u32)> = self
            .sql
            .prepare_cached(
                "SELECT app.name, app.revision, job.id, app.attempt, task.state, task.cancel_requested, app.spec_revision FROM app \
                 JOIN job ON job.key = app.job JOIN task ON task.job = app.job AND task.node = app.node \
                 WHERE app.node = ?1 AND app.desired = 0 ORDER BY app.name",
            )?
            .query_map([name.as_str()], |row| {
                let assignment = EncodedAssignment {
                    app: rows::name(row, 0)?,
                    revision: rows::unsigned(row, 1)?,
                    job: rows::name(row, 2)?,
                    attempt: row.get(3)?,
                    order: Order::of(rows::state(row, 4)?, row.get(5)?),
                    spec: bytes::Bytes::new(),
                    cause: None,
                    image_access: ImageAccess::Untold,
                    node_labels: Labels::new(),
                };
                Ok((assignment, row.get(6)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (assignment, spec_revision) in &mut assignments {
            let Edition { spec, encoded } = self.edition(&assignment.job, *spec_revision)?;
            (assignment.spec, assignment.cause) = (encoded, self.job(&assignment.job)?.cause.clone());
            assignment.image_access = self.image_access(&spec)?;
            assignment.node_labels = self.node_labels(&spec, name)?;
        }
        Ok(assignments.into_iter().map(|(assignment, _)| assignment).collect())
    }

    /// Those of a node's labels that a spec asks for; for most specs without a look at the node.
    pub(super) fn node_labels(&self, spec: &AppSpec, node: &NodeName) -> Result<Labels, StoreError> {
        if !node_value::is_needed(spec) {
            return Ok(Labels::new());
        }
        Ok(node_value::labels_for(spec, &self.enrolled(node)?.labels))
    }

    /// Records when the newest certificate of a node ends.
    pub(super) fn certified_node(&mut self, name: &NodeName, end: Timestamp) -> Result<(), StoreError> {
        let updated = self
            .sql
            .prepare_cached("UPDATE node SET certificate_end = ?2 WHERE name = ?1")?
            .execute(params![name.as_str(), rows::micros(end)])?;
        if updated == 0 { Err(no_node(name)) } else { Ok(()) }
    }

    /// Records what accelerators a node has; before its first session nothing of it is known, and nothing kept.
    pub(super) fn report_accelerators(&mut self, name: &NodeName, stocks: &[Stock]) -> Result<(), StoreError> {
        let Some(mut info) = self.enrolled(name)?.info else { return Ok(()) };
        info.accelerators = stocks.to_vec();
        self.sql
            .prepare_cached("UPDATE node SET info = ?2 WHERE name = ?1")?
            .execute(params![name.as_str(), rows::to_json(&info)?])?;
        Ok(())
    }

    /// Records when a node was last heard of; one that was deleted meanwhile needs no record.
    pub(super) fn close_session(&mut self, name: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        self.sql
            .prepare_cached("UPDATE node SET last_seen = ?2 WHERE name = ?1")?
            .execute(params![name.as_str(), rows::micros(now)])?;
        Ok(())
    }
}
