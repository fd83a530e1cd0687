//! What must follow on a node from a change of its task: its list of apps, and what its agent is told.

use jiff::Timestamp;
use longshore_model::app::{App, AppStatus, Desired, Previous};
use longshore_model::assignment::Order;
use longshore_model::event::Happening;
use longshore_model::kind::JobKind;
use longshore_model::machine::{AppEffect, Site};
use longshore_model::name::{AppName, JobId, NodeName};

use super::batch::{AppRow, Batch, Edition};
use crate::store::{Change, EncodedAssignment, StoreError};

impl Batch<'_> {
    /// What is known of a node before a task of the job is assigned to it; `None` when there is no such job.
    pub(super) fn site(&mut self, id: &JobId, node: &NodeName) -> Result<Option<Site>, StoreError> {
        let (kind, name) = match self.job(id) {
            Ok(entry) => (entry.job.kind, entry.job.app.clone()),
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_able = match kind.capability() {
            None => true,
            Some(word) => match self.enrolled(node) {
                Ok(node) => node.info.is_some_and(|info| info.can(word)),
                Err(StoreError::NotFound { .. }) => false,
                Err(error) => return Err(error),
            },
        };
        let app = self.app(&name, node)?.as_ref().map(|row| row.app.desired);
        Ok(Some(Site { app, is_able }))
    }

    /// Does what must follow.
    pub(super) fn follow(
        &mut self,
        id: &JobId,
        node: &NodeName,
        effect: AppEffect,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        match effect {
            AppEffect::None => Ok(()),
            AppEffect::Deploy => self.deploy(id, node, now),
            AppEffect::Cancel => self.cancel(id, node),
            AppEffect::Remove => self.remove(id, node, now),
            AppEffect::GoBack => self.go_back(id, node, now),
            AppEffect::Forget => self.forget(id, node, now),
        }
    }

    fn deploy(&mut self, id: &JobId, node: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        let Some((job, task)) = self.task(id, node)? else { return Ok(()) };
        let (name, kind, attempt, spec_revision) = (job.app.clone(), job.kind, task.attempt, task.spec_revision);
        let key = self.job(id)?.key;
        let row = self.app(&name, node)?;
        let fresh = App {
            node: node.clone(),
            name: name.clone(),
            job: id.clone(),
            spec_revision,
            attempt,
            // What an earlier spec of the job brought up there has another number, however little is left of it.
            revision: u64::from(spec_revision),
            desired: Desired::Present,
            remover: None,
            previous: None,
            last_revision: u64::from(spec_revision),
            status: AppStatus::default(),
            update_time: now,
        };
        let app = match row.take() {
            None => fresh,
            // The same spec of the same job: an agent that has it at this revision already has nothing to do.
            Some(AppRow { app, job_key }) if (job_key, app.spec_revision) == (key, spec_revision) => App {
                revision: app.revision,
                previous: app.previous,
                last_revision: app.last_revision,
                status: app.status,
                ..fresh
            },
            Some(AppRow { app, .. }) => {
                let App { job, spec_revision, attempt, revision, last_revision, status, .. } = app;
                let old = Previous { job, spec_revision, attempt, revision };
                let revision = last_revision.saturating_add(1);
                let previous = (kind == JobKind::Update).then_some(old);
                App { revision, previous, last_revision: revision, status, ..fresh }
            }
        };
        let updating = (kind == JobKind::Update).then(|| Happening::updating(app.revision, id));
        *row = Some(AppRow { app, job_key: key });
        self.app_changed(&name, node);
        if let Some(what) = updating {
            self.note_event((&name, node), what, now)?;
        }
        self.tell(&name, node, Order::Deploy)
    }

    fn cancel(&mut self, id: &JobId, node: &NodeName) -> Result<(), StoreError> {
        let name = self.job(id)?.job.app.clone();
        match self.app(&name, node)? {
            Some(row) if row.app.job == *id => self.tell(&name, node, Order::Cancel),
            _ => Ok(()),
        }
    }

    fn remove(&mut self, id: &JobId, node: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        let job = &self.job(id)?.job;
        let (name, is_removal, is_deployment) =
            (job.app.clone(), job.kind == JobKind::Remove, job.kind == JobKind::Deploy);
        if let Some(row) = self.app(&name, node)?.as_mut().filter(|row| is_removal || row.app.job == *id) {
            row.app.desired = Desired::Removing;
            row.app.remover = is_removal.then(|| id.clone());
            row.app.update_time = now;
            let revision = row.app.revision;
            self.app_changed(&name, node);
            self.tell_node(Change::Unset { node: node.clone(), app: name.clone() });
            if is_deployment {
                self.note_failure(id, (&name, node), revision, now)?;
            }
        }
        Ok(())
    }

    /// Puts what ran before an update in its place again. An agent that has gone back by itself has nothing to do then.
    fn go_back(&mut self, id: &JobId, node: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        let name = self.job(id)?.job.app.clone();
        let Some(row) = self.app(&name, node)?.as_mut().filter(|row| row.app.job == *id) else { return Ok(()) };
        let Some(previous) = row.app.previous.take() else { return Ok(()) };
        let key = self.job(&previous.job)?.key;
        let Some(row) = self.app(&name, node)? else { return Ok(()) };
        row.job_key = key;
        row.app.job = previous.job;
        row.app.spec_revision = previous.spec_revision;
        row.app.attempt = previous.attempt;
        row.app.revision = previous.revision;
        row.app.update_time = now;
        let revision = row.app.revision;
        self.app_changed(&name, node);
        let failure = self.task(id, node)?.and_then(|(_, task)| task.failure.clone());
        self.note_event((&name, node), Happening::went_back(revision, id, failure.as_ref()), now)?;
        self.tell(&name, node, Order::Keep)
    }

    fn forget(&mut self, id: &JobId, node: &NodeName, now: Timestamp) -> Result<(), StoreError> {
        let job = &self.job(id)?.job;
        let (name, is_deployment) = (job.app.clone(), job.kind == JobKind::Deploy);
        let row = self.app(&name, node)?;
        let Some(AppRow { app, .. }) = row.take_if(|row| row.app.job == *id) else { return Ok(()) };
        self.app_changed(&name, node);
        if app.revision > 1 {
            // An agent that was cut off may have gone back to what an earlier spec of the job had brought up.
            self.tell_node(Change::Unset { node: node.clone(), app: name.clone() });
        }
        if is_deployment {
            self.note_failure(id, (&name, node), app.revision, now)?;
        }
        Ok(())
    }

    /// Keeps in an app's history that its deployment did not succeed.
    fn note_failure(
        &mut self,
        id: &JobId,
        place: (&AppName, &NodeName),
        revision: u64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let failure = self.task(id, place.1)?.and_then(|(_, task)| task.failure.clone());
        self.note_event(place, Happening::failed(revision, id, failure.as_ref()), now)
    }

    /// Tells a node what the list says of an app that belongs on it.
    fn tell(&mut self, name: &AppName, node: &NodeName, order: Order) -> Result<(), StoreError> {
        let Some(AppRow { app, .. }) = self.app(name, node)? else { return Ok(()) };
        let (job, spec_revision, revision, attempt) = (app.job.clone(), app.spec_revision, app.revision, app.attempt);
        let Edition { spec, encoded } = self.edition(&job, spec_revision)?;
        let cause = self.job(&job)?.cause.clone();
        let image_access = self.image_access(&spec)?;
        let node_labels = self.node_labels(&spec, node)?;
        let (app, spec) = (name.clone(), encoded);
        let assignment =
            EncodedAssignment { app, revision, job, attempt, order, spec, cause, image_access, node_labels };
        self.tell_node(Change::Set { node: node.clone(), assignment });
        Ok(())
    }
}
