//! The store as one would write it without a database: maps, and the model's machine over all tasks of a job.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use longshore_model::app::{App, AppState, Desired, Previous};
use longshore_model::job::{Control, Job};
use longshore_model::kind::JobKind;
use longshore_model::machine::{self, AppEffect, Changed, Receipt, Site};
use longshore_model::name::{AppName, JobId, NodeName};
use longshore_model::report::{AppReport, TaskReport};
use longshore_model::task::{Task, TaskClass, TaskState};

use crate::store::{JobRequest, NewJob, NodeReport};

/// What the suite's histories do to a store.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Enroll(NodeName),
    Create(Box<NewJob>),
    Assign(Vec<(JobId, NodeName)>),
    Report(NodeName, Vec<NodeReport>),
    Request(JobId, JobRequest),
    PassDeadlines,
    /// Nodes that are away, and for how many seconds.
    SetAside(BTreeMap<NodeName, u64>),
    RemoveApp(AppName, Option<NodeName>),
    OpenSession(NodeName),
    DeleteNode(NodeName),
}

/// What a step gave: a number that says what was done, or the name of the refusal.
pub(super) type Outcome = Result<usize, &'static str>;

/// A store without a database.
#[derive(Default)]
pub(super) struct Model {
    pub(super) nodes: BTreeSet<NodeName>,
    /// Those of them that have had a session: all of these can do everything.
    told: BTreeSet<NodeName>,
    pub(super) jobs: BTreeMap<JobId, (Job, Vec<Task>)>,
    pub(super) apps: BTreeMap<(NodeName, AppName), App>,
    /// All that jobs ever had, encoded, by their numbers.
    pub(super) specs: BTreeMap<(JobId, u32), Bytes>,
}

impl Model {
    pub(super) fn apply(&mut self, step: Step, now: Timestamp) -> Outcome {
        match step {
            Step::Enroll(node) => self.nodes.insert(node).then_some(0).ok_or("AlreadyExists"),
            Step::Create(new) => self.create(*new),
            Step::Assign(picks) => Ok(picks.iter().filter(|(id, node)| self.assign(id, node, now)).count()),
            Step::Report(node, reports) => {
                for report in reports {
                    self.report(&node, report, now);
                }
                Ok(0)
            }
            Step::Request(id, request) => self.request(&id, request, now),
            Step::PassDeadlines => {
                let ids: Vec<_> = self.jobs.keys().cloned().collect();
                for id in ids {
                    self.bulk(&id, now, |job, tasks| machine::pass_deadline(job, tasks, now));
                }
                Ok(0)
            }
            Step::SetAside(away) => Ok(self.set_aside(&away, now)),
            Step::RemoveApp(name, node) => self.remove_app(&name, node.as_ref(), now),
            Step::OpenSession(node) => self.open_session(&node, now),
            Step::DeleteNode(node) => self.delete_node(&node, now),
        }
    }

    /// Pending tasks that may be assigned, as [`crate::store::Store::assignable`] gives them.
    pub(super) fn assignable(&self) -> Vec<(JobId, NodeName)> {
        let mut picks = Vec::new();
        for (id, (job, tasks)) in self.jobs.iter().filter(|(_, (job, _))| job.control == Control::Run) {
            let pending = tasks.iter().filter(|task| task.state == TaskState::Pending);
            let room = job.rollout.room(&job.counts) as usize;
            picks.extend(pending.take(room).map(|task| (id.clone(), task.node.clone())));
        }
        picks
    }

    /// The seconds until the next is due; 0 if none is.
    fn set_aside(&mut self, away: &BTreeMap<NodeName, u64>, now: Timestamp) -> usize {
        let mut next = None;
        for (job, tasks) in self.jobs.values_mut() {
            for task in tasks {
                let Some(away) = away.get(&task.node).map(|seconds| Duration::from_secs(*seconds)) else { continue };
                machine::set_aside(job, task, away, now);
                if task.state.class() == TaskClass::Active && task.absent_time.is_none() {
                    next = next.into_iter().chain(job.rollout.patience(away)).min();
                }
            }
        }
        next.map_or(0, |next| usize::try_from(next.as_secs()).unwrap())
    }

    fn open_session(&mut self, node: &NodeName, now: Timestamp) -> Outcome {
        if !self.nodes.contains(node) {
            return Err("NotFound");
        }
        self.told.insert(node.clone());
        for (job, tasks) in self.jobs.values_mut() {
            for task in tasks.iter_mut().filter(|task| task.node == *node) {
                machine::take_back(job, task, now);
            }
        }
        Ok(0)
    }

    fn create(&mut self, new: NewJob) -> Outcome {
        if self.jobs.contains_key(&new.job.id) {
            return Err("AlreadyExists");
        }
        if new.nodes.iter().any(|node| !self.nodes.contains(node)) {
            return Err("NotFound");
        }
        if new.job.kind.needs_app() && self.is_busy(|_| false, &new.job.app, new.nodes.iter()) {
            return Err("AppBusy");
        }
        let tasks = new.nodes.iter().map(|node| pending(&new.job, node)).collect();
        self.specs.insert((new.job.id.clone(), 1), new.spec);
        self.jobs.insert(new.job.id.clone(), (new.job, tasks));
        Ok(0)
    }

    fn assign(&mut self, id: &JobId, node: &NodeName, now: Timestamp) -> bool {
        let Some((job, tasks)) = self.jobs.get_mut(id) else { return false };
        let Some(task) = tasks.iter_mut().find(|task| task.node == *node) else { return false };
        let app = self.apps.get(&(node.clone(), job.app.clone())).map(|app| app.desired);
        let site = Site { app, is_able: job.kind.capability().is_none() || self.told.contains(node) };
        let Some(effect) = machine::assign(job, task, site, now) else { return false };
        let task = task.clone();
        self.follow(&task, effect, now);
        true
    }

    fn report(&mut self, node: &NodeName, report: NodeReport, now: Timestamp) {
        match report {
            NodeReport::Task(report) => {
                let Some((job, tasks)) = self.jobs.get_mut(&report.job) else { return };
                let Some(task) = tasks.iter_mut().find(|task| task.node == *node) else { return };
                if let Receipt::Counted(effect) = machine::report(job, task, &report, now) {
                    let task = task.clone();
                    self.follow(&task, effect, now);
                }
            }
            NodeReport::App(AppReport { app, revision, attempt, status }) => {
                let key = (node.clone(), app);
                let Some(known) = self.apps.get_mut(&key) else { return };
                let is_current = (revision, attempt) >= (known.revision, known.attempt);
                let is_open = |job: &JobId| {
                    let tasks = self.jobs.get(job).map(|(_, tasks)| tasks);
                    tasks.is_some_and(|tasks| tasks.iter().any(|task| task.node == *node && !task.state.is_end()))
                };
                let is_previous = !is_current
                    && known.previous.as_ref().is_some_and(|old| (old.revision, old.attempt) == (revision, attempt))
                    && is_open(&known.job);
                let is_removed = status.state == AppState::Removed && known.desired == Desired::Removing;
                if is_removed && !is_previous && (is_current || revision == 0) {
                    let remover = self.apps.remove(&key).and_then(|app| app.remover);
                    if let Some(job) = remover {
                        self.confirm(node, job, now);
                    }
                } else if (is_current || is_previous) && known.status != status {
                    known.status = status;
                    known.update_time = now;
                }
            }
        }
    }

    fn confirm(&mut self, node: &NodeName, job: JobId, now: Timestamp) {
        let Some((_, tasks)) = self.jobs.get(&job) else { return };
        let Some(attempt) = tasks.iter().find(|task| task.node == *node).map(|task| task.attempt) else { return };
        let report = TaskReport { job, attempt, state: TaskState::Succeeded, pull: None, failure: None };
        self.report(node, NodeReport::Task(report), now);
    }

    /// Whether a job that is not to be ignored has a task open for the app on one of the nodes, or is about to assign one.
    fn is_busy<'a>(
        &self,
        ignored: impl Fn(&Job) -> bool,
        app: &AppName,
        mut nodes: impl Iterator<Item = &'a NodeName>,
    ) -> bool {
        let open = |job: &Job, task: &Task| match task.state.class() {
            TaskClass::Active => true,
            TaskClass::Pending => job.control == Control::Run,
            _ => false,
        };
        nodes.any(|node| {
            let others = self.jobs.values().filter(|(job, _)| !ignored(job) && job.app == *app);
            others
                .flat_map(|(job, tasks)| tasks.iter().map(move |task| (job, task)))
                .any(|(job, task)| task.node == *node && open(job, task))
        })
    }

    fn request(&mut self, id: &JobId, request: JobRequest, now: Timestamp) -> Outcome {
        let nodes = self.nodes.clone();
        let exists = |node: &NodeName| nodes.contains(node);
        let Some((job, _)) = self.jobs.get(id) else { return Err("NotFound") };
        let asked = match &request {
            JobRequest::Stop { cancel_in_flight: false } => machine::Request::Stop,
            JobRequest::Stop { cancel_in_flight: true } => machine::Request::Cancel,
            JobRequest::Resume => machine::Request::Resume,
            JobRequest::Retry => machine::Request::Retry,
            JobRequest::RetryWith { chosen: None, .. } => machine::Request::Retry,
            JobRequest::RetryOf(_) | JobRequest::RetryWith { .. } => unreachable!("the histories retry everything"),
        };
        if !asked.is_allowed_in(job.state()) {
            return Err("Refused");
        }
        let (job, tasks) = self.jobs.get(id).unwrap();
        let is_meant = |task: &&Task| match &request {
            JobRequest::Stop { .. } => false,
            JobRequest::Resume => matches!(task.state.class(), TaskClass::Pending | TaskClass::Cancelled),
            JobRequest::Retry | JobRequest::RetryOf(_) | JobRequest::RetryWith { .. } => {
                task.state != TaskState::Succeeded
            }
        };
        if self.is_busy(|other| other.id == *id, &job.app, tasks.iter().filter(is_meant).map(|task| &task.node)) {
            return Err("AppBusy");
        }
        self.bulk(id, now, |job, tasks| match &request {
            JobRequest::Stop { cancel_in_flight } => machine::stop(job, tasks, *cancel_in_flight, now).unwrap(),
            JobRequest::Resume => machine::resume(job, tasks, exists, now).unwrap(),
            JobRequest::Retry | JobRequest::RetryOf(_) | JobRequest::RetryWith { .. } => {
                let amendment = request.spec().map(|new| &new.amendment);
                machine::retry(job, tasks, amendment, exists, now).unwrap()
            }
        });
        if let Some(new) = request.spec() {
            let (job, _) = self.jobs.get(id).unwrap();
            self.specs.insert((id.clone(), job.spec_revision), new.encoded.clone());
        }
        Ok(0)
    }

    fn bulk(&mut self, id: &JobId, now: Timestamp, change: impl FnOnce(&mut Job, &mut [Task]) -> Vec<Changed>) {
        let (job, tasks) = self.jobs.get_mut(id).unwrap();
        let changed = change(job, tasks);
        let effects: Vec<_> =
            changed.iter().map(|changed| (tasks.get(changed.index).unwrap().clone(), changed.effect)).collect();
        for (task, effect) in effects {
            self.follow(&task, effect, now);
        }
    }

    fn remove_app(&mut self, name: &AppName, node: Option<&NodeName>, now: Timestamp) -> Outcome {
        let chosen = |app: &&App| app.name == *name && node.is_none_or(|node| app.node == *node);
        let nodes: Vec<NodeName> = self.apps.values().filter(chosen).map(|app| app.node.clone()).collect();
        if nodes.is_empty() {
            return Err("NotFound");
        }
        let is_open = |app: &App| {
            let (_, tasks) = self.jobs.get(&app.job).unwrap();
            tasks.iter().any(|task| task.node == app.node && !task.state.is_end())
        };
        let is_busy = self.apps.values().filter(chosen).any(is_open)
            || self.is_busy(|job| job.kind == JobKind::Remove, name, nodes.iter());
        if is_busy {
            return Err("AppBusy");
        }
        for node in &nodes {
            let app = self.apps.get_mut(&(node.clone(), name.clone())).unwrap();
            if app.desired == Desired::Present {
                app.desired = Desired::Removing;
                app.update_time = now;
            }
        }
        Ok(nodes.len())
    }

    fn delete_node(&mut self, node: &NodeName, now: Timestamp) -> Outcome {
        self.told.remove(node);
        if !self.nodes.remove(node) {
            return Err("NotFound");
        }
        for (job, tasks) in self.jobs.values_mut() {
            for task in tasks.iter_mut().filter(|task| task.node == *node) {
                if !job.state().is_final() {
                    machine::delete_node(job, task, now);
                }
            }
        }
        self.apps.retain(|_, app| app.node != *node);
        Ok(0)
    }

    fn follow(&mut self, task: &Task, effect: AppEffect, now: Timestamp) {
        let (job, _) = self.jobs.get(&task.job).unwrap();
        let key = (task.node.clone(), job.app.clone());
        match effect {
            AppEffect::None | AppEffect::Cancel => {}
            AppEffect::Forget => drop(self.apps.remove(&key)),
            AppEffect::Remove => {
                let app = self.apps.get_mut(&key).unwrap();
                app.desired = Desired::Removing;
                app.remover = (job.kind == JobKind::Remove).then(|| job.id.clone());
                app.update_time = now;
            }
            AppEffect::GoBack => {
                let Some(app) = self.apps.get_mut(&key).filter(|app| app.job == job.id) else { return };
                let Some(Previous { job, spec_revision, attempt, revision }) = app.previous.take() else { return };
                (app.job, app.spec_revision, app.attempt) = (job, spec_revision, attempt);
                (app.revision, app.update_time) = (revision, now);
            }
            AppEffect::Deploy => {
                let old = self.apps.remove(&key);
                let spec = (&job.id, task.spec_revision);
                let is_same = old.as_ref().is_none_or(|old| (&old.job, old.spec_revision) == spec);
                let last = match &old {
                    None => u64::from(task.spec_revision),
                    Some(old) if is_same => old.last_revision,
                    Some(old) => old.last_revision + 1,
                };
                let run = |old: &App| Previous {
                    job: old.job.clone(),
                    spec_revision: old.spec_revision,
                    attempt: old.attempt,
                    revision: old.revision,
                };
                let previous = old.as_ref().map(run);
                let app = App {
                    node: task.node.clone(),
                    name: job.app.clone(),
                    job: job.id.clone(),
                    spec_revision: task.spec_revision,
                    attempt: task.attempt,
                    revision: old.as_ref().filter(|_| is_same).map_or(last, |old| old.revision),
                    desired: Desired::Present,
                    remover: None,
                    previous: match is_same {
                        true => old.as_ref().and_then(|old| old.previous.clone()),
                        false => previous.filter(|_| job.kind == JobKind::Update),
                    },
                    last_revision: last,
                    status: old.map(|old| old.status).unwrap_or_default(),
                    update_time: now,
                };
                self.apps.insert(key, app);
            }
        }
    }
}

fn pending(job: &Job, node: &NodeName) -> Task {
    Task {
        job: job.id.clone(),
        node: node.clone(),
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
    }
}
