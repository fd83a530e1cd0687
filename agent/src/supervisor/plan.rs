//! What to do next with an app: decisions alone, no I/O and no clock.
//!
//! [`App`] is everything that is known of one app on this node. [`App::next`] says what to do now; the worker does it
//! and writes down here what came of it. The same question is asked again after everything that happens, so there is
//! no script that could be lost half-way: a worker that starts over from the ledger asks it too.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use longshore_model::app::InstanceExit;
use longshore_model::assignment::{Assignment, Order};
use longshore_model::backoff;
use longshore_model::failure::{Failure, FailureReason};
use longshore_model::health::{Health, Kind};
use longshore_model::report::TaskReport;
use longshore_model::spec::RestartPolicy;
use longshore_model::task::TaskState;

use crate::clock::{later, until};
use crate::ledger::{Entry, Outcome, Prepared, Record, Wish};
use crate::runtime::ResolvedImage;

mod admission;
mod adopt;
mod probing;
mod revision;

pub use admission::Admission;
pub use revision::Side;

/// Exit code noted for a container that vanished, as after a reboot: what a kill leaves.
pub const LOST: i32 = 137;

/// Everything that is known of one app.
#[derive(Clone, Debug)]
pub struct App {
    /// What is remembered; the worker writes it down before it acts on a change.
    pub entry: Entry,
    /// Its containers, by instance; those of earlier revisions included.
    pub containers: BTreeMap<u32, Container>,
    /// What probes say of those that are up.
    pub health: BTreeMap<u32, Health>,
    /// What this agent has told their runtime of traffic to them.
    pub admissions: BTreeMap<u32, Admission>,
    /// The image that this deployment's check found.
    pub resolved: Option<ResolvedImage>,
    /// The furthest state of this attempt.
    pub step: TaskState,
    /// Attempts in a row at something that no exit of a container counts: checks, pulls, removals.
    pub stumbles: u32,
    /// Nothing is tried again before.
    pub not_before: Option<Timestamp>,
}

/// A container of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// The revision of the app that it was made for.
    pub revision: u64,
    /// Where it is.
    pub state: ContainerState,
}

/// Where a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Up since then, by the agent's clock.
    Running(Timestamp),
    /// Good for nothing but to be deleted: ended, or left half-way.
    Spent,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Check ports, interfaces, host paths and the image.
    Check,
    /// Fetch the image.
    Pull(ResolvedImage),
    /// Stop and delete the containers of these instances.
    Clear(Vec<u32>),
    /// Make a container for this instance.
    Create(u32),
    /// Start this instance's container.
    Start(u32),
    /// Stop the containers of these instances, which do not live by their liveness probe.
    Kill(Vec<u32>),
    /// Let new clients of this instance in, or keep them out.
    Admit(u32, bool),
    /// Ask this instance.
    Probe(u32, Kind),
    /// The app is healthy: record it.
    Succeed,
    /// Remove everything of the app, then record why.
    TearDown(Ending),
    /// The last healthy revision is back: record why the other one is not there.
    GoneBack(Ending),
    /// Nothing, until something happens or that moment comes.
    Wait(Option<Timestamp>),
}

/// Why an app is taken down, or goes back to its last healthy revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its deployment, or an update of it, failed.
    Failed(Failure),
    /// Its deployment, or an update of it, was given up.
    Cancelled,
    /// It is no longer wanted, or a crash came between the end of an attempt and the last of its removal.
    Removed,
}

impl App {
    /// What is known of an app that was never here.
    #[must_use]
    pub fn new(assignment: Assignment) -> Self {
        Self::from_entry(Entry::new(assignment))
    }

    fn from_entry(entry: Entry) -> Self {
        Self {
            entry,
            containers: BTreeMap::new(),
            health: BTreeMap::new(),
            admissions: BTreeMap::new(),
            resolved: None,
            step: TaskState::Assigned,
            stumbles: 0,
            not_before: None,
        }
    }

    /// Takes what the server wants now; `None` wants it gone. Returns whether anything changed.
    pub fn order(&mut self, wanted: Option<&Assignment>) -> bool {
        let wanted = wanted.map(|wanted| self.with_its_labels(wanted));
        let Some(wanted) = wanted.as_ref() else {
            if self.entry.wish != Wish::Present {
                return false;
            }
            self.entry.wish = Wish::Absent;
            self.forget_trouble();
            return true;
        };
        if self.entry.wish == Wish::Present && self.entry.assignment == *wanted {
            return false;
        }
        let was_healthy = self.was_healthy();
        let old = std::mem::replace(&mut self.entry.assignment, wanted.clone());
        let same_attempt = old.job == wanted.job && old.attempt == wanted.attempt && old.revision == wanted.revision;
        if self.entry.wish != Wish::Present {
            self.entry.wish = Wish::Present;
            self.entry.proven = None;
            self.begin_attempt(old.revision == wanted.revision);
        } else if old.revision != wanted.revision {
            self.change_revision(old, was_healthy);
        } else if !same_attempt {
            self.begin_attempt(true);
        }
        self.align();
        true
    }

    /// An assignment with the labels that came first with its revision and attempt: a restart, of a container or of the agent, or
    /// a lost connection is no reason for an app to come up with other values, in another directory perhaps.
    fn with_its_labels(&self, wanted: &Assignment) -> Assignment {
        let proven = self.entry.proven.as_ref().map(|proven| &proven.assignment);
        let is_same = |known: &&Assignment| {
            (&known.job, known.attempt, known.revision) == (&wanted.job, wanted.attempt, wanted.revision)
        };
        let known = [Some(&self.entry.assignment), proven].into_iter().flatten().find(is_same);
        let node_labels = known.map_or(&wanted.node_labels, |known| &known.node_labels).clone();
        Assignment { node_labels, ..wanted.clone() }
    }

    fn begin_attempt(&mut self, same_revision: bool) {
        self.entry.outcome = None;
        self.step = TaskState::Assigned;
        self.forget_trouble();
        let policy = self.entry.assignment.spec.restart_policy;
        for record in &mut self.entry.instances {
            let is_done = same_revision && record.ended && has_ended_well(policy, record);
            if !is_done {
                *record = record.counted_anew(record.live);
            }
        }
    }

    fn forget_trouble(&mut self) {
        self.resolved = None;
        self.entry.failure = None;
        self.stumbles = 0;
        self.not_before = None;
    }

    /// Whether a task is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.entry.wish == Wish::Present && self.entry.assignment.order == Order::Deploy && self.entry.outcome.is_none()
    }

    /// Whether a task is open and has not failed: each step is reported, and trouble ends the attempt.
    #[must_use]
    pub fn is_deploying(&self) -> bool {
        self.is_open() && self.entry.failure.is_none()
    }

    /// Whether new orders make what is being done now pointless.
    #[must_use]
    pub fn is_overtaken_by(&self, wanted: Option<&Assignment>) -> bool {
        let Some(wanted) = wanted else { return self.entry.wish == Wish::Present };
        let mine = &self.entry.assignment;
        let cancels = wanted.order == Order::Cancel && mine.order != Order::Cancel && self.entry.outcome.is_none();
        cancels || wanted.job != mine.job || wanted.attempt != mine.attempt || wanted.revision != mine.revision
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Next {
        if let Some(moment) = self.not_before.filter(|moment| *moment > now) {
            return Next::Wait(Some(moment));
        }
        match self.ending() {
            Some(Ending::Removed) if self.entry.wish != Wish::Absent && self.containers.is_empty() => Next::Wait(None),
            Some(ending) if self.is_going_back() && ending != Ending::Removed => {
                if self.is_back() {
                    Next::GoneBack(ending)
                } else {
                    self.bring_up(now)
                }
            }
            Some(ending) => Next::TearDown(ending),
            None if self.is_deploying() && self.is_healthy(now) => Next::Succeed,
            None => self.bring_up(now),
        }
    }

    /// Why the app shall not be here, if it shall not.
    fn ending(&self) -> Option<Ending> {
        if self.entry.wish != Wish::Present {
            return Some(Ending::Removed);
        }
        match &self.entry.outcome {
            Some(outcome) if outcome.is_success() => None,
            Some(_) if self.is_going_back() => None,
            Some(_) => Some(Ending::Removed),
            None if self.entry.assignment.order == Order::Cancel => Some(Ending::Cancelled),
            None => self.entry.failure.clone().map(Ending::Failed),
        }
    }

    fn bring_up(&self, now: Timestamp) -> Next {
        let prepare = || self.resolved.clone().map_or(Next::Check, Next::Pull);
        if self.image().is_none() {
            return prepare();
        }
        match self.keep_up(now) {
            Next::Wait(_) if !self.is_going_back() && !self.is_prepared() => prepare(),
            next => next,
        }
    }

    /// What the containers of the last healthy revision need, while an update is checked or fetched.
    #[must_use]
    pub fn meanwhile(&self, now: Timestamp) -> Next {
        if self.runs_proven() && self.image().is_some() { self.keep_up(now) } else { Next::Wait(None) }
    }

    /// What the containers need, whose image is here.
    fn keep_up(&self, now: Timestamp) -> Next {
        let in_the_way: Vec<u32> =
            self.containers.iter().filter(|(i, c)| self.is_in_the_way(**i, c)).map(|(i, _)| *i).collect();
        if !in_the_way.is_empty() {
            return Next::Clear(in_the_way);
        }
        let dead = self.dead();
        if !dead.is_empty() {
            return Next::Kill(dead);
        }
        if let Some((index, open)) = self.admission_due(now) {
            return Next::Admit(index, open);
        }
        let due = |(_, record): &(u32, &Record)| record.not_before.is_none_or(|moment| moment <= now);
        let absent = || self.instances().filter(|(i, record)| !record.ended && !self.containers.contains_key(i));
        if let Some((index, _)) = absent().find(due) {
            return Next::Create(index);
        }
        if let Some((index, _)) = self.containers.iter().find(|(_, c)| c.state == ContainerState::Created) {
            return Next::Start(*index);
        }
        if let Some((index, kind)) = self.probe_due(now) {
            return Next::Probe(index, kind);
        }
        let restarts = absent().filter_map(|(_, record)| record.not_before);
        let settled =
            self.containers.values().filter_map(|c| self.is_deploying().then(|| self.settles_at(c)).flatten());
        let settled = settled.filter(|moment| *moment > now);
        Next::Wait(restarts.chain(settled).chain(self.next_probe()).chain(self.next_admission()).min())
    }

    /// Whether checks and image of this revision are done: by this attempt, while a task is open.
    fn is_prepared(&self) -> bool {
        let wanted = &self.entry.assignment;
        self.entry.prepared.as_ref().is_some_and(|prepared| {
            prepared.revision == wanted.revision && (prepared.attempt == wanted.attempt || !self.is_deploying())
        })
    }

    fn is_in_the_way(&self, index: u32, container: &Container) -> bool {
        container.state == ContainerState::Spent
            || container.revision != self.target().revision
            || index >= self.target().spec.instances
    }

    /// The instances that the app shall have.
    pub(super) fn instances(&self) -> impl Iterator<Item = (u32, &Record)> {
        (0..self.target().spec.instances).zip(&self.entry.instances)
    }

    fn settles_at(&self, container: &Container) -> Option<Timestamp> {
        match container.state {
            ContainerState::Running(since) => Some(later(since, self.target().spec.startup.settle)),
            _ => None,
        }
    }

    /// Whether every instance of the wanted revision has stayed up for the settle time and is ready, or ended well.
    #[must_use]
    pub fn is_healthy(&self, now: Timestamp) -> bool {
        let wanted = &self.entry.assignment;
        let is_for_revision = self.entry.prepared.as_ref().is_some_and(|p| p.revision == wanted.revision);
        let is_well = |(index, record): (u32, &Record)| match self.containers.get(&index) {
            Some(container) if !self.is_in_the_way(index, container) => {
                self.settles_at(container).is_some_and(|moment| moment <= now)
                    && self.is_ready(index)
                    && self.is_admitted(index)
            }
            _ => record.ended && has_ended_well(wanted.spec.restart_policy, record),
        };
        is_for_revision && !self.runs_proven() && self.instances().all(is_well)
    }

    /// A check or a pull is done.
    pub fn progressed(&mut self) {
        self.stumbles = 0;
        self.not_before = None;
    }

    /// The image is here.
    pub fn prepared(&mut self, image: ResolvedImage) {
        let side = self.prepared_side();
        let Assignment { revision, attempt, .. } = *self.assignment_of(side);
        *self.prepared_mut(side) = Some(Prepared { revision, attempt, image });
        if self.entry.assignment.order == Order::Keep {
            // It is wanted whatever becomes of it.
            self.forget_proven();
        }
        self.resolved = None;
        self.progressed();
        self.align();
    }

    /// A container is about to be made; returns its run.
    pub fn creating(&mut self, index: u32) -> u32 {
        let revision = self.target().revision;
        self.containers.insert(index, Container { revision, state: ContainerState::Spent });
        self.entry.instances.get_mut(index as usize).map_or(1, |record| {
            record.run = record.run.saturating_add(1);
            record.run
        })
    }

    /// It was made.
    pub fn created(&mut self, index: u32) {
        self.set_state(index, ContainerState::Created);
    }

    /// It is about to be started.
    pub fn starting(&mut self, index: u32) {
        self.set_state(index, ContainerState::Spent);
        if let Some(record) = self.entry.instances.get_mut(index as usize) {
            record.starts = record.starts.saturating_add(1);
            record.live = true;
            record.not_before = None;
        }
    }

    /// It was started, at `wall` by the wall clock.
    pub fn started(&mut self, index: u32, now: Timestamp, wall: Timestamp) {
        self.set_state(index, ContainerState::Running(now));
        self.progressed();
        if let Some(record) = self.entry.instances.get_mut(index as usize) {
            record.start_time = Some(wall);
            record.readiness = None;
        }
        self.admissions.insert(index, Admission::of_a_fresh_one());
        self.begin_probing(index, now, now);
    }

    fn set_state(&mut self, index: u32, state: ContainerState) {
        if let Some(container) = self.containers.get_mut(&index) {
            container.state = state;
        }
    }

    /// Its container is gone, by our own hand.
    pub fn cleared(&mut self, index: u32) {
        self.containers.remove(&index);
        self.health.remove(&index);
        self.admissions.remove(&index);
        if let Some(record) = self.entry.instances.get_mut(index as usize) {
            record.live = false;
        }
    }

    /// Its container ended.
    pub fn exited(&mut self, index: u32, exit: InstanceExit, now: Timestamp) {
        let was_up = match self.containers.get(&index).map(|container| container.state) {
            Some(ContainerState::Running(since)) => until(since, now),
            _ => Duration::ZERO,
        };
        self.set_state(index, ContainerState::Spent);
        let death = self.health.remove(&index).and_then(|health| health.death().map(death_sentence));
        let deploying = self.is_deploying() && !self.runs_proven();
        let spec = self.target().spec.clone();
        let is_current = self.containers.get(&index).is_none_or(|c| c.revision == self.target().revision);
        let Some(record) = self.entry.instances.get_mut(index as usize) else { return };
        if !is_current {
            return;
        }
        record.live = false;
        record.last_exit = Some(exit);
        record.last_exit_reason = death;
        let is_well = has_ended_well(spec.restart_policy, record);
        record.ended = match spec.restart_policy {
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => is_well,
            RestartPolicy::Never => true,
        };
        let is_final = !is_well && (record.ended || record.starts >= spec.startup.max_starts);
        if deploying && is_final {
            let (reason, sentence) = end_of_deployment(index, exit, record);
            self.fail(reason, sentence);
        } else if !record.ended {
            record.not_before = Some(later(now, record.crashes.count(was_up)));
        }
    }

    /// Something went wrong with a check or a pull: while a task is open it fails, else it is tried again later.
    pub fn unprepared(&mut self, reason: FailureReason, message: String, now: Timestamp) {
        if self.is_deploying() {
            self.fail(reason, message);
        } else {
            self.lose_image(reason);
            self.try_later(now);
        }
    }

    /// Something went wrong with a container that is not its end: while a task is open for its revision that fails, else it is
    /// tried again later.
    pub fn stumbled(&mut self, reason: FailureReason, message: String, now: Timestamp) {
        if self.is_deploying() && !self.runs_proven() {
            self.fail(reason, message);
        } else {
            self.lose_image(reason);
            self.try_later(now);
        }
    }

    /// Takes note that the image of what shall run is not here any more, if that is what went wrong.
    fn lose_image(&mut self, reason: FailureReason) {
        if !matches!(reason, FailureReason::ImageNotFound | FailureReason::ImageInvalid) {
            return;
        }
        let side = self.target_side();
        let lost = self.prepared_mut(side).take();
        // The same image is fetched again: a tag that has moved changes nothing that runs. Where there is no such image any
        // more, the app takes what its tag means now. An update under way goes first.
        if side == self.prepared_side() {
            self.resolved = lost.map(|prepared| prepared.image);
        }
    }

    /// What is known could not be written down: an open task fails.
    pub fn unwritten(&mut self, reason: FailureReason, message: String) {
        if self.is_deploying() {
            self.fail(reason, message);
        }
    }

    /// A removal did not work.
    pub fn try_later(&mut self, now: Timestamp) {
        self.stumbles = self.stumbles.saturating_add(1);
        self.not_before = Some(later(now, backoff::RESTART.delay(self.stumbles)));
    }

    fn fail(&mut self, reason: FailureReason, message: String) {
        let step = if self.step == TaskState::Assigned { TaskState::Checking } else { self.step };
        self.entry.failure.get_or_insert(Failure::new(reason, &message, step));
        self.resolved = None;
        self.align();
    }

    /// Moves the attempt's state forward; returns whether it did.
    pub fn reach(&mut self, step: TaskState) -> bool {
        // What is done to the containers of the revision before is no step of the task.
        let is_of_update = step.rank() <= TaskState::Pulling.rank() || !self.runs_proven();
        let is_news = self.is_deploying() && is_of_update && step.rank() > self.step.rank();
        if is_news {
            self.step = step;
        }
        is_news
    }

    /// Records how the attempt ended.
    pub fn conclude(&mut self, state: TaskState, failure: Option<Failure>) -> TaskReport {
        let Assignment { job, attempt, .. } = &self.entry.assignment;
        let report = TaskReport { job: job.clone(), attempt: *attempt, state, pull: None, failure };
        self.entry.outcome = Some(Outcome { report: report.clone(), acknowledged: false });
        self.entry.failure = None;
        self.step = state;
        if let Some(proven) = self.entry.proven.as_ref().filter(|_| state != TaskState::Succeeded) {
            self.entry.ports.clone_from(&proven.ports);
        }
        self.align();
        report
    }

    /// The end could not be written down: it does not count.
    pub fn unconcluded(&mut self, reason: FailureReason, message: String) {
        self.entry.outcome = None;
        self.step = TaskState::Settling;
        self.align();
        self.unwritten(reason, message);
    }

    /// Nothing of the app is here any more.
    pub fn torn_down(&mut self) {
        self.entry.ports.clear();
        self.entry.accelerators.clear();
        self.entry.prepared = None;
        self.entry.proven = None;
        self.align();
        for record in &mut self.entry.instances {
            record.live = false;
        }
        self.progressed();
        if self.entry.wish == Wish::Absent {
            self.entry.wish = Wish::Gone;
        }
    }
}

/// Whether an instance's last end is a success: by itself, with exit code 0, where the policy lets a container end.
fn has_ended_well(policy: RestartPolicy, record: &Record) -> bool {
    let is_well = |exit: InstanceExit| exit.code == 0 && !exit.out_of_memory;
    policy != RestartPolicy::Always && record.last_exit_reason.is_none() && record.last_exit.is_some_and(is_well)
}

/// Why an instance was ended that a liveness probe has found dead.
fn death_sentence(answer: &str) -> String {
    format!("liveness probe failed: {answer}")
}

/// Why a deployment fails with this end of an instance.
fn end_of_deployment(index: u32, exit: InstanceExit, record: &Record) -> (FailureReason, String) {
    let times =
        if record.starts == 1 { "its only start".to_owned() } else { format!("the last of {} starts", record.starts) };
    if let Some(why) = &record.last_exit_reason {
        let sentence = format!("Instance {index} was stopped, at {times}, before the app was healthy: {why}.");
        (FailureReason::LivenessProbeFailed, sentence)
    } else if exit.out_of_memory {
        let sentence =
            format!("Instance {index} passed its memory limit and was killed, at {times}, before the app was healthy.");
        (FailureReason::OutOfMemory, sentence)
    } else {
        let code = exit.code;
        let sentence = format!("Instance {index} ended with exit code {code}, at {times}, before the app was healthy.");
        (FailureReason::ContainerExited, sentence)
    }
}

#[cfg(test)]
mod tests;
