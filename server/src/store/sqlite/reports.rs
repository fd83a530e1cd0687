//! What agents report.

use jiff::Timestamp;
use longshore_model::app::{AppState, AppStatus, Desired};
use longshore_model::kind::JobKind;
use longshore_model::machine::{self, Receipt};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::task::TaskState;

use super::backup;
use super::batch::Batch;
use crate::store::{NodeReport, StoreError};

impl Batch<'_> {
    /// Takes reports of one node, in order.
    pub(super) fn report(
        &mut self,
        node: &NodeName,
        reports: Vec<NodeReport>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for report in reports {
            match report {
                NodeReport::Task(report) => self.task_report(node, &report, now)?,
                NodeReport::App(report) => self.app_report(node, report, now)?,
            }
        }
        Ok(())
    }

    fn task_report(&mut self, node: &NodeName, report: &TaskReport, now: Timestamp) -> Result<(), StoreError> {
        let Some((job, task)) = self.task(&report.job, node)? else { return Ok(()) };
        let occupied_before = job.counts.occupied();
        match machine::report(job, task, report, now) {
            Receipt::Stale => {}
            Receipt::Late => self.task_changed(&report.job, node),
            Receipt::Counted(effect) => {
                self.task_changed(&report.job, node);
                self.follow(&report.job, node, effect, now)?;
                self.tell_free_slot(&report.job, occupied_before);
            }
        }
        Ok(())
    }

    /// Keeps an app's status, unless it is of an older deployment; an app that is being removed goes once it is gone.
    fn app_report(&mut self, node: &NodeName, report: AppReport, now: Timestamp) -> Result<(), StoreError> {
        let AppReport { app: name, revision, attempt, status } = report;
        let row = self.app(&name, node)?;
        let Some(known) = row.as_mut().map(|row| &mut row.app) else {
            if status.state != AppState::Removed && backup::held_since(self.sql)?.is_some() {
                tracing::warn!(%node, app = %name, revision, "a node runs an app that the restored database does not know");
            }
            return Ok(());
        };
        let is_current = (revision, attempt) >= (known.revision, known.attempt);
        if !is_current && known.previous.as_ref().is_some_and(|old| (old.revision, old.attempt) == (revision, attempt))
        {
            return self.previous_report(node, name, status, now);
        }
        // Revision 0: the node was told to remove an app of which it has no trace.
        let is_gone = status.state == AppState::Removed && (is_current || revision == 0);
        if is_gone && known.desired == Desired::Removing {
            let (remover, revision, before) = (known.remover.take(), known.revision, std::mem::take(&mut known.status));
            *row = None;
            self.app_changed(&name, node);
            self.note_changes((&name, node), revision, &before, &status, now)?;
            return remover.map_or(Ok(()), |job| self.removed(node, &job, now));
        } else if !is_current || status == known.status {
            return Ok(());
        }
        let before = std::mem::replace(&mut known.status, status.clone());
        known.update_time = now;
        self.app_changed(&name, node);
        self.note_changes((&name, node), revision, &before, &status, now)
    }

    /// Takes what a node says of the revision before an update. It runs that until the new one is ready, and again from the
    /// moment on when it has gone back, of which its task's report may come a little later.
    fn previous_report(
        &mut self,
        node: &NodeName,
        name: AppName,
        status: AppStatus,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(row) = self.app(&name, node)? else { return Ok(()) };
        let job = row.app.job.clone();
        if self.task(&job, node)?.is_none_or(|(_, task)| task.state.is_end()) {
            return Ok(());
        }
        let Some(row) = self.app(&name, node)? else { return Ok(()) };
        if row.app.status == status {
            return Ok(());
        }
        let revision = row.app.previous.as_ref().map_or(row.app.revision, |previous| previous.revision);
        let before = std::mem::replace(&mut row.app.status, status.clone());
        row.app.update_time = now;
        self.app_changed(&name, node);
        self.note_changes((&name, node), revision, &before, &status, now)
    }

    /// Takes the node's word that an app is gone as what it is for the job that removes it: the task's success.
    fn removed(&mut self, node: &NodeName, id: &JobId, now: Timestamp) -> Result<(), StoreError> {
        let Some((job, task)) = self.task(id, node)? else { return Ok(()) };
        debug_assert_eq!(job.kind, JobKind::Remove);
        let (state, attempt) = (TaskState::Succeeded, task.attempt);
        let report = TaskReport { job: id.clone(), attempt, state, pull: None, failure: None };
        self.task_report(node, &report, now)
    }
}
